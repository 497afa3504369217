package measured

import (
	"errors"
	"os"
	"path/filepath"
)

// SyncFile makes a file and its name durable, for those that do not do so
// themselves.
func SyncFile(path string) error {
	for _, p := range []string{path, filepath.Dir(path)} {
		f, err := os.Open(p)
		if err != nil {
			return err
		}
		if err := errors.Join(f.Sync(), f.Close()); err != nil {
			return err
		}
	}
	return nil
}
