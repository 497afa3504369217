package crashfs_test

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/afero"

	"github.com/atocore/backup/internal/crashfs"
)

// TestLikeLinux runs random scripts on a crashfs and on the file system of
// the machine, and compares what each step returns.
func TestLikeLinux(t *testing.T) {
	scripts := 100
	if testing.Short() {
		scripts = 20
	}
	for _, c := range []struct {
		name string
		opts crashfs.Options
		real afero.Fs
	}{
		{"os_rename", crashfs.Options{}, afero.NewOsFs()},
		{"raw_rename", crashfs.Options{RawRename: true}, rawRename{afero.NewOsFs().(linkingFs)}},
	} {
		t.Run(c.name, func(t *testing.T) {
			tmp := t.TempDir()
			for seed := range scripts {
				// Deep enough that no link leads out of it.
				dir := filepath.Join(tmp, fmt.Sprint(seed), "1/2/3/4")
				check(t, os.MkdirAll(dir, 0o755))
				simulated := crashfs.New(c.opts)
				check(t, simulated.MkdirAll(dir, 0o755))
				compareScripts(t, uint64(seed), dir, simulated, c.real)
				if t.Failed() {
					return
				}
			}
		})
	}
}

func compareScripts(t *testing.T, seed uint64, dir string, simulated, real afero.Fs) {
	a, b := newScript(seed, dir, simulated), newScript(seed, dir, real)
	defer a.close()
	defer b.close()
	for range 60 {
		got, want := a.step(), b.step()
		if diff := cmp.Diff(got, want); diff != "" {
			t.Errorf("seed %d, after\n\t%s\nresult (-crashfs +os):\n%s", seed, strings.Join(b.done, "\n\t"), diff)
			return
		}
	}
	if diff := cmp.Diff(dump(t, simulated, dir), dump(t, real, dir)); diff != "" {
		t.Errorf("seed %d: tree (-crashfs +os):\n%s", seed, diff)
	}
	if diff := cmp.Diff(firstNames(t, simulated, dir), firstNames(t, real, dir)); diff != "" {
		t.Errorf("seed %d: first name of the same inode (-crashfs +os):\n%s", seed, diff)
	}
}

// firstNames returns, of each path below dir, the first path of its inode.
func firstNames(t *testing.T, fsys afero.Fs, dir string) map[string]string {
	first, found := map[uint64]string{}, map[string]string{}
	walk(t, fsys, dir, func(name string, info fs.FileInfo) {
		ino := info.Sys().(*syscall.Stat_t).Ino
		if first[ino] == "" {
			first[ino] = name
		}
		found[name] = first[ino]
	})
	return found
}

type linkingFs interface {
	afero.Fs
	afero.Symlinker
}

// rawRename renames without what package os adds.
type rawRename struct{ linkingFs }

func (rawRename) Rename(oldname, newname string) error {
	if err := syscall.Rename(oldname, newname); err != nil {
		return &os.LinkError{Op: "rename", Old: oldname, New: newname, Err: err}
	}
	return nil
}

// A script is a random sequence of steps, the same for the same seed.
type script struct {
	*rand.Rand
	dir   string
	fsys  afero.Fs
	files [3]afero.File
	done  []string
}

func newScript(seed uint64, dir string, fsys afero.Fs) *script {
	return &script{Rand: rand.New(rand.NewPCG(seed, 0)), dir: dir, fsys: fsys}
}

func (s *script) close() {
	for _, f := range s.files {
		if f != nil {
			_ = f.Close()
		}
	}
}

// step takes a random step, and returns what it was and how it went.
func (s *script) step() string {
	steps := []func() string{
		s.openFile, s.openFile, s.openFile, s.mkdir, s.mkdirAll, s.remove, s.removeAll,
		s.rename, s.rename, s.rename, s.symlink, s.link, s.link, s.readlink, s.stat, s.chmod, s.chtimes,
		s.write, s.write, s.writeAt, s.read, s.readAt, s.truncate, s.seek,
		s.readdir, s.statFile, s.sync, s.closeFile,
	}
	line := steps[s.IntN(len(steps))]()
	s.done = append(s.done, line)
	return line
}

