//go:build !linux

package measured

func usage() Report { return Report{Written: -1} }
