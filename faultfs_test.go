package backup_test

import (
	"os"
	"sync"
	"time"

	"github.com/spf13/afero"
)

// A faultFs is a file system of which fail may have any operation fail:
// "open", "create", "mkdir", "remove", "rename", "chmod", "chtimes", "stat",
// "read", "readdir", "write", "truncate", "sync", "close".
type faultFs struct {
	afero.Fs
	mu   sync.Mutex
	fail func(op, path string) error // nil: go on
}

func (f *faultFs) do(op, path string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.fail(op, path); err != nil {
		return &os.PathError{Op: op, Path: path, Err: err}
	}
	return nil
}

func (f *faultFs) Create(name string) (afero.File, error) {
	return f.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o666)
}

func (f *faultFs) Open(name string) (afero.File, error) { return f.OpenFile(name, os.O_RDONLY, 0) }

func (f *faultFs) OpenFile(name string, flag int, perm os.FileMode) (afero.File, error) {
	op := "open"
	if flag&os.O_CREATE != 0 {
		op = "create"
	}
	if err := f.do(op, name); err != nil {
		return nil, err
	}
	file, err := f.Fs.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return &faultFile{file, f, name}, nil
}

func (f *faultFs) Mkdir(name string, perm os.FileMode) error {
	if err := f.do("mkdir", name); err != nil {
		return err
	}
	return f.Fs.Mkdir(name, perm)
}

func (f *faultFs) Remove(name string) error {
	if err := f.do("remove", name); err != nil {
		return err
	}
	return f.Fs.Remove(name)
}

func (f *faultFs) Rename(from, to string) error {
	if err := f.do("rename", from); err != nil {
		return err
	}
	return f.Fs.Rename(from, to)
}

func (f *faultFs) Chmod(name string, perm os.FileMode) error {
	if err := f.do("chmod", name); err != nil {
		return err
	}
	return f.Fs.Chmod(name, perm)
}

func (f *faultFs) Chtimes(name string, atime, mtime time.Time) error {
	if err := f.do("chtimes", name); err != nil {
		return err
	}
	return f.Fs.Chtimes(name, atime, mtime)
}

func (f *faultFs) Stat(name string) (os.FileInfo, error) {
	if err := f.do("stat", name); err != nil {
		return nil, err
	}
	return f.Fs.Stat(name)
}

type faultFile struct {
	afero.File
	fs   *faultFs
	name string
}

func (f *faultFile) Read(p []byte) (int, error) {
	if err := f.fs.do("read", f.name); err != nil {
		return 0, err
	}
	return f.File.Read(p)
}

func (f *faultFile) ReadAt(p []byte, off int64) (int, error) {
	if err := f.fs.do("read", f.name); err != nil {
		return 0, err
	}
	return f.File.ReadAt(p, off)
}

func (f *faultFile) Readdirnames(n int) ([]string, error) {
	if err := f.fs.do("readdir", f.name); err != nil {
		return nil, err
	}
	return f.File.Readdirnames(n)
}

func (f *faultFile) Write(p []byte) (int, error) {
	if err := f.fs.do("write", f.name); err != nil {
		return 0, err
	}
	return f.File.Write(p)
}

func (f *faultFile) WriteAt(p []byte, off int64) (int, error) {
	if err := f.fs.do("write", f.name); err != nil {
		return 0, err
	}
	return f.File.WriteAt(p, off)
}

func (f *faultFile) Truncate(size int64) error {
	if err := f.fs.do("truncate", f.name); err != nil {
		return err
	}
	return f.File.Truncate(size)
}

func (f *faultFile) Sync() error {
	if err := f.fs.do("sync", f.name); err != nil {
		return err
	}
	return f.File.Sync()
}

func (f *faultFile) Close() error {
	err := f.fs.do("close", f.name)
	if closeErr := f.File.Close(); err == nil {
		err = closeErr
	}
	return err
}