func (s *script) pick(of ...string) string { return of[s.IntN(len(of))] }

func (s *script) path() string {
	name := s.pick("a", "b", "c", "d")
	for s.IntN(2) == 0 {
		name = s.pick("a", "b", "c", "d", ".") + "/" + name
	}
	if s.IntN(20) == 0 {
		name += "/"
	}
	return s.dir + "/" + name
}

func (s *script) bytes() []byte {
	p := make([]byte, s.IntN(9000))
	for i := range p {
		p[i] = byte('a' + (i+len(p))%26)
	}
	return p
}

// file returns a random open file.
func (s *script) file() (i int, f afero.File) {
	i = s.IntN(len(s.files))
	return i, s.files[i]
}

// outcome is a line about a step. Of an error it has only what is comparable.
func outcome(err error, format string, args ...any) string {
	line := fmt.Sprintf(format, args...)
	var errno syscall.Errno
	switch {
	case err == nil:
		return line
	case errors.As(err, &errno):
		return fmt.Sprintf("%s: %s", line, errno)
	case errors.Is(err, fs.ErrClosed):
		return line + ": closed"
	case err == io.EOF:
		return line + ": end"
	}
	return line + ": error"
}

func (s *script) openFile() string {
	i, old := s.file()
	if old != nil {
		_ = old.Close()
		s.files[i] = nil
	}
	flag := []int{os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_RDWR}[s.IntN(4)]
	for _, f := range []int{os.O_CREATE, os.O_CREATE, os.O_EXCL, os.O_TRUNC, os.O_APPEND, syscall.O_NOFOLLOW} {
		if s.IntN(3) == 0 {
			flag |= f
		}
	}
	if flag&os.O_CREATE == 0 {
		flag &^= os.O_EXCL // undefined
	}
	name := s.path()
	if flag&os.O_CREATE != 0 {
		name = strings.TrimRight(name, "/") // Linux then asks no further what it is
	}
	f, err := s.fsys.OpenFile(name, flag, 0o644)
	if err == nil {
		s.files[i] = f
	}
	return outcome(err, "%d = open %s %#x", i, name, flag)
}

func (s *script) mkdir() string {
	name := s.path()
	return outcome(s.fsys.Mkdir(name, 0o755), "mkdir %s", name)
}

func (s *script) mkdirAll() string {
	name := s.path()
	return outcome(s.fsys.MkdirAll(name, 0o755), "mkdirall %s", name)
}

func (s *script) remove() string {
	name := s.path()
	return outcome(s.fsys.Remove(name), "remove %s", name)
}

func (s *script) removeAll() string {
	name := strings.TrimRight(s.path(), "/")
	if s.IntN(3) > 0 {
		return "rest"
	}
	return outcome(s.fsys.RemoveAll(name), "removeall %s", name)
}

func (s *script) rename() string {
	from, to := s.path(), s.path()
	return outcome(s.fsys.Rename(from, to), "rename %s %s", from, to)
}

func (s *script) symlink() string {
	target := s.pick("a", "b", "c/d", "./a", "../a", ".", "d", s.dir+"/c")
	name := s.path()
	return outcome(s.fsys.(afero.Linker).SymlinkIfPossible(target, name), "symlink %s %s", target, name)
}

func (s *script) link() string {
	from, to := s.path(), s.path()
	return outcome(link(s.fsys, from, to), "link %s %s", from, to)
}

// link makes a hard link, for which afero has no interface.
func link(fsys afero.Fs, from, to string) error {
	if fsys, ok := fsys.(*crashfs.FS); ok {
		return fsys.LinkIfPossible(from, to)
	}
	return os.Link(from, to)
}

func (s *script) readlink() string {
	name := s.path()
	target, err := s.fsys.(afero.LinkReader).ReadlinkIfPossible(name)
	return outcome(err, "readlink %s = %s", name, target)
}

func (s *script) stat() string {
	name := s.path()
	info, err := s.fsys.Stat(name)
	if s.IntN(2) == 0 {
		info, _, err = s.fsys.(afero.Lstater).LstatIfPossible(name)
	}
	return outcome(err, "stat %s = %s", name, brief(info))
}

