package backup

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
)

// List returns the store's snapshots, the one created last first. It reads the metadata
// and nothing else. Damaged and unfinished snapshots are listed too, with
// the problem; directories whose names are not stamps are not.
func (s *Store) List(ctx context.Context) ([]Snapshot, error) {
	ss, err := s.read()
	if err != nil {
		return nil, fmt.Errorf("backup: list: %w", err)
	}
	defer ss.close()
	snapshots, _, err := ss.list(ctx)
	if err != nil {
		return nil, fmt.Errorf("backup: list: %w", err)
	}
	return snapshots, nil
}

// list returns the snapshots, newest first, and the names of what else there
// is, sorted. ss may be nil.
func (ss *session) list(ctx context.Context) (snapshots []Snapshot, others []string, err error) {
	snapshots = []Snapshot{}
	if ss == nil || ss.snapshots == nil {
		return snapshots, nil, nil
	}
	names, err := ss.snapshots.readNames(".")
	if err != nil {
		return nil, nil, err
	}
	looks := make([]look, len(names))
	c := newCrew(ss.snapshots.cores())
	err = c.run(ctx, func(ctx context.Context, _ func(error)) error {
		for i, name := range names {
			if ctx.Err() != nil {
				break
			}
			c.start(func() { looks[i] = ss.lookAt(ctx, name) })
		}
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	for i, l := range looks {
		switch {
		case l.other:
			others = append(others, names[i])
		case !l.gone:
			snapshots = append(snapshots, l.Snapshot)
		}
	}
	slices.SortFunc(snapshots, func(a, b Snapshot) int { // a stamp that was free again may be an older one's
		return cmp.Or(b.CreatedAt.Compare(a.CreatedAt), cmp.Compare(b.Stamp, a.Stamp))
	})
	return snapshots, others, nil
}

// A look is what was seen under a name among the snapshots.
type look struct {
	Snapshot
	other bool // it is none, but something else
	gone  bool // somebody else has removed it meanwhile
}

// lookAt reads the metadata of what is called name.
func (ss *session) lookAt(ctx context.Context, name string) look {
	t, err := parseStamp(name)
	if err != nil {
		return look{other: true}
	}
	l := look{Snapshot: Snapshot{Stamp: name, CreatedAt: t, Sources: []SourceState{}, Problems: []Problem{}}}
	fi, err := ss.snapshots.lstat(name)
	if err == nil && !fi.isDir() {
		return look{other: true}
	}
	var d *dir
	if err == nil {
		d, err = ss.snapshots.subAt(name, fi)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return look{gone: true}
	}
	if err != nil {
		l.HasMetadata = true // as far as is known
		l.Problems = []Problem{{Code: CodeUnreadable, Detail: err.Error()}}
	} else {
		l.readMetadata(ctx, d)
		d.close()
	}
	if !l.HasMetadata {
		if there, err := ss.snapshots.exists(name); err == nil && !there {
			return look{gone: true}
		}
	}
	l.InUse = ss.inUse(t)
	return l
}

// readMetadata reads the metadata in d, or notes why they cannot be read.
func (l *look) readMetadata(ctx context.Context, d *dir) {
	_, read, err := d.readMetadata(ctx, l.Stamp)
	if err == nil {
		l.Snapshot = *read
		return
	}
	problem := metadataProblem(err)
	l.Problems = []Problem{*problem}
	l.HasMetadata = problem.Code != CodeMetadataMissing // as far as is known
}
