//go:build !cgo || modernc

package main

import _ "modernc.org/sqlite"

const driverName = "sqlite"
