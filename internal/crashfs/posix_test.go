package crashfs_test

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	stdsync "sync"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/afero"

	"github.com/atocore/backup/internal/crashfs"
)

// populated has something of every type.
func populated(t *testing.T) *crashfs.FS {
	t.Helper()
	fsys := built(t, "file", "content", "dir/file", "x", "empty/")
	for _, l := range [][2]string{
		{"file", "link"}, {"dir", "dirlink"}, {"missing", "dangling"}, {"loop", "loop"}, {"../file", "dir/up"},
	} {
		check(t, fsys.SymlinkIfPossible(l[0], l[1]))
	}
	return fsys.Clone()
}

func TestErrors(t *testing.T) {
	type FS = *crashfs.FS
	open := func(name string, flag int) func(FS) error {
		return func(fsys FS) error {
			_, err := fsys.OpenFile(name, flag, 0o644)
			return err
		}
	}
	remove := func(name string) func(FS) error { return func(fsys FS) error { return fsys.Remove(name) } }
	mkdir := func(name string) func(FS) error { return func(fsys FS) error { return fsys.Mkdir(name, 0o755) } }
	rename := func(from, to string) func(FS) error { return func(fsys FS) error { return fsys.Rename(from, to) } }
	on := func(name string, flag int, do func(afero.File) error) func(FS) error {
		return func(fsys FS) error {
			f, err := fsys.OpenFile(name, flag, 0)
			if err != nil {
				return err
			}
			return do(f)
		}
	}
	link := func(from, to string) func(FS) error {
		return func(fsys FS) error { return fsys.LinkIfPossible(from, to) }
	}
	readOnly := func(do func(FS) error) func(FS) error {
		return func(fsys FS) error { fsys.MountReadOnly(); return do(fsys) }
	}
	long := strings.Repeat("n", 256)

	for _, c := range []struct {
		name string
		do   func(FS) error
		want error
	}{
		{"open_missing", open("missing", os.O_RDONLY), syscall.ENOENT},
		{"open_missing_parent", open("missing/a", os.O_CREATE), syscall.ENOENT},
		{"open_empty_path", open("", os.O_RDONLY), syscall.ENOENT},
		{"open_nul", open("a\x00b", os.O_RDONLY), syscall.EINVAL},
		{"open_long_name", open(long, os.O_CREATE), syscall.ENAMETOOLONG},
		{"open_below_file", open("file/a", os.O_RDONLY), syscall.ENOTDIR},
		{"open_file_with_slash", open("file/", os.O_RDONLY), syscall.ENOTDIR},
		{"open_create_with_slash", open("new/", os.O_CREATE), syscall.EISDIR},
		{"open_dir_for_writing", open("dir", os.O_RDWR), syscall.EISDIR},
		{"open_dir_create", open("dir", os.O_CREATE), syscall.EISDIR},
		{"open_exclusive_existing", open("file", os.O_CREATE|os.O_EXCL|os.O_WRONLY), syscall.EEXIST},
		{"open_exclusive_dangling_link", open("dangling", os.O_CREATE|os.O_EXCL|os.O_WRONLY), syscall.EEXIST},
		{"open_loop", open("loop", os.O_RDONLY), syscall.ELOOP},
		{"open_through_loop", open("loop/a", os.O_RDONLY), syscall.ELOOP},
		{"open_dangling", open("dangling", os.O_RDONLY), syscall.ENOENT},
		{"create_read_only", readOnly(open("new", os.O_CREATE)), syscall.EROFS},
		{"open_writable_read_only", readOnly(open("file", os.O_WRONLY)), syscall.EROFS},
		{"open_readable_read_only", readOnly(open("file", os.O_RDONLY|os.O_CREATE)), nil},

		{"mkdir_existing", mkdir("dir"), syscall.EEXIST},
		{"mkdir_over_file", mkdir("file"), syscall.EEXIST},
		{"mkdir_root", mkdir("/"), syscall.EEXIST},
		{"mkdir_missing_parent", mkdir("missing/a"), syscall.ENOENT},
		{"mkdir_read_only", readOnly(mkdir("new")), syscall.EROFS},
		{"mkdirall_existing", func(fsys FS) error { return fsys.MkdirAll("dir", 0o755) }, nil},
		{"mkdirall_below_file", func(fsys FS) error { return fsys.MkdirAll("file/a", 0o755) }, syscall.ENOTDIR},

		{"remove_missing", remove("missing"), syscall.ENOENT},
		{"remove_full_dir", remove("dir"), syscall.ENOTEMPTY},
		{"remove_empty_dir", remove("empty"), nil},
		{"remove_link_not_target", remove("loop"), nil},
		{"remove_below_file", remove("file/a"), syscall.ENOTDIR},
		{"remove_root", remove("/"), syscall.EBUSY},
		{"remove_dot", remove("dir/."), syscall.EINVAL},
		{"remove_read_only", readOnly(remove("file")), syscall.EROFS},
		{"removeall_missing", func(fsys FS) error { return fsys.RemoveAll("missing/x") }, nil},
		{"removeall_below_file", func(fsys FS) error { return fsys.RemoveAll("file/x") }, syscall.ENOTDIR},
		{"removeall_dot", func(fsys FS) error { return fsys.RemoveAll("dir/.") }, syscall.EINVAL},

		{"rename_missing", rename("missing", "a"), syscall.ENOENT},
		{"rename_to_missing_parent", rename("file", "missing/a"), syscall.ENOENT},
		{"rename_file_to_file", rename("file", "dir/file"), nil},
		{"rename_file_to_itself", rename("file", "file"), nil},
		{"rename_dir_to_file", rename("dir", "file"), syscall.ENOTDIR},
		{"rename_anything_to_dir", rename("dir", "empty"), syscall.EEXIST},
		{"rename_into_itself", rename("dir", "dir/sub"), syscall.EINVAL},
		{"rename_file_to_slash", rename("file", "new/"), syscall.ENOTDIR},
		{"rename_root", rename("/", "new"), syscall.EBUSY},
		{"rename_read_only", readOnly(rename("file", "new")), syscall.EROFS},

		{"link_file", link("file", "dir/new"), nil},
		{"link_symlink_not_target", link("loop", "new"), nil},
		{"link_dangling", link("dangling", "new"), nil},
		{"link_missing", link("missing", "new"), syscall.ENOENT},
		{"link_missing_over_existing", link("missing", "file"), syscall.ENOENT},
		{"link_empty_path", link("", "new"), syscall.ENOENT},
		{"link_to_empty_path", link("file", ""), syscall.ENOENT},
		{"link_file_with_slash", link("file/", "new"), syscall.ENOTDIR},
		{"link_dangling_with_slash", link("dangling/", "new"), syscall.ENOENT},
		{"link_directory", link("dir", "new"), syscall.EPERM},
		{"link_directory_through_symlink", link("dirlink/", "new"), syscall.EPERM},
		{"link_root", link("/", "new"), syscall.EPERM},
		{"link_to_missing_parent", link("file", "missing/new"), syscall.ENOENT},
		{"link_to_name_with_slash", link("file", "new/"), syscall.ENOENT},
		{"link_to_long_name", link("file", long), syscall.ENAMETOOLONG},
		{"link_to_existing", link("file", "dir/file"), syscall.EEXIST},
		{"link_to_itself", link("file", "file"), syscall.EEXIST},
		{"link_to_directory", link("file", "empty"), syscall.EEXIST},
		{"link_directory_to_existing", link("dir", "file"), syscall.EEXIST},
		{"link_to_dangling", link("file", "dangling"), syscall.EEXIST},
		{"link_to_root", link("file", "/"), syscall.EEXIST},
		{"link_read_only", readOnly(link("file", "new")), syscall.EROFS},
		{"link_read_only_existing", readOnly(link("file", "dir/file")), syscall.EEXIST},

		{"symlink_existing", func(fsys FS) error { return fsys.SymlinkIfPossible("x", "file") }, syscall.EEXIST},
		{"symlink_to_nothing", func(fsys FS) error { return fsys.SymlinkIfPossible("", "new") }, syscall.ENOENT},
		{"readlink_of_file", func(fsys FS) error { _, err := fsys.ReadlinkIfPossible("file"); return err }, syscall.EINVAL},
		{"stat_dangling", func(fsys FS) error { _, err := fsys.Stat("dangling"); return err }, syscall.ENOENT},
		{"lstat_dangling", func(fsys FS) error { _, _, err := fsys.LstatIfPossible("dangling"); return err }, nil},
		{"chmod_missing", func(fsys FS) error { return fsys.Chmod("missing", 0o600) }, syscall.ENOENT},
		{"chown", func(fsys FS) error { return fsys.Chown("file", 1, 1) }, nil},

		{"read_write_only", on("file", os.O_WRONLY, func(f afero.File) error { _, err := f.Read(make([]byte, 1)); return err }), syscall.EBADF},
		{"write_read_only_handle", on("file", os.O_RDONLY, func(f afero.File) error { _, err := f.WriteString("x"); return err }), syscall.EBADF},
		{"truncate_read_only_handle", on("file", os.O_RDONLY, func(f afero.File) error { return f.Truncate(0) }), syscall.EINVAL},
		{"truncate_negative", on("file", os.O_RDWR, func(f afero.File) error { return f.Truncate(-1) }), syscall.EINVAL},
		{"seek_negative", on("file", os.O_RDWR, func(f afero.File) error { _, err := f.Seek(-1, io.SeekStart); return err }), syscall.EINVAL},
		{"write_too_far", on("file", os.O_RDWR, func(f afero.File) error { _, err := f.WriteAt([]byte("x"), 1<<60); return err }), syscall.EFBIG},
		{"read_dir", on("dir", os.O_RDONLY, func(f afero.File) error { _, err := f.Read(make([]byte, 1)); return err }), syscall.EISDIR},
		{"readdir_file", on("file", os.O_RDONLY, func(f afero.File) error { _, err := f.Readdirnames(-1); return err }), syscall.ENOTDIR},
		{"write_closed", on("file", os.O_RDWR, func(f afero.File) error { _ = f.Close(); _, err := f.WriteString("x"); return err }), fs.ErrClosed},
		{"close_closed", on("file", os.O_RDWR, func(f afero.File) error { _ = f.Close(); return f.Close() }), fs.ErrClosed},
	} {
		t.Run(c.name, func(t *testing.T) {
			fsys := populated(t)
			before := dump(t, fsys, "/")
			err := c.do(fsys)
			checkIs(t, err, c.want)
			if err == nil {
				return
			}
			var p *fs.PathError
			var l *os.LinkError
			if !errors.As(err, &p) && !errors.As(err, &l) {
				t.Errorf("%T is neither *fs.PathError nor *os.LinkError", err)
			}
			if diff := cmp.Diff(dump(t, fsys, "/"), before); diff != "" {
				t.Errorf("failed, and changed something (-got +want):\n%s", diff)
			}
		})
	}
}

