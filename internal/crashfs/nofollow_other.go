//go:build !unix

package crashfs

const oNoFollow = 0 // no such flag
