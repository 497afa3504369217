package crashfs

import (
	"errors"
	"fmt"
	"slices"
	"syscall"
)

// FaultEffect is what a fault does to the operation that it strikes.
type FaultEffect int

const (
	NoFault FaultEffect = iota

	// FailBefore: the operation fails without effect; but Close does close
	// the handle.
	FailBefore

	// FailAfter: the operation takes effect, and fails all the same.
	FailAfter

	// Short: a Read or Write does about half of what it is asked to. Its
	// error is Fault.Err, by default nil, which is against the contracts of
	// io and is what careless file systems do.
	Short

	// DropSync: a Sync fails, and the data that it was to write is lost for
	// good: reads go on to show it and later syncs succeed, but only what is
	// written after is ever durable. Of a dropped write there remains the
	// size that it gave the file. Of a directory, what was done in it remains
	// pending for ever, if nothing that is synced later depends on it.
	DropSync

	// PowerCut: this operation and all that follow fail with ErrPowerCut,
	// without effect.
	PowerCut
)

// Repeat says which operations a [Fault] strikes.
type Repeat int

const (
	Once     Repeat = iota // operation At
	SameKind               // operation At, and all later ones of its kind
	Forever                // operation At and all later ones
)

// A Fault is something that goes wrong.
type Fault struct {
	At     int // number of the operation; 0 is none
	Effect FaultEffect
	Err    error // what the operation fails with. If nil, EIO; but see Short
	Repeat Repeat
}

// String describes the fault for messages of tests.
func (f Fault) String() string {
	effect := [...]string{"no fault", "fail", "take effect and fail", "run short", "drop what is synced", "power cut"}
	repeat := [...]string{"", ", like all later ones of its kind", ", like all later ones"}
	s := fmt.Sprintf("let #%d %s%s", f.At, effect[f.Effect], repeat[f.Repeat])
	if f.Err != nil {
		s += ": " + f.Err.Error()
	}
	return s
}

// CutAt returns the fault that cuts the power right before operation n.
func CutAt(n int) Fault { return Fault{At: n, Effect: PowerCut} }

// An armedFault is an injected fault, and what it has struck.
type armedFault struct {
	Fault
	kind OpKind // of operation At; "" before
}

// Inject adds faults to those that will strike. A fault that makes no sense
// for an operation, such as ENOSPC for a read, leaves it alone. Where several
// strike one operation, the first added counts.
func (fsys *FS) Inject(faults ...Fault) {
	fsys.mu.Lock()
	defer fsys.mu.Unlock()
	for _, f := range faults {
		fsys.faults = append(fsys.faults, &armedFault{Fault: f})
	}
}

// SetHook makes hook decide about every operation that no injected fault
// strikes; At and Repeat of what it returns are ignored. It is called before
// the operation, without locks: it may call Crash and other methods that are
// not operations themselves. If nil, nothing is called.
func (fsys *FS) SetHook(hook func(Op) Fault) {
	fsys.mu.Lock()
	defer fsys.mu.Unlock()
	fsys.hook = hook
}

// injected returns the fault that strikes op.
func (fsys *FS) injected(op Op) Fault {
	var hit Fault
	for _, f := range fsys.faults {
		if op.N == f.At {
			f.kind = op.Kind
		}
		strikes := op.N == f.At || op.N > f.At && f.At > 0 &&
			(f.Repeat == Forever || f.Repeat == SameKind && f.kind == op.Kind)
		if strikes && hit.Effect == NoFault && f.fits(op) {
			hit = f.Fault
		}
	}
	return hit
}

// fits reports whether the fault makes sense for op.
func (f Fault) fits(op Op) bool {
	switch {
	case f.Effect == Short:
		return op.Kind == OpRead && op.Len > 1 || op.Kind == OpWrite && op.Len > 0
	case f.Effect == DropSync:
		return op.Kind == OpSync || op.Kind == OpSyncAll
	case f.Effect == FailBefore && errors.Is(f.Err, syscall.ENOSPC):
		return op.allocates()
	}
	return true
}

// Faults returns the faults worth injecting at op, each striking once.
func (op Op) Faults() []Fault {
	all := []Fault{
		{Effect: FailBefore, Err: syscall.EIO},
		{Effect: FailBefore, Err: syscall.ENOSPC},
		{Effect: Short},
		{Effect: DropSync, Err: syscall.EIO},
	}
	if op.Changes() {
		all = append(all, Fault{Effect: FailAfter, Err: syscall.EIO})
	}
	if op.Kind == OpWrite {
		all = append(all, Fault{Effect: Short, Err: syscall.ENOSPC})
	}
	for i := range all {
		all[i].At = op.N
	}
	return slices.DeleteFunc(all, func(f Fault) bool { return !f.fits(op) })
}

// strike runs an operation under the fault. Short and DropSync are for run to
// heed.
func (f Fault) strike(op Op, run func(Fault) error) error {
	if !f.fits(op) {
		return run(Fault{})
	}
	switch {
	case f.Effect == FailAfter, f.Effect == FailBefore && op.Kind == OpClose:
		if err := run(Fault{}); err != nil {
			return err
		}
		return f.err()
	case f.Effect == FailBefore:
		return f.err()
	}
	return run(f)
}

func (f Fault) err() error {
	if f.Err == nil {
		return syscall.EIO
	}
	return f.Err
}