func TestRawRename(t *testing.T) {
	for _, c := range []struct {
		from, to string
		want     error
	}{
		{"dir", "empty", nil},
		{"empty", "dir", syscall.ENOTEMPTY},
		{"file", "empty", syscall.EISDIR},
		{"dir", "dir", nil},
		{"dir/sub", "dir", syscall.ENOTEMPTY},
	} {
		fsys := crashfs.New(crashfs.Options{RawRename: true})
		check(t, fsys.MkdirAll("dir/sub", 0o755))
		check(t, fsys.Mkdir("empty", 0o755))
		write(t, fsys, "file", "")
		if err := fsys.Rename(c.from, c.to); !errors.Is(err, c.want) {
			t.Errorf("rename %s to %s: %v, want %v", c.from, c.to, err, c.want)
		}
	}
}

func TestSymlinks(t *testing.T) {
	fsys := populated(t)
	for name, want := range map[string]string{
		"link": "content", "dirlink/file": "x", "dir/up": "content", "dirlink/up": "content",
		"dirlink/../file": "content", "/../file": "content", "./dir//file": "x",
	} {
		got, err := afero.ReadFile(fsys, name)
		if err != nil || string(got) != want {
			t.Errorf("%s: %q, %v, want %q", name, got, err, want)
		}
	}
	write(t, fsys, "dangling", "made")
	if got := texts(t, fsys)["missing"]; got != "made" {
		t.Errorf("written through a dangling link: %q", got)
	}
	target, err := fsys.ReadlinkIfPossible("dir/up")
	if err != nil || target != "../file" {
		t.Errorf("readlink: %q, %v", target, err)
	}
}

