package crashfs

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/spf13/afero"
)

// A file is a handle on an inode: it stays with it when its name changes or
// goes.
type file struct {
	fsys *FS
	node *inode
	name string
	flag int

	// guarded by fsys.mu
	off    int64
	closed bool
	names  []string // of a directory, those that are still to be listed
	listed bool     // names has been filled
}

var (
	_ afero.File     = (*file)(nil)
	_ fs.ReadDirFile = (*file)(nil)
)

var (
	errNegativeOffset = errors.New("negative offset")
	errAppendMode     = errors.New("crashfs: WriteAt on a file opened with O_APPEND")
)

// do runs an operation on the handle. A call on a closed one does not reach
// the file system, and so is no operation.
func (f *file) do(op Op, run func(Fault) error) error {
	f.fsys.mu.Lock()
	closed := f.closed
	f.fsys.mu.Unlock()
	op.Path = f.name
	if closed {
		return op.wrap(fs.ErrClosed)
	}
	return f.fsys.do(op, func(fault Fault) error {
		if f.closed {
			return fs.ErrClosed
		}
		return run(fault)
	})
}

func (f *file) readable() bool { return f.flag&(os.O_WRONLY|os.O_RDWR) != os.O_WRONLY }
func (f *file) writable() bool { return f.flag&(os.O_WRONLY|os.O_RDWR) != os.O_RDONLY }

// offset returns where the next Read begins.
func (f *file) offset() int64 {
	f.fsys.mu.Lock()
	defer f.fsys.mu.Unlock()
	return f.off
}

// writeOffset returns where the next Write begins.
func (f *file) writeOffset() int64 {
	f.fsys.mu.Lock()
	defer f.fsys.mu.Unlock()
	return f.end()
}

// end is writeOffset under the lock.
func (f *file) end() int64 {
	if f.flag&os.O_APPEND != 0 {
		return f.node.content.size
	}
	return f.off
}

// Name returns the path that the file was opened with.
func (f *file) Name() string { return f.name }

// Close closes the handle, also when it returns an error.
func (f *file) Close() error {
	return f.do(Op{Kind: OpClose}, func(Fault) error {
		f.drop()
		return nil
	})
}

func (f *file) drop() {
	f.closed = true
	f.node.opens--
	f.fsys.release(f.node)
}

// Read reads from where the last Read, Write or Seek ended.
func (f *file) Read(p []byte) (n int, err error) {
	err = f.do(Op{Kind: OpRead, Off: f.offset(), Len: len(p)}, func(fault Fault) error {
		n, err = f.read(p, f.off, fault)
		f.off += int64(n)
		if n == 0 && len(p) > 0 && err == nil {
			return io.EOF
		}
		return err
	})
	return n, err
}

// ReadAt reads len(p) bytes at off, or to the end of the file and io.EOF.
func (f *file) ReadAt(p []byte, off int64) (n int, err error) {
	if off < 0 {
		return 0, &fs.PathError{Op: "readat", Path: f.name, Err: errNegativeOffset}
	}
	err = f.do(Op{Kind: OpRead, Off: off, Len: len(p)}, func(fault Fault) error {
		n, err = f.read(p, off, fault)
		if n < len(p) && err == nil && fault.Effect != Short {
			return io.EOF
		}
		return err
	})
	return n, err
}

func (f *file) read(p []byte, off int64, fault Fault) (int, error) {
	switch {
	case len(p) == 0:
		return 0, nil
	case !f.readable():
		return 0, syscall.EBADF
	case f.node.isDir():
		return 0, syscall.EISDIR
	case fault.Effect == Short:
		return f.node.content.readAt(p[:max(1, len(p)/2)], off), fault.Err
	}
	return f.node.content.readAt(p, off), nil
}

// Write writes at the place where the last Read, Write or Seek ended, or at
// the end of a file opened with O_APPEND.
func (f *file) Write(p []byte) (n int, err error) {
	err = f.do(Op{Kind: OpWrite, Off: f.writeOffset(), Len: len(p)}, func(fault Fault) error {
		off := f.end()
		if n, err = f.write(p, off, fault); n > 0 {
			f.off = off + int64(n)
		}
		return err
	})
	return n, err
}

// WriteAt writes at off. It is not for files opened with O_APPEND.
func (f *file) WriteAt(p []byte, off int64) (n int, err error) {
	if f.flag&os.O_APPEND != 0 {
		return 0, errAppendMode
	}
	if off < 0 {
		return 0, &fs.PathError{Op: "writeat", Path: f.name, Err: errNegativeOffset}
	}
	err = f.do(Op{Kind: OpWrite, Off: off, Len: len(p)}, func(fault Fault) error {
		n, err = f.write(p, off, fault)
		return err
	})
	return n, err
}

// WriteString is Write.
func (f *file) WriteString(s string) (int, error) { return f.Write([]byte(s)) }

