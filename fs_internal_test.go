package backup

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/spf13/afero"
)

// What takes a directory's name between the look at it and its opening is not
// taken for it: a link to one beside it, which [os.Root] would follow, above
// all.
func TestDirectoryThatIsReplacedIsNotOpened(t *testing.T) {
	for name, replace := range map[string]func(p, other string) error{
		"by_a_link":      func(p, other string) error { return os.Symlink(filepath.Base(other), p) },
		"by_a_directory": func(p, other string) error { return os.Rename(other, p) },
	} {
		t.Run(name, func(t *testing.T) {
			base := t.TempDir()
			p, other := filepath.Join(base, "d"), filepath.Join(base, "other")
			if err := errors.Join(os.Mkdir(p, 0o700), os.Mkdir(other, 0o700)); err != nil {
				t.Fatal(err)
			}
			d, err := openDir(afero.NewOsFs(), base)
			if err != nil {
				t.Fatal(err)
			}
			defer d.close()
			fi, err := d.lstat("d")
			if err := errors.Join(err, os.Rename(p, p+".away"), replace(p, other)); err != nil {
				t.Skipf("no such thing here: %v", err)
			}
			if _, err := d.subAt("d", fi); !errors.Is(err, syscall.ENOTDIR) {
				t.Errorf("got %v, want %v", err, syscall.ENOTDIR)
			}
		})
	}
}