// brief is what of info is the same everywhere.
func brief(info fs.FileInfo) string {
	if info == nil {
		return "nothing"
	}
	st := info.Sys().(*syscall.Stat_t)
	if info.IsDir() {
		return fmt.Sprintf("%s %s %o", info.Name(), info.Mode(), st.Mode)
	}
	return fmt.Sprintf("%s %s %o %d %d bytes, %d names", info.Name(), info.Mode(), st.Mode, info.Size(), st.Size, st.Nlink)
}

func (s *script) chmod() string {
	name, mode := s.path(), fs.FileMode(0o700+s.IntN(0o100))
	return outcome(s.fsys.Chmod(name, mode), "chmod %s %s", name, mode)
}

func (s *script) chtimes() string {
	name, when := s.path(), time.Unix(s.Int64N(1e9), 0)
	err := s.fsys.Chtimes(name, when, when)
	var got time.Time
	if info, err := s.fsys.Stat(name); err == nil && info.ModTime().Equal(when) {
		got = when
	}
	return outcome(err, "chtimes %s %v = %v", name, when, got)
}

func (s *script) write() string {
	p := s.bytes()
	i, f := s.file()
	if f == nil {
		return "rest"
	}
	n, err := f.Write(p)
	return outcome(err, "%d.write %d = %d", i, len(p), n)
}

func (s *script) writeAt() string {
	p, off := s.bytes(), s.Int64N(9000)
	i, f := s.file()
	if f == nil || len(p) == 0 {
		return "rest"
	}
	n, err := f.WriteAt(p, off)
	return outcome(err, "%d.writeat %d %d = %d", i, len(p), off, n)
}

// isDir reports whether f is a directory: what its offset is, and whether a
// read fails for that first, only its file system knows.
func isDir(f afero.File) bool {
	info, err := f.Stat()
	return err == nil && info.IsDir()
}

func (s *script) read() string {
	p := make([]byte, s.IntN(9000))
	i, f := s.file()
	if f == nil || isDir(f) {
		return "rest"
	}
	n, err := f.Read(p)
	return outcome(err, "%d.read %d = %q", i, len(p), p[:n])
}

func (s *script) readAt() string {
	p, off := make([]byte, s.IntN(9000)), s.Int64N(9000)
	i, f := s.file()
	if f == nil {
		return "rest"
	}
	n, err := f.ReadAt(p, off)
	return outcome(err, "%d.readat %d %d = %q", i, len(p), off, p[:n])
}

func (s *script) truncate() string {
	size := s.Int64N(9000) - 100
	i, f := s.file()
	if f == nil {
		return "rest"
	}
	return outcome(f.Truncate(size), "%d.truncate %d", i, size)
}

func (s *script) seek() string {
	offset, whence := s.Int64N(9000)-4000, s.IntN(3)
	i, f := s.file()
	if f == nil || isDir(f) {
		return "rest"
	}
	at, err := f.Seek(offset, whence)
	return outcome(err, "%d.seek %d %d = %d", i, offset, whence, at)
}

func (s *script) readdir() string {
	i, f := s.file()
	if f == nil {
		return "rest"
	}
	info, err := f.Stat()
	if err != nil {
		return outcome(err, "%d.stat", i) // closed: package os has its own error for readdir
	}
	if info.IsDir() {
		_, err := f.Seek(0, io.SeekStart)
		if err != nil {
			return outcome(err, "%d.seek", i)
		}
	}
	infos, err := f.Readdir(-1)
	var lines []string
	for _, info := range infos {
		lines = append(lines, brief(info))
	}
	slices.Sort(lines)
	return outcome(err, "%d.readdir = %s", i, lines)
}

func (s *script) statFile() string {
	i, f := s.file()
	if f == nil {
		return "rest"
	}
	info, err := f.Stat()
	return outcome(err, "%d.stat = %s", i, brief(info))
}

func (s *script) sync() string {
	i, f := s.file()
	if f == nil {
		return "rest"
	}
	return outcome(f.Sync(), "%d.sync", i)
}

func (s *script) closeFile() string {
	i, f := s.file()
	if f == nil {
		return "rest"
	}
	return outcome(f.Close(), "%d.close", i) // and let later steps find it closed
}

