package backup

import (
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"github.com/spf13/afero"
	"golang.org/x/sys/unix"
)

// What is asked of the system directly is what package os says of it.
func TestWhatLiesInADirectoryIsWhatPackageOSSays(t *testing.T) {
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
	for _, name := range names {
		sys, err := os.Lstat(at(name))
		do(err)
		got, done, err := d.tryLstat(name)
		if want := newFileInfo(sys); !done || err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, %v, %v, want %+v", name, got, done, err, want)
		}
	}
	f, done, err := d.tryOpen("file", os.O_RDONLY, 0)
	if !done || err != nil {
		t.Fatal(done, err)
	}
	defer f.Close()
	got, err := statFile(f)
	do(err)
	sys, err := f.Stat()
	do(err)
	if want := newFileInfo(sys); !reflect.DeepEqual(got, want) {
		t.Errorf("opened: %+v, want %+v", got, want)
	}
	if f.Name() != at("file") {
		t.Errorf("it is called %s, want %s", f.Name(), at("file"))
	}
}

// A link is not followed, and what is elsewhere is left to package os.
func TestOnlyWhatLiesInADirectoryIsOpenedThere(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("file", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	d, err := openDir(afero.NewOsFs(), dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.close()
	if f, done, err := d.tryOpen("link", os.O_RDONLY, 0); !done || err == nil {
		t.Errorf("a link was opened: %v, %v", f, done)
	}
	for _, name := range []string{".", "..", "sub/file", "../" + filepath.Base(dir) + "/file"} {
		if _, done, _ := d.tryLstat(name); done {
			t.Errorf("%s was looked at", name)
		}
		if f, done, _ := d.tryOpen(name, os.O_RDONLY, 0); done {
			t.Errorf("%s was opened: %v", name, f)
		}
	}
}
