package backup

import "github.com/spf13/afero"

// ClonesIn reports whether copies within a directory of the operating system's are
// clones.
func ClonesIn(path string) (bool, error) {
	d, err := openDir(afero.NewOsFs(), path)
	if err != nil {
		return false, err
	}
	defer d.close()
	return d.cloning() == clonesAlways, nil
}
