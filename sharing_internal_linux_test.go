package backup

import (
	"os"
	"testing"

	"github.com/spf13/afero"
	"golang.org/x/sys/unix"
)

// Of a file system that is not known, nothing is believed: neither its times,
// nor that one sync of all of it is one.
func TestUnknownFileSystemIsNotTrusted(t *testing.T) {
	d, err := openDir(afero.NewOsFs(), "/proc")
	if err != nil {
		t.Skip("no /proc: ", err)
	}
	defer d.close()
	if d.tellsChanges() {
		t.Error("its times are believed")
	}
	if err := d.beginBatch(1000); err != nil || d.batch != nil {
		t.Errorf("its files are synced all at once, %v", err)
	}
}

// On tmpfs, what is written through a mapping leaves the times as they are, also
// when it is synced.
func TestTimesOfTmpfsAreNotTrusted(t *testing.T) {
	const shm = "/dev/shm"
	var st unix.Statfs_t
	if err := unix.Statfs(shm, &st); err != nil || uint32(st.Type) != unix.TMPFS_MAGIC {
		t.Skipf("no tmpfs at %s: %v", shm, err)
	}
	base, err := os.MkdirTemp(shm, "")
	if err != nil {
		t.Skip(err)
	}
	defer os.RemoveAll(base)
	d, err := openDir(afero.NewOsFs(), base)
	if err != nil {
		t.Fatal(err)
	}
	defer d.close()
	if d.tellsChanges() {
		t.Error("its times are believed")
	}
}