func TestLinks(t *testing.T) {
	fsys := built(t, "a", "1", "d/")
	check(t, fsys.LinkIfPossible("a", "d/b"))
	write(t, fsys, "a", "22")
	checkTexts(t, fsys, files{"a": "22", "d": "/", "d/b": "22"})
	check(t, fsys.Rename("a", "d/b")) // leaves both
	checkTexts(t, fsys, files{"a": "22", "d": "/", "d/b": "22"})
	checkLinks(t, fsys, "a", 2)
	check(t, fsys.Rename("d/b", "c"))
	checkLinks(t, fsys, "a", 2)
	write(t, fsys, "d/b", "other")
	check(t, fsys.Rename("d/b", "a"))
	checkLinks(t, fsys, "c", 1)
	checkTexts(t, fsys, files{"a": "other", "c": "22", "d": "/"})

	f := open(t, fsys, "c", os.O_RDONLY)
	check(t, fsys.Remove("c"))
	info, err := f.Stat()
	check(t, err)
	if n := crashfs.LinksOf(info); n != 0 {
		t.Errorf("%d names of a removed file", n)
	}
}

func checkLinks(t *testing.T, fsys *crashfs.FS, name string, want int) {
	t.Helper()
	info, err := fsys.Stat(name)
	check(t, err)
	if n := crashfs.LinksOf(info); n != want {
		t.Errorf("%s has %d names, want %d", name, n, want)
	}
}

