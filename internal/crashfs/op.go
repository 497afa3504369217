package crashfs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
)

// OpKind is what an operation does. It is also the Op of its [fs.PathError].
type OpKind string

// The operations. Those of a handle and those of a path share a kind where
// package os gives them one name; so do Read and ReadAt, Write and WriteAt.
// Seek is none: it does not reach the file system. MkdirAll and RemoveAll
// count as the operations that they are made of.
const (
	OpOpen     OpKind = "open"
	OpMkdir    OpKind = "mkdir"
	OpRemove   OpKind = "remove"
	OpRename   OpKind = "rename"
	OpSymlink  OpKind = "symlink"
	OpLink     OpKind = "link"
	OpReadlink OpKind = "readlink"
	OpStat     OpKind = "stat"
	OpLstat    OpKind = "lstat"
	OpChmod    OpKind = "chmod"
	OpChown    OpKind = "chown"
	OpChtimes  OpKind = "chtimes"
	OpFree     OpKind = "statfs"
	OpSyncAll  OpKind = "syncfs"

	OpRead     OpKind = "read"
	OpWrite    OpKind = "write"
	OpTruncate OpKind = "truncate"
	OpSync     OpKind = "sync"
	OpReaddir  OpKind = "readdirent"
	OpClose    OpKind = "close"
)

// An Op is one call that reached the file system.
type Op struct {
	N    int // 1 is the first operation of the FS
	Kind OpKind
	Path string // as given, or as given when the handle was opened
	To   string // of Rename and Link the new name, of Symlink the target
	Flag int    // of Open
	Off  int64  // of Read and Write; of Truncate the new size
	Len  int    // of Read and Write, bytes
	Err  error  // how it ended, in the log
}

// String describes the operation for messages of tests.
func (op Op) String() string {
	s := fmt.Sprintf("#%d %s %s", op.N, op.Kind, op.Path)
	switch op.Kind {
	case OpRename, OpLink, OpSymlink:
		s += " -> " + op.To
	case OpOpen:
		s += fmt.Sprintf(" flag %#x", op.Flag)
	case OpRead, OpWrite:
		s += fmt.Sprintf(" %d bytes at %d", op.Len, op.Off)
	case OpTruncate:
		s += fmt.Sprintf(" to %d", op.Off)
	}
	if op.Err != nil {
		s += ": " + op.Err.Error()
	}
	return s
}

// Changes reports whether the operation may change what is on disk, or what will
// be after a power cut.
func (op Op) Changes() bool {
	switch op.Kind {
	case OpOpen:
		return op.Flag&(os.O_CREATE|os.O_TRUNC) != 0
	case OpMkdir, OpRemove, OpRename, OpLink, OpSymlink, OpChmod, OpChown, OpChtimes, OpWrite, OpTruncate, OpSync, OpSyncAll:
		return true
	}
	return false
}

// allocates reports whether the operation may want space: also fsync, where
// the blocks of a file are found only when it is written back.
func (op Op) allocates() bool {
	switch op.Kind {
	case OpOpen:
		return op.Flag&os.O_CREATE != 0
	case OpMkdir, OpRename, OpLink, OpSymlink, OpWrite, OpTruncate, OpSync, OpSyncAll:
		return true
	}
	return false
}

// wrap makes err what package os would return.
func (op Op) wrap(err error) error {
	switch {
	case err == nil, err == io.EOF:
		return err
	case op.Kind == OpRename, op.Kind == OpLink:
		return &os.LinkError{Op: string(op.Kind), Old: op.Path, New: op.To, Err: err}
	case op.Kind == OpSymlink:
		return &os.LinkError{Op: string(op.Kind), Old: op.To, New: op.Path, Err: err}
	}
	return &fs.PathError{Op: string(op.Kind), Path: op.Path, Err: err}
}

// Log returns the operations so far, in order. Operations after a power cut
// are not in it.
func (fsys *FS) Log() []Op {
	fsys.mu.Lock()
	defer fsys.mu.Unlock()
	return slices.Clone(fsys.log)
}

// do gives op its number, asks whether it is to fail, and runs it.
func (fsys *FS) do(op Op, run func(Fault) error) error {
	fault, err := fsys.admit(&op)
	if err != nil {
		return op.wrap(err)
	}
	fsys.mu.Lock()
	defer fsys.mu.Unlock()
	if fsys.off {
		err = ErrPowerCut
	} else {
		fsys.current = op.N
		err = fault.strike(op, run)
	}
	err = op.wrap(err)
	fsys.log[op.N-1].Err = err
	return err
}

// admit logs op and returns the fault that it meets. The hook runs unlocked,
// so that it may look at the file system.
func (fsys *FS) admit(op *Op) (Fault, error) {
	fsys.mu.Lock()
	defer fsys.mu.Unlock()
	if fsys.off {
		return Fault{}, ErrPowerCut
	}
	op.N = len(fsys.log) + 1
	fsys.log = append(fsys.log, *op)
	fault := fsys.injected(*op)
	if hook := fsys.hook; hook != nil && fault.Effect == NoFault {
		fsys.mu.Unlock()
		fault = hook(*op)
		fsys.mu.Lock()
	}
	if fault.Effect == PowerCut {
		fsys.off = true
	}
	return fault, nil
}

// ErrPowerCut is the error of every operation after the power was cut, in a
// [*fs.PathError] or [*os.LinkError].
var ErrPowerCut = errors.New("the power is cut")

// CutPower makes every operation from now on fail with [ErrPowerCut], without
// effect. What the machine may find when it starts again, [FS.CrashStates]
// tells.
func (fsys *FS) CutPower() {
	fsys.mu.Lock()
	defer fsys.mu.Unlock()
	fsys.off = true
}
