package backup

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"reflect"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/afero"
)

// lockName is the advisory lock file under Dir. It is never removed: a
// process that waits for a lock on a removed file would share it with
// nobody.
const lockName = "lock"

// Each lock is one byte of the lock file, shared or exclusive.
const (
	// stateLock is held shared by whoever reads or writes the sources or
	// removes snapshots, and exclusively by whoever replaces the sources.
	stateLock int64 = 0

	// snapshotLocks is where the locks of snapshots begin, one for each
	// second: shared while it is validated or restored, exclusive while it
	// is written or removed.
	snapshotLocks int64 = 1 << 40
)

// A lockMode is how a lock is held: by any number of holders, or by one.
type lockMode int

const (
	shared lockMode = iota
	exclusive
)

// A lockTable holds the locks of one store: between goroutines by itself,
// between processes through byte ranges of the lock file, where there is
// one.
type lockTable struct {
	key  any
	refs int // of users; guarded by lockTables

	mu       sync.Mutex
	held     map[int64]int // readers, or -1 for a writer
	changed  chan struct{} // closed when a lock is released
	file     *os.File      // nil until the first lock, and where locks are in memory alone
	readOnly error         // if file is open for reading alone, why
}

// lockTables has the tables in use. It is the process's, as file locks are:
// two stores on one directory must meet in one table.
var lockTables struct {
	sync.Mutex
	m map[any]*lockTable
}

// lockTableFor returns the table for a store's directory, to be closed by
// the caller.
func lockTableFor(fsys afero.Fs, d *dir) *lockTable {
	lockTables.Lock()
	defer lockTables.Unlock()
	key := lockKey(fsys, d)
	t := lockTables.m[key]
	if t == nil {
		if lockTables.m == nil {
			lockTables.m = make(map[any]*lockTable)
		}
		t = &lockTable{key: key, held: make(map[int64]int), changed: make(chan struct{})}
		lockTables.m[key] = t
	}
	t.refs++
	return t
}

func lockKey(fsys afero.Fs, d *dir) any {
	type key struct{ fs, place any }
	if fi, err := d.lstat("."); err == nil && fi.isNative {
		return key{"native", fileID(fi, d.base)}
	}
	if !reflect.TypeOf(fsys).Comparable() {
		return key{reflect.TypeOf(fsys), d.base}
	}
	return key{fsys, d.base}
}

func (t *lockTable) close() {
	lockTables.Lock()
	defer lockTables.Unlock()
	if t.refs--; t.refs > 0 {
		return
	}
	delete(lockTables.m, t.key)
	if t.file != nil {
		t.file.Close() // gives up what it locked, which is nothing
	}
}

// lock waits for a lock until ctx is done, and then answers ErrBusy.
func (t *lockTable) lock(ctx context.Context, d *dir, id int64, mode lockMode, logger *slog.Logger) (unlock func(), err error) {
	unlock, err = t.tryLock(d, id, mode)
	if !errors.Is(err, ErrBusy) {
		return unlock, err
	}
	logger.InfoContext(ctx, "waiting for another operation to give up a lock", "dir", d.base)
	pause := time.Millisecond
	for {
		t.mu.Lock()
		changed := t.changed
		t.mu.Unlock()
		unlock, err := t.tryLock(d, id, mode)
		if !errors.Is(err, ErrBusy) {
			return unlock, err
		}
		timer := time.NewTimer(pause) // for the processes that cannot tell us
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil, errors.Join(ErrBusy, ctx.Err())
		case <-changed:
			timer.Stop()
		case <-timer.C:
			pause = min(2*pause, 100*time.Millisecond)
		}
	}
}

// tryLock takes a lock if that is possible at once, else it answers ErrBusy.
func (t *lockTable) tryLock(d *dir, id int64, mode lockMode) (unlock func(), err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := t.held[id]
	if n < 0 || mode == exclusive && n > 0 {
		return nil, ErrBusy
	}
	if n == 0 {
		if err := t.lockFile(d, id, mode); err != nil {
			return nil, err
		}
	}
	if mode == exclusive {
		t.held[id] = -1
	} else {
		t.held[id]++
	}
	return sync.OnceFunc(func() { t.unlock(id) }), nil
}

// busy reports whether anybody holds a lock. It makes no lock file.
func (t *lockTable) busy(d *dir, id int64) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.held[id] != 0 {
		return true
	}
	if t.file == nil && d.native {
		if there, err := d.exists(lockName); err != nil || !there {
			return false // who has a lock has made the file
		}
	}
	return t.openFile(d, shared) == nil && t.file != nil && isLocked(t.file, id)
}

func (t *lockTable) unlock(id int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.held[id] > 1 {
		t.held[id]--
		return
	}
	delete(t.held, id)
	if t.file != nil {
		unlockRange(t.file, id) // it can only fail by not having been locked
	}
	close(t.changed)
	t.changed = make(chan struct{})
}

// lockFile takes the lock from other processes. Where there is no lock file
// and none can be made, as on a medium that cannot be written to, a store is
// read without.
func (t *lockTable) lockFile(d *dir, id int64, mode lockMode) error {
	if err := t.openFile(d, mode); err != nil || t.file == nil {
		return err
	}
	return lockRange(t.file, id, mode)
}

// openFile opens the lock file, where there can be one. Who may not write to
// it, but others might, opens it for reading, which is enough for a shared
// lock: see fcntl(2).
func (t *lockTable) openFile(d *dir, mode lockMode) error {
	switch {
	case !d.native:
		return nil
	case t.file != nil && mode == exclusive:
		return t.readOnly
	case t.file != nil:
		return nil
	}
	f, err := os.OpenFile(d.full(lockName), os.O_RDWR|os.O_CREATE|oNonblock|oNofollow, 0o600)
	var readOnly error
	if mode == shared && mayNotWrite(err) {
		readOnly = err
		f, err = os.OpenFile(d.full(lockName), os.O_RDONLY|oNonblock|oNofollow, 0)
		if mayNotWrite(err) || errors.Is(err, fs.ErrNotExist) {
			return nil
		}
	}
	if err != nil {
		return err
	}
	t.file, t.readOnly = f, readOnly
	return nil
}

func mayNotWrite(err error) bool {
	return errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EROFS)
}
