package backup

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
)

// List returns the store's snapshots, newest first. It reads the metadata
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
	found, err := ss.snapshots.readDir(".")
	if err != nil {
		return nil, nil, err
	}
	for _, fi := range found {
		if err := ctx.Err(); err != nil {
			return nil, nil, err
		}
		t, err := parseStamp(fi.name)
		if err != nil || !fi.isDir() {
			others = append(others, fi.name)
			continue
		}
		snap := Snapshot{Stamp: fi.name, CreatedAt: t, Sources: []SourceState{}, Problems: []Problem{}}
		if d, err := ss.snapshots.sub(fi.name); errors.Is(err, fs.ErrNotExist) {
			continue // somebody else has removed it meanwhile
		} else if err != nil {
			snap.HasMetadata = true // as far as is known
			snap.Problems = []Problem{{Code: CodeUnreadable, Detail: err.Error()}}
		} else {
			_, read, problem := d.readMetadata(fi.name)
			d.close()
			if problem != nil {
				snap.Problems = []Problem{*problem}
				snap.HasMetadata = problem.Code != CodeMetadataMissing // as far as is known
			} else {
				snap = *read
			}
		}
		snap.InUse = ss.inUse(t)
		snapshots = append(snapshots, snap)
	}
	slices.SortFunc(snapshots, func(a, b Snapshot) int { return cmp.Compare(b.Stamp, a.Stamp) })
	return snapshots, others, nil
}
