//go:build !linux

package backup

import (
	"io"

	"github.com/spf13/afero"
)

// cloning reports that files cannot be clones.
func (d *dir) cloning() cloning { return clonesNever }

// cloneFile clones nothing. (What macOS has, clonefile(2), makes a new file,
// and takes a path for it.)
func cloneFile(afero.File, io.ReaderAt, int64) (bool, error) { return false, nil }
