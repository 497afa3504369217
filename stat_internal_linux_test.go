package backup

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/spf13/afero"
	"golang.org/x/sys/unix"
)

// What is asked of the system directly is what package os says of it.
func TestTheSystemSaysWhatPackageOSSays(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	do := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	do(os.WriteFile(at("file"), []byte("1234567"), 0o640))
	do(os.Chtimes(at("file"), time.Unix(1, 2), time.Unix(1_700_000_000, 123_456_789)))
	do(os.WriteFile(at("setuid"), nil, 0o600))
	do(os.Chmod(at("setuid"), 0o755|fs.ModeSetuid|fs.ModeSetgid))
	do(os.Mkdir(at("dir"), 0o700))
	do(os.Chmod(at("dir"), 0o777|fs.ModeSticky))
	do(os.Symlink("nowhere", at("link")))
	do(unix.Mkfifo(at("pipe"), 0o600))
	socket, err := net.Listen("unix", at("socket"))
	do(err)
	defer socket.Close()
	names := []string{"file", "setuid", "dir", "link", "pipe", "socket"}
	if os.Getuid() == 0 && unix.Mknod(at("device"), unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))) == nil {
		names = append(names, "device")
	}
	d, err := openDir(afero.NewOsFs(), dir)
	do(err)
	defer d.close()
	open, err := d.fs.Open(".")
	do(err)
	defer open.Close()
	for _, name := range names {
		sys, err := os.Lstat(at(name))
		do(err)
		got, err := d.lstatIn(open, ".", name)
		if want := newFileInfo(sys); err != nil || got != want {
			t.Errorf("%s: %+v, %v, want %+v", name, got, err, want)
		}
	}
	f, err := os.Open(at("file"))
	do(err)
	defer f.Close()
	got, err := statFile(f)
	do(err)
	sys, err := f.Stat()
	do(err)
	if want := newFileInfo(sys); got != want {
		t.Errorf("opened: %+v, want %+v", got, want)
	}
}

// A pipe that takes the name of a directory is not waited for.
func TestPipeInTheNameOfADirectory(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "name")
	if err := os.Mkdir(name, 0o700); err != nil {
		t.Fatal(err)
	}
	d, err := openDir(afero.NewOsFs(), dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.close()
	seen, err := d.lstat("name")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Remove(name), unix.Mkfifo(name, 0o600)); err != nil {
		t.Fatal(err)
	}
	if sub, err := d.subAt("name", seen); !errors.Is(err, unix.ENOTDIR) {
		t.Errorf("%v, %v, want %v", sub, err, unix.ENOTDIR)
	}
}
