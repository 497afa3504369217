package backup

import (
	"bytes"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/spf13/afero"
	"golang.org/x/sys/unix"

	"github.com/atocore/backup/internal/aferovfs"
)

// The fast ways give what the slow ones do, and so would their loss: that they
// are taken has to be seen.

func TestKernelCopiesWhatIsNotHashed(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "from"), make([]byte, copyBuffer), 0o600); err != nil {
		t.Fatal(err)
	}
	from, err := os.Open(filepath.Join(dir, "from"))
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	to, err := os.Create(filepath.Join(dir, "to"))
	if err != nil {
		t.Fatal(err)
	}
	defer to.Close()
	if n := copyRange(to, from, copyBuffer); n == 0 {
		t.Error("nothing was copied by copy_file_range(2)")
	}
}

func TestManyFilesAreSyncedAtOnce(t *testing.T) {
	d, err := openDir(afero.NewOsFs(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer d.close()
	known := append(slices.Clone(diskFileSystems), unix.TMPFS_MAGIC)
	if !isKernel(5, 8) || !slices.Contains(known, d.fileSystem()) {
		t.Skipf("not with this kernel, or on a file system of type %#x", d.fileSystem())
	}
	for files, atOnce := range map[int]bool{batchFiles - 1: false, batchFiles: true} {
		if err := d.beginBatch(files); err != nil {
			t.Fatal(err)
		}
		if got := d.batch != nil; got != atOnce {
			t.Errorf("%d files: one sync for all: %v, want %v", files, got, atOnce)
		}
		d.dropBatch()
	}
}

func TestLargeFilesAreHashedBesideTheCopy(t *testing.T) {
	for size, beside := range map[int64]bool{copyBuffer - 1: false, copyBuffer: true} {
		h := newHashBeside(size)
		if got := h.queue != nil; got != beside {
			t.Errorf("%d bytes: beside: %v, want %v", size, got, beside)
		}
		h.end()
	}
}

func TestChecksHaveACache(t *testing.T) {
	vfsName, release := aferovfs.RegisterReader(t.Context(), bytes.NewReader(nil), 0)
	f := &finishedCopy{ctx: t.Context(), crew: newCrew(2), uri: fileURI(aferovfs.DB, url.Values{"vfs": {vfsName}})}
	c, err := f.open(release)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	const want = -checkCache / 2 >> 10 // KB, of each of two connections
	if got, err := queryInt(c, "PRAGMA cache_size"); got != want || err != nil {
		t.Errorf("cache_size %d, %v; want %d", got, err, want)
	}
}
