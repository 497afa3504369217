//go:build !unix

package crashfs

// Sys returns nil: what package os returns here has neither inode nor change
// time.
func (i fileInfo) Sys() any { return nil }
