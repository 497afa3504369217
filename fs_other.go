//go:build !unix

package backup

const (
	oNonblock        = 0
	syncsDirectories = false // a directory handle cannot be flushed
)

// device returns nil: there is no telling.
func (fi fileInfo) device() any { return nil }

// chown does nothing: who creates a file owns it.
func (d *dir) chown(string, fileInfo) error { return nil }
