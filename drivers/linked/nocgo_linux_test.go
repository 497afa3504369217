//go:build !cgo

package linked

const haveCgo = false
