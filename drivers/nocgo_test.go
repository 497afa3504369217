//go:build !cgo

package drivers

// mattn has nothing: that driver is C.
var mattn []driver
