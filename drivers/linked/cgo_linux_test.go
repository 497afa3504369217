//go:build cgo

package linked

const haveCgo = true
