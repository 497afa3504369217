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
		s.rename, s.rename, s.rename, s.symlink, s.readlink, s.stat, s.chmod, s.chtimes,
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
	switch {
	case info == nil:
		return "nothing"
	case info.IsDir():
		return fmt.Sprintf("%s %s", info.Name(), info.Mode())
	}
	return fmt.Sprintf("%s %s %d", info.Name(), info.Mode(), info.Size())
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