// write writes as much of p as fits.
func (f *file) write(p []byte, off int64, fault Fault) (int, error) {
	var err error
	if fault.Effect == Short {
		p, err = p[:len(p)/2], fault.Err
	}
	switch {
	case !f.writable():
		return 0, syscall.EBADF
	case f.fsys.rofs:
		return 0, syscall.EROFS
	case off+int64(len(p)) > maxFileSize:
		return 0, syscall.EFBIG
	}
	if room := f.node.content.size + f.fsys.free() - off; int64(len(p)) > room {
		p, err = p[:max(0, room)], syscall.ENOSPC
	}
	if len(p) > 0 {
		f.fsys.write(f.node, p, off, f.name)
	}
	return len(p), err
}

func (fsys *FS) write(n *inode, p []byte, off int64, path string) {
	now := fsys.change(n, Effect{Kind: Write, Path: path, Off: off, Len: len(p)}, effect{data: bytes.Clone(p)})
	fsys.used -= n.content.size
	n.content.writeAt(p, off)
	fsys.used += n.content.size
	n.mtime = now
}

// Truncate cuts the file or extends it with zeros.
func (f *file) Truncate(size int64) error {
	return f.do(Op{Kind: OpTruncate, Off: size}, func(Fault) error {
		switch {
		case size < 0 || !f.writable():
			return syscall.EINVAL
		case f.fsys.rofs:
			return syscall.EROFS
		case size > maxFileSize:
			return syscall.EFBIG
		case size-f.node.content.size > f.fsys.free():
			return syscall.ENOSPC
		}
		f.fsys.truncate(f.node, size, f.name)
		return nil
	})
}

func (fsys *FS) truncate(n *inode, size int64, path string) {
	now := fsys.change(n, Effect{Kind: Truncate, Path: path, Off: size}, effect{})
	fsys.used += size - n.content.size
	n.content.truncate(size)
	n.mtime = now
}

// Seek sets where the next Read or Write begins; in a directory, back to the
// first name.
func (f *file) Seek(offset int64, whence int) (int64, error) {
	f.fsys.mu.Lock()
	defer f.fsys.mu.Unlock()
	op := Op{Kind: "seek", Path: f.name}
	switch whence {
	case io.SeekCurrent:
		offset += f.off
	case io.SeekEnd:
		offset += f.node.content.size
	}
	switch {
	case f.closed:
		return 0, op.wrap(fs.ErrClosed)
	case f.fsys.off:
		return 0, op.wrap(ErrPowerCut)
	case offset < 0 || whence < io.SeekStart || whence > io.SeekEnd:
		return 0, op.wrap(syscall.EINVAL)
	}
	f.off, f.listed = offset, false
	return offset, nil
}

// Sync makes the file durable, or, of a directory, the names in it. See the
// package comment.
func (f *file) Sync() error {
	return f.do(Op{Kind: OpSync}, func(fault Fault) error {
		f.fsys.seq++
		if fault.Effect == DropSync {
			f.fsys.dropInode(f.node)
			f.fsys.dropEntries(f.node)
			return fault.err()
		}
		f.fsys.syncInode(f.node)
		f.fsys.syncEntries(f.node)
		return nil
	})
}

// Stat describes the file as it is now.
func (f *file) Stat() (info fs.FileInfo, err error) {
	err = f.do(Op{Kind: OpStat}, func(Fault) error {
		info = f.node.info(filepath.Base(f.name))
		return nil
	})
	if err != nil {
		return nil, err
	}
	return info, nil
}

// Readdir describes the next count files of a directory, sorted by name, or
// all that are left if count is not positive.
func (f *file) Readdir(count int) ([]fs.FileInfo, error) {
	return listed(f, count, func(i fileInfo) fs.FileInfo { return i })
}

// ReadDir is Readdir for [fs.ReadDirFile].
func (f *file) ReadDir(n int) ([]fs.DirEntry, error) {
	return listed(f, n, func(i fileInfo) fs.DirEntry { return i })
}

// Readdirnames is Readdir for names.
func (f *file) Readdirnames(n int) ([]string, error) {
	return listed(f, n, fileInfo.Name)
}

// listed returns the next count names of directory f that are still there, as
// what they are made into. The names are those of the first call.
func listed[T any](f *file, count int, as func(fileInfo) T) ([]T, error) {
	all := []T{}
	err := f.do(Op{Kind: OpReaddir}, func(Fault) error {
		switch {
		case !f.node.isDir():
			return syscall.ENOTDIR
		case f.node.links == 0:
			return syscall.ENOENT
		case !f.listed:
			f.names, f.listed = f.node.names(), true
		}
		for len(f.names) > 0 && (count <= 0 || len(all) < count) {
			if n := f.node.entries[f.names[0]]; n != nil {
				all = append(all, as(n.info(f.names[0])))
			}
			f.names = f.names[1:]
		}
		if count > 0 && len(all) == 0 {
			return io.EOF
		}
		return nil
	})
	return all, err
}
