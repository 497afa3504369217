//go:build !linux

package backup

import (
	"errors"
	"os"
)

const oNoatime = 0 // there is no such flag

// timesTellChanges reports that nothing is known of the file system.
func (d *dir) timesTellChanges() bool { return false }

// nativeVolume returns "": it is not known.
func (d *dir) nativeVolume() string { return "" }

// bootID returns "": it is not known.
func bootID() string { return "" }

// linkNative links nothing: nothing is known to be unchanged here.
func linkNative(from, to place) error {
	return &os.LinkError{Op: "link", Old: from.full(), New: to.full(), Err: errors.ErrUnsupported}
}