func TestHandleSurvives(t *testing.T) {
	content := func(f afero.File) string {
		t.Helper()
		_, err := f.Seek(0, io.SeekStart)
		check(t, err)
		b, err := io.ReadAll(f)
		check(t, err)
		return string(b)
	}
	fsys := built(t, "a", "1", "b", "2")
	a, b := open(t, fsys, "a", os.O_RDWR), open(t, fsys, "b", os.O_RDWR)
	check(t, fsys.Rename("a", "b"))
	_, err := b.WriteAt([]byte("gone"), 0)
	check(t, err)
	_, err = a.WriteAt([]byte("here"), 0)
	check(t, err)
	checkTexts(t, fsys, files{"b": "here"})
	check(t, fsys.Remove("b"))
	checkTexts(t, fsys, files{})
	if content(a) != "here" || content(b) != "gone" {
		t.Errorf("read %q and %q", content(a), content(b))
	}
}

func TestFile(t *testing.T) {
	t.Run("reader", func(t *testing.T) {
		content := strings.Repeat("0123456789", 1000)
		f := open(t, built(t, "a", content), "a", os.O_RDONLY)
		check(t, iotest.TestReader(f, []byte(content)))
	})
	t.Run("append", func(t *testing.T) {
		fsys := built(t, "a", "1")
		f := open(t, fsys, "a", os.O_RDWR|os.O_APPEND)
		write(t, fsys, "a", "123")
		_, err := f.WriteString("4")
		check(t, err)
		checkTexts(t, fsys, files{"a": "1234"})
		if _, err := f.WriteAt([]byte("x"), 0); err == nil {
			t.Error("WriteAt with O_APPEND: no error")
		}
	})
	t.Run("holes_and_truncation", func(t *testing.T) {
		fsys := built(t, "a", strings.Repeat("x", 5000))
		f := open(t, fsys, "a", os.O_RDWR)
		check(t, f.Truncate(3))
		_, err := f.WriteAt([]byte("y"), 9000)
		check(t, err)
		checkTexts(t, fsys, files{"a": "xxx" + strings.Repeat("\x00", 8997) + "y"})
	})
	t.Run("read_at_end", func(t *testing.T) {
		f := open(t, built(t, "a", "12"), "a", os.O_RDONLY)
		p := make([]byte, 3)
		n, err := f.ReadAt(p, 1)
		if n != 1 || err != io.EOF {
			t.Errorf("%d, %v", n, err)
		}
		if n, err := f.ReadAt(p, 2); n != 0 || err != io.EOF {
			t.Errorf("%d, %v", n, err)
		}
	})
	t.Run("readdir", func(t *testing.T) {
		fsys := built(t, "c", "", "a", "", "b/", "d", "")
		f := open(t, fsys, "/", os.O_RDONLY)
		names, err := f.Readdirnames(2)
		if diff := cmp.Diff(names, []string{"a", "b"}); diff != "" || err != nil {
			t.Errorf("%v (-got +want):\n%s", err, diff)
		}
		check(t, fsys.Remove("c"))
		entries, err := f.(fs.ReadDirFile).ReadDir(-1)
		if err != nil || len(entries) != 1 || entries[0].Name() != "d" {
			t.Errorf("%v, %v", entries, err)
		}
		if _, err := f.Readdir(1); err != io.EOF {
			t.Errorf("at the end: %v", err)
		}
	})
}