// TestChangeTimesLikeLinux compares what changes the change time of a file:
// whoever compares those of two looks takes it for a change of the file.
func TestChangeTimesLikeLinux(t *testing.T) {
	onFile := func(do func(afero.File) error) func(afero.Fs) error {
		return func(fsys afero.Fs) error {
			f, err := fsys.OpenFile("dir/file", os.O_RDWR, 0)
			if err != nil {
				return err
			}
			return errors.Join(do(f), f.Close())
		}
	}
	for _, c := range []struct {
		name string
		do   func(afero.Fs) error
	}{
		{"nothing", func(afero.Fs) error { return nil }},
		{"read", func(fsys afero.Fs) error { _, err := afero.ReadFile(fsys, "dir/file"); return err }},
		{"write", onFile(func(f afero.File) error { _, err := f.WriteString("x"); return err })},
		{"write_nothing", onFile(func(f afero.File) error { _, err := f.Write(nil); return err })},
		{"truncate", onFile(func(f afero.File) error { return f.Truncate(1) })},
		{"sync", onFile(func(f afero.File) error { return f.Sync() })},
		{"open_truncating", func(fsys afero.Fs) error { return afero.WriteFile(fsys, "dir/file", nil, 0o644) }},
		{"chmod", func(fsys afero.Fs) error { return fsys.Chmod("dir/file", 0o600) }},
		{"chown", func(fsys afero.Fs) error { return fsys.Chown("dir/file", os.Getuid(), os.Getgid()) }},
		{"chtimes", func(fsys afero.Fs) error { return fsys.Chtimes("dir/file", time.Unix(1, 0), time.Unix(1, 0)) }},
		{"link", func(fsys afero.Fs) error { return link(fsys, "dir/file", "new") }},
		{"unlink_other_name", func(fsys afero.Fs) error { return fsys.Remove("other") }},
		{"rename", func(fsys afero.Fs) error { return fsys.Rename("dir/file", "new") }},
		{"rename_other_name", func(fsys afero.Fs) error { return fsys.Rename("other", "new") }},
		{"rename_onto_itself", func(fsys afero.Fs) error { return fsys.Rename("other", "dir/file") }},
		{"rename_onto_other_name", func(fsys afero.Fs) error { return fsys.Rename("third", "other") }},
		{"symlink_to_it", func(fsys afero.Fs) error { return fsys.(afero.Linker).SymlinkIfPossible("file", "dir/new") }},
		{"rename_directory", func(fsys afero.Fs) error { return fsys.Rename("dir", "dir2") }},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Chdir(t.TempDir())
			got := ctimesChanged(t, crashfs.New(crashfs.Options{}), c.do)
			want := ctimesChanged(t, afero.NewOsFs(), c.do)
			if diff := cmp.Diff(got, want); diff != "" {
				t.Errorf("changed (-crashfs +os):\n%s", diff)
			}
		})
	}
}

// ctimesChanged reports of some files and directories whether do changes
// their change time.
func ctimesChanged(t *testing.T, fsys afero.Fs, do func(afero.Fs) error) map[string]bool {
	t.Helper()
	check(t, fsys.Mkdir("dir", 0o755))
	write(t, fsys, "dir/file", "content")
	write(t, fsys, "third", "content")
	check(t, link(fsys, "dir/file", "other"))
	write(t, fsys, "clock", "")
	names := []string{"dir", "dir/file", "third", ".", "clock"}
	handles := map[string]afero.File{}
	for _, name := range names {
		handles[name] = open(t, fsys, name, os.O_RDONLY)
		defer handles[name].Close()
	}
	ctime := func(name string) syscall.Timespec {
		info, err := handles[name].Stat()
		check(t, err)
		return info.Sys().(*syscall.Stat_t).Ctim
	}
	before := map[string]syscall.Timespec{}
	for _, name := range names {
		before[name] = ctime(name)
	}
	for ctime("clock") == before["clock"] { // that of a file system may stand still for 10 ms
		check(t, fsys.Chmod("clock", 0o644))
	}
	check(t, do(fsys))
	changed := map[string]bool{}
	for _, name := range names[:4] {
		changed[name] = ctime(name) != before[name]
	}
	return changed
}
