package backup

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"syscall"
)

// ValidateOptions are the options of [Store.Validate].
type ValidateOptions struct{ Level Level }

// A Report is what a validation found.
type Report struct {
	Stamp    string    `json:"stamp"`
	Exists   bool      `json:"exists"`
	Valid    bool      `json:"valid"` // no Problems
	DBOK     bool      `json:"db_ok"` // no Problems with any database
	Level    Level     `json:"level"`
	Files    int       `json:"files"` // regular files and databases that were looked at
	Bytes    int64     `json:"bytes"` // their sizes, summed
	Problems []Problem `json:"problems"`
	Snapshot *Snapshot `json:"metadata"` // nil if there is none to be read
}

// Err returns nil, or the problems as one error, which is each of their codes. Its
// text names the first twenty.
func (r *Report) Err() error { return joinProblems(r.Problems) }

// MarshalJSON adds "errors", the codes of the problems, as the Python module
// reported them.
func (r Report) MarshalJSON() ([]byte, error) {
	codes := []Code{}
	for _, p := range r.Problems {
		codes = append(codes, p.Code)
	}
	type fields Report
	return json.Marshal(struct {
		fields
		Errors []Code `json:"errors"`
	}{fields(r), codes})
}

// Validate examines a snapshot as thoroughly as the level says. It changes
// nothing, also where it could.
//
// Damage is in the Report, and so is that there is no such snapshot; the error
// is for a validation that could not be finished, for want of descriptors, say, of
// which nothing follows for the snapshot. Snapshots of the Python
// module are validated as far as their metadata go, which have no checksums.
func (s *Store) Validate(ctx context.Context, stamp string, opts *ValidateOptions) (*Report, error) {
	var level Level
	if opts != nil {
		level = opts.Level
	}
	report, err := s.validate(ctx, stamp, level)
	if err != nil {
		return nil, fmt.Errorf("backup: validate %s: %w", stamp, err)
	}
	return report, nil
}

func (s *Store) validate(ctx context.Context, stamp string, level Level) (*Report, error) {
	if _, err := parseStamp(stamp); err != nil {
		return nil, err
	}
	if !level.valid() {
		return nil, fmt.Errorf("%v: no such level", level)
	}
	ss, err := s.read()
	if err != nil {
		return nil, err
	}
	if ss == nil || ss.snapshots == nil {
		ss.close()
		return missingReport(stamp, level), nil
	}
	defer ss.close()
	report, _, err := ss.examine(ctx, stamp, level)
	return report, err
}

func missingReport(stamp string, level Level) *Report {
	return &Report{Stamp: stamp, Level: level, Problems: []Problem{{Code: CodeSnapshotMissing}}}
}

// examine validates a snapshot, and returns it open, for as long as the
// session lasts, if its metadata and manifest are sound.
func (ss *session) examine(ctx context.Context, stamp string, level Level) (*Report, *loaded, error) {
	d, err := ss.use(ctx, stamp)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return missingReport(stamp, level), nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	ss.unlocks = append(ss.unlocks, d.close)
	report := &Report{Stamp: stamp, Exists: true, Level: level, Problems: []Problem{}}
	l, problem, err := d.load(ctx, stamp)
	if err != nil {
		return nil, nil, err
	}
	report.Snapshot = l.snapshot
	if problem != nil {
		report.Problems = append(report.Problems, *problem)
		return report, nil, ctx.Err()
	}
	report.Problems = append(report.Problems, l.snapshot.captureProblems()...)
	m := ss.newMeter("validate")
	for i := range l.entries {
		m.total[l.entries[i].source()] += l.entries[i].Size
	}
	sources := ss.cfg.Sources
	if l.snapshot.Origin == OriginPreRestore {
		sources = nil // what there was may be put back, whatever the host thinks of it
	}
	v := newVerifier(ctx, newCrew(d.cores()), sources, level, m)
	v.legacy = l.legacy
	if err := v.verify(d, l.snapshot.Sources, l.entries); err != nil {
		return nil, nil, err
	}
	if i := slices.IndexFunc(v.unread, isShortage); i >= 0 { // of which nothing follows for the snapshot
		return nil, nil, v.unread[i]
	}
	m.finish()
	report.Problems = append(report.Problems, v.problems...)
	report.Files, report.Bytes = v.files, v.bytes
	report.Valid = len(report.Problems) == 0
	report.DBOK = !slices.ContainsFunc(report.Problems, func(p Problem) bool {
		return concernsDatabase(p, l.snapshot, l.entries)
	})
	return report, l, nil
}

// captureProblems are those that were recorded when the snapshot was taken
// and that no later look can find or refute.
func (s *Snapshot) captureProblems() []Problem {
	var found []Problem
	for _, p := range s.Problems {
		if slices.Contains(captureCodes, p.Code) {
			found = append(found, p)
		}
	}
	return found
}

// recorded reports whether what was found now was found, in the same file,
// when the snapshot was taken too.
func (s *Snapshot) recorded(now Problem) bool {
	path := strings.ToValidUTF8(now.Path, "\uFFFD") // as that of a record is
	return slices.ContainsFunc(s.Problems, func(p Problem) bool {
		return p.Code == now.Code && p.Source == now.Source && p.Path == path
	})
}

func concernsDatabase(p Problem, snap *Snapshot, entries manifest) bool {
	if src, ok := snap.Source(p.Source); ok && src.Kind == Database {
		return true
	}
	e, ok := entries.find(p.Path)
	return ok && (e.Type == typeDatabase || e.Type == typeRaw)
}