func TestClock(t *testing.T) {
	now := time.Date(2026, 4, 6, 18, 0, 0, 0, time.UTC)
	fsys := crashfs.New(crashfs.Options{Now: func() time.Time { return now }})
	write(t, fsys, "a", "1")
	before, err := fsys.Stat("a")
	check(t, err)
	now = now.Add(time.Hour)
	write(t, fsys, "a", "2")
	after, err := fsys.Stat("a")
	check(t, err)
	if d := after.ModTime().Sub(before.ModTime()); d != time.Hour {
		t.Errorf("mtime moved by %v", d)
	}
}

func TestCapacity(t *testing.T) {
	fsys := built(t, "a", "12345")
	if _, err := fsys.Free("/"); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("without capacity: %v", err)
	}
	fsys.SetCapacity(10)
	f := open(t, fsys, "b", os.O_CREATE|os.O_RDWR)
	n, err := f.WriteString("1234567")
	if n != 5 || !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("wrote %d, %v", n, err)
	}
	checkIs(t, f.Truncate(6), syscall.ENOSPC)
	checkFree := func(want int64) {
		t.Helper()
		if free, err := fsys.Free("/"); err != nil || free != want {
			t.Errorf("free %d, %v, want %d", free, err, want)
		}
	}
	checkFree(0)
	check(t, fsys.Remove("b"))
	checkFree(0) // the handle keeps it
	check(t, f.Close())
	checkFree(5)
	fsys = fsys.Clone()
	checkFree(5)

	check(t, fsys.LinkIfPossible("a", "b"))
	checkFree(5)
	fsys = fsys.Clone()
	checkFree(5)
	f = open(t, fsys, "b", os.O_RDWR)
	_, err = f.WriteString("1234567")
	check(t, err)
	checkFree(3)
	check(t, fsys.Remove("a"))
	checkFree(3) // the other name keeps it
	write(t, fsys, "c", "")
	check(t, fsys.Rename("c", "b"))
	checkFree(3) // the handle keeps it
	check(t, f.Close())
	checkFree(10)
}

