package backup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"
)

const snapshotsName = "snapshots"

// A session is one operation's hold on the store: its directories and its
// locks.
type session struct {
	*Store
	root      *dir // Config.Dir
	snapshots *dir // Dir/snapshots
	locks     *lockTable
	unlocks   []func()
}

// read begins a session that changes nothing. It is nil if there is no store
// yet.
func (s *Store) read() (*session, error) {
	return s.open(openDirOrNone)
}

// write begins a session that changes the store, with the state lock held
// shared or, to replace the sources, exclusively. It is refused while a
// restore is pending.
func (s *Store) write(ctx context.Context, mode lockMode) (*session, error) {
	ss, err := s.open(makeDir)
	if err != nil {
		return nil, err
	}
	if err := ss.lockState(ctx, mode); err != nil {
		ss.close()
		return nil, err
	}
	pending, err := ss.root.exists(journalName)
	if err == nil && pending {
		err = ErrRecoveryPending
	}
	if err == nil {
		err = s.checkOrphans()
	}
	if err != nil {
		ss.close()
		return nil, err
	}
	return ss, nil
}

// hasStore reports whether there is a store, for who makes none if there is none.
// Whoever needs one to recover is told so.
func (s *Store) hasStore() (bool, error) {
	d, err := openDirOrNone(s.cfg.Fs, filepath.Join(s.cfg.Dir, snapshotsName))
	if d != nil {
		d.close()
	}
	if err != nil || d != nil {
		return d != nil, err
	}
	root, err := openDirOrNone(s.cfg.Fs, s.cfg.Dir)
	if err != nil || root == nil {
		return false, errors.Join(err, s.checkOrphans())
	}
	defer root.close()
	pending, err := root.exists(journalName)
	if err == nil && pending {
		err = ErrRecoveryPending
	}
	return false, errors.Join(err, s.checkOrphans())
}

func (s *Store) open(open openFunc) (ss *session, err error) {
	root, err := open(s.cfg.Fs, s.cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("open the store %s: %w", s.cfg.Dir, err)
	}
	if root == nil {
		return nil, nil
	}
	ss = &session{Store: s, root: root, locks: lockTableFor(s.cfg.Fs, root)}
	ss.snapshots, err = open(s.cfg.Fs, filepath.Join(s.cfg.Dir, snapshotsName))
	if err != nil {
		ss.close()
		return nil, fmt.Errorf("open the store %s: %w", s.cfg.Dir, err)
	}
	return ss, nil
}

func (ss *session) close() {
	if ss == nil {
		return
	}
	for _, unlock := range ss.unlocks {
		unlock()
	}
	if ss.snapshots != nil {
		ss.snapshots.close()
	}
	ss.locks.close()
	ss.root.close()
}

func (ss *session) lockState(ctx context.Context, mode lockMode) error {
	unlock, err := ss.locks.lock(ctx, ss.root, stateLock, mode, ss.cfg.Logger)
	if err != nil {
		return fmt.Errorf("lock the store: %w", err)
	}
	ss.unlocks = append(ss.unlocks, unlock)
	return nil
}

// use opens a snapshot and holds it against removal until the session ends.
func (ss *session) use(ctx context.Context, stamp string) (*dir, error) {
	t, err := parseStamp(stamp)
	if err != nil {
		return nil, err
	}
	unlock, err := ss.locks.lock(ctx, ss.root, snapshotLock(t), shared, ss.cfg.Logger)
	if err != nil {
		return nil, fmt.Errorf("lock snapshot %s: %w", stamp, err)
	}
	ss.unlocks = append(ss.unlocks, unlock)
	if ss.snapshots == nil {
		return nil, &fs.PathError{Op: "open", Path: filepath.Join(ss.cfg.Dir, snapshotsName), Err: fs.ErrNotExist}
	}
	return ss.snapshots.sub(stamp)
}

// inUse reports whether anybody holds a snapshot.
func (ss *session) inUse(t time.Time) bool {
	return ss.locks.busy(ss.root, snapshotLock(t))
}

func snapshotLock(t time.Time) int64 { return snapshotLocks + t.Unix() }

// claim makes the directory of a new snapshot, named by t or, where that is
// taken, by the next second that is free, and holds it until the session
// ends.
func (ss *session) claim(ctx context.Context, t time.Time) (stamp string, out *dir, err error) {
	for ; ; t = t.Add(time.Second) {
		if err := ctx.Err(); err != nil {
			return "", nil, err
		}
		stamp := formatStamp(t)
		if t, err = parseStamp(stamp); err != nil {
			return "", nil, err // a clock beyond the year 9999
		}
		unlock, err := ss.locks.tryLock(ss.root, snapshotLock(t), exclusive)
		if errors.Is(err, ErrBusy) {
			continue
		}
		if err != nil {
			return "", nil, err
		}
		taken, err := ss.snapshots.exists(stamp)
		if err == nil && taken { // mkdir tells, but for that of afero's CopyOnWriteFs
			err = fs.ErrExist
		}
		if err == nil {
			err = ss.snapshots.mkdir(stamp)
		}
		if err == nil {
			ss.unlocks = append(ss.unlocks, unlock)
			out, err = ss.snapshots.sub(stamp)
			if err != nil {
				err = errors.Join(err, ss.snapshots.remove(stamp))
			}
			return stamp, out, err
		}
		unlock()
		if !errors.Is(err, fs.ErrExist) {
			return "", nil, err
		}
	}
}