func TestCloneIsLikeIt(t *testing.T) {
	fsys := built(t, "a", "1")
	fsys.SetCapacity(10)
	check(t, fsys.SetMount("a"))
	fsys.MountReadOnly()
	c := fsys.Clone()
	checkIs(t, c.Remove("a"), syscall.EBUSY)
	checkIs(t, c.Mkdir("d", 0o755), syscall.EROFS)
	c.MountWritable()
	check(t, c.Mkdir("d", 0o755))
	if free, err := c.Free("/"); err != nil || free != 9 {
		t.Errorf("free %d, %v", free, err)
	}
	if len(fsys.Log()) > 0 || len(c.Log()) != 4 {
		t.Errorf("logs: %v, %v", fsys.Log(), c.Log())
	}
}

func TestMount(t *testing.T) {
	fsys := built(t, "dir/a", "1", "file", "2", "other", "3")
	check(t, fsys.SetMount("dir"))
	check(t, fsys.SetMount("file"))
	fsys = fsys.Clone()
	checkIs(t, fsys.Rename("dir", "dir2"), syscall.EBUSY)
	checkIs(t, fsys.Rename("file", "file2"), syscall.EBUSY)
	checkIs(t, fsys.Rename("other", "file"), syscall.EBUSY)
	checkIs(t, fsys.Rename("other", "dir/other"), syscall.EXDEV)
	checkIs(t, fsys.Rename("dir/a", "a"), syscall.EXDEV)
	checkIs(t, fsys.Rename("dir/a", "dir/b"), nil)
	checkIs(t, fsys.LinkIfPossible("other", "dir/other"), syscall.EXDEV)
	checkIs(t, fsys.LinkIfPossible("dir/b", "b"), syscall.EXDEV)
	checkIs(t, fsys.LinkIfPossible("dir", "d2"), syscall.EXDEV)
	checkIs(t, fsys.LinkIfPossible("file", "file2"), syscall.EXDEV)
	checkIs(t, fsys.LinkIfPossible("dir/b", "dir/c"), nil)
	checkIs(t, fsys.Remove("dir/c"), nil)
	checkIs(t, fsys.Remove("file"), syscall.EBUSY)
	checkIs(t, fsys.RemoveAll("dir"), syscall.EBUSY)
	checkTexts(t, fsys, files{"dir": "/", "file": "2", "other": "3"})
	checkIs(t, fsys.SetMount("missing"), syscall.ENOENT)
}

func TestSameFile(t *testing.T) {
	fsys := populated(t)
	stat := func(name string) fs.FileInfo {
		t.Helper()
		info, err := fsys.Stat(name)
		check(t, err)
		return info
	}
	if !crashfs.SameFile(stat("file"), stat("dir/up")) {
		t.Error("a link and its target differ")
	}
	if crashfs.SameFile(stat("file"), stat("dir/file")) {
		t.Error("two files are one")
	}
	check(t, fsys.LinkIfPossible("file", "dir/hard"))
	if !crashfs.SameFile(stat("file"), stat("dir/hard")) {
		t.Error("two names of a file differ")
	}
}

func TestConcurrent(t *testing.T) {
	fsys := built(t, "shared", strings.Repeat("s", 10000))
	shared := open(t, fsys, "shared", os.O_RDWR)
	var wg stdsync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			dir := fmt.Sprintf("d%d", i)
			for range 50 {
				check(t, fsys.MkdirAll(dir+"/e", 0o755))
				write(t, fsys, dir+"/e/a", dir)
				sync(t, fsys, dir+"/e")
				_, err := shared.ReadAt(make([]byte, 9000), int64(i))
				check(t, err)
				_, err = shared.WriteAt([]byte{'t'}, int64(i*1000))
				check(t, err)
				left := fsys.CrashKeeping(lose)
				write(t, left, "shared", dir)
				check(t, fsys.RemoveAll(dir))
			}
		})
	}
	wg.Wait()
	if got := texts(t, fsys); len(got) != 1 {
		t.Errorf("left: %d entries", len(got))
	}
}
