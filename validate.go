package backup

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"syscall"

	"github.com/ncruces/go-sqlite3"
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

// Err returns nil, or the problems as one error.
func (r *Report) Err() error { return joinProblems(r.Problems) }

// MarshalJSON adds "errors", the codes of the problems, as the Python module
// reported them.
func (r *Report) MarshalJSON() ([]byte, error) {
	codes := []Code{}
	for _, p := range r.Problems {
		codes = append(codes, p.Code)
	}
	type fields Report
	return json.Marshal(struct {
		*fields
		Errors []Code `json:"errors"`
	}{(*fields)(r), codes})
}

// Validate examines a snapshot as thoroughly as the level says. It changes
// nothing, also where it could.
//
// Damage is in the Report, that the snapshot does not exist too; the error
// is for a validation that could not be finished. Snapshots of the Python
// module are validated as far as their metadata go, which have no checksums.
func (s *Store) Validate(ctx context.Context, stamp string, opts *ValidateOptions) (*Report, error) {
	var level Level
	if opts != nil {
		level = opts.Level
	}
	report, err := s.validate(ctx, stamp, level)
	if err != nil {
		return nil, fmt.Errorf("backup: validate: %w", err)
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

// A loaded snapshot is one that can be read from.
type loaded struct {
	*dir
	snapshot *Snapshot
	entries  manifest
	legacy   bool // made by the Python module
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
	l, problem := d.load(stamp)
	report.Snapshot = l.snapshot
	if problem != nil {
		report.Problems = append(report.Problems, *problem)
		return report, nil, ctx.Err()
	}
	report.Problems = append(report.Problems, l.snapshot.captureProblems()...)
	v := ss.newVerifier(ctx, d, level, "validate")
	v.legacy = l.legacy
	if err := v.verify(l.snapshot.Sources, l.entries); err != nil {
		return nil, nil, err
	}
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

func concernsDatabase(p Problem, snap *Snapshot, entries manifest) bool {
	if src, ok := snap.Source(p.Source); ok && src.Kind == Database {
		return true
	}
	e, ok := entries.find(p.Path)
	return ok && (e.Type == typeDatabase || e.Type == typeRaw)
}

// load reads the metadata and the manifest of the snapshot in d.
func (d *dir) load(stamp string) (*loaded, *Problem) {
	l := &loaded{dir: d}
	m, snap, problem := d.readMetadata(stamp)
	l.snapshot = snap
	if problem != nil {
		return l, problem
	}
	var err error
	if l.legacy = m == nil; l.legacy {
		l.entries, err = d.inventory(snap)
	} else {
		l.entries, err = d.readManifest(m)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return l, &Problem{Code: CodeManifestMissing, Path: manifestName}
	case err != nil:
		return l, &Problem{Code: CodeManifestInvalid, Path: manifestName, Detail: err.Error()}
	}
	return l, nil
}

// readMetadata reads the metadata of the snapshot in d; m is nil if they are
// the Python module's.
func (d *dir) readMetadata(stamp string) (m *metadata, snap *Snapshot, problem *Problem) {
	data, err := d.readFile(metadataName, maxMetadataBytes)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, &Problem{Code: CodeMetadataMissing, Path: metadataName, Detail: "unfinished, interrupted or half deleted"}
	}
	var legacy *legacyMetadata
	if err == nil {
		m, legacy, err = parseMetadata(data, stamp)
	}
	if err == nil && legacy != nil {
		var s Snapshot
		s, err = legacy.snapshot(stamp)
		if ours, existsErr := d.exists(manifestName); err == nil && (ours || existsErr != nil) {
			err = errors.Join(errors.New("it has a manifest, but no metadata that go with it"), existsErr)
		}
		snap = &s
	}
	if err != nil {
		code := CodeMetadataInvalid
		if _, ok := errors.AsType[*fs.PathError](err); ok && !errors.Is(err, errTooLarge) && !errors.Is(err, errNotRegular) {
			code = CodeUnreadable // which says nothing about the snapshot
		}
		return nil, nil, &Problem{Code: code, Path: metadataName, Detail: err.Error()}
	}
	if m != nil {
		s := m.snapshot()
		snap = &s
	}
	return m, snap, nil
}

func (d *dir) readManifest(m *metadata) (manifest, error) {
	f, info, err := d.open(manifestName)
	if err != nil {
		return nil, err
	}
	defer f.Close() // nothing was written
	if info.size != m.Size {
		return nil, fmt.Errorf("%d bytes, and not the %d of its metadata", info.size, m.Size)
	}
	sum, err := hashOf(context.Background(), io.NewSectionReader(f, 0, info.size))
	if err != nil {
		return nil, err
	}
	if sum != m.Manifest {
		return nil, errors.New("checksum mismatch")
	}
	entries, err := readManifest(io.NewSectionReader(f, 0, info.size), m.PosixNames)
	if err == nil {
		err = entries.agree(m.Sources)
	}
	return entries, err
}

// agree refuses a manifest with entries of no captured source, or without
// any of one.
func (m manifest) agree(sources []SourceState) error {
	count := make(map[string]int)
	for i := range m {
		count[m[i].source()]++
	}
	for _, src := range sources {
		if src.Captured != (count[src.Name] > 0) {
			return fmt.Errorf("source %q: metadata and manifest disagree", src.Name)
		}
		delete(count, src.Name)
	}
	if len(count) > 0 {
		return errors.New("entries of sources that the metadata do not name")
	}
	return nil
}

// inventory makes a manifest for a snapshot of the Python module, without
// checksums: of what its metadata name, as far as it is there.
func (d *dir) inventory(snap *Snapshot) (manifest, error) {
	var m manifest
	for _, src := range snap.Sources {
		if !src.Captured {
			continue
		}
		if src.Kind != Tree {
			m = append(m, entry{Path: rawString(src.Name), Type: typeDir, Mode: "0700"})
		}
		err := d.walk(context.Background(), src.Path, func(name string, fi fileInfo) error {
			e := entry{Path: rawString(name), Type: typeFile, Size: fi.size}
			e.setAttributes(fi)
			switch {
			case fi.isDir():
				e.Type = typeDir
			case fi.isLink():
				target, err := d.readlink(name)
				m = append(m, entry{Path: rawString(name), Type: typeLink, Target: rawString(target)})
				return err
			case !fi.isRegular():
				return nil
			case src.Kind == Database:
				e.Type = typeDatabase
			}
			m = append(m, e)
			return nil
		})
		if errors.Is(err, fs.ErrNotExist) {
			e := entry{Path: rawString(src.Path), Type: sourceTypes[src.Kind], Size: src.Bytes}
			m, err = append(m, e), nil
		}
		if err != nil {
			return nil, err
		}
	}
	m.sort()
	return m, nil
}

var sourceTypes = map[Kind]entryType{Database: typeDatabase, File: typeFile, Tree: typeDir}

// A verifier compares the entries of a snapshot with what is on disk.
type verifier struct {
	*Store
	ctx   context.Context
	dir   *dir
	level Level

	legacy bool // the entries are an inventory: see there

	files    int
	bytes    int64
	problems []Problem

	op          string
	done, total int64 // bytes
}

func (s *Store) newVerifier(ctx context.Context, d *dir, level Level, op string) *verifier {
	return &verifier{Store: s, ctx: ctx, dir: d, level: level, op: op}
}

// verify examines every entry and looks for what is none. Its error is for
// not having come to the end.
func (v *verifier) verify(sources []SourceState, entries manifest) error {
	found, err := v.list(entries)
	if err != nil {
		return err
	}
	for i := range entries {
		v.total += entries[i].Size
	}
	kinds := make(map[string]Kind)
	for _, src := range sources {
		kinds[src.Name] = src.Kind
	}
	missing := make(map[string]bool)
	for i := range entries {
		e := &entries[i]
		if err := v.ctx.Err(); err != nil {
			return err
		}
		fi, ok := found[string(e.Path)]
		if !ok {
			missing[string(e.Path)] = true
			if !missing[path.Dir(string(e.Path))] {
				v.add(e, missingCode(e, kinds[e.source()]), "")
			}
			continue
		}
		if err := v.entry(e, fi); err != nil {
			return err
		}
	}
	if v.legacy {
		v.totals(sources, entries)
	}
	return nil
}

// list returns what is on disk, by path, and notes what does not belong.
func (v *verifier) list(entries manifest) (map[string]fileInfo, error) {
	found := make(map[string]fileInfo)
	err := v.dir.walk(v.ctx, ".", func(name string, fi fileInfo) error {
		if name == "." || name == metadataName || name == manifestName {
			return nil
		}
		found[name] = fi
		if _, ok := entries.find(name); !ok && !v.legacy {
			src, _, _ := strings.Cut(name, "/")
			v.problems = append(v.problems, Problem{Code: CodeUnexpectedFile, Source: src, Path: name})
			if fi.isDir() {
				return fs.SkipDir
			}
		}
		return nil
	})
	return found, err
}

// missingCode says what it is that is missing: of a source that has one
// file, its directory is as good as that.
func missingCode(e *entry, kind Kind) Code {
	switch {
	case string(e.Path) == e.source() && kind == Tree:
		return CodeTreeMissing
	case e.Type == typeDatabase || kind == Database:
		return CodeDatabaseMissing
	}
	return CodeFileMissing
}

func (v *verifier) add(e *entry, code Code, detail string) {
	v.problems = append(v.problems, Problem{Code: code, Source: e.source(), Path: string(e.Path), Detail: detail})
}

// entry examines one entry that is there.
func (v *verifier) entry(e *entry, fi fileInfo) error {
	switch {
	case e.Type == typeDir:
		if !fi.isDir() {
			v.add(e, CodeTypeMismatch, "not a directory")
		}
		return nil
	case e.Type == typeLink:
		target, err := v.dir.readlink(string(e.Path))
		if err != nil || target != string(e.Target) {
			v.add(e, CodeTypeMismatch, "not the link that was copied")
		}
		return nil
	case !fi.isRegular():
		v.add(e, CodeTypeMismatch, "not a regular file")
		return nil
	}
	v.files++
	v.bytes += fi.size
	if fi.size != e.Size {
		v.add(e, CodeSizeMismatch, fmt.Sprintf("%d bytes, and not %d", fi.size, e.Size))
		if e.Type != typeDatabase {
			return nil
		}
	}
	return v.content(e)
}

// content reads an entry's bytes, as far as the level asks.
func (v *verifier) content(e *entry) error {
	if v.level == ValidateStructure && e.Type != typeDatabase {
		return nil
	}
	f, info, err := v.dir.open(string(e.Path))
	if err != nil {
		v.add(e, CodeUnreadable, err.Error())
		return v.ctx.Err()
	}
	defer f.Close() // nothing was written
	if v.level != ValidateStructure && info.size == e.Size && e.SHA256 != "" {
		hash := sha256.New()
		if _, err := copyBytes(v.ctx, hash, io.NewSectionReader(f, 0, info.size), v.moved(e)); err != nil {
			v.add(e, CodeUnreadable, err.Error())
			return v.ctx.Err()
		}
		if hex.EncodeToString(hash.Sum(nil)) != e.SHA256 {
			v.add(e, CodeChecksumMismatch, "")
		}
	}
	if e.Type != typeDatabase {
		return nil
	}
	problems, err := checkCopy(v.ctx, f, info.size, v.level, v.hostCheck(e))
	for _, p := range problems {
		v.add(e, p.Code, p.Detail)
	}
	return err
}

// hostCheck returns the host's own test, if the entry is a Database's copy.
func (v *verifier) hostCheck(e *entry) func(context.Context, *sqlite3.Conn) error {
	src, ok := v.source(e.source())
	if !ok || src.Kind != Database {
		return nil
	}
	return src.Check
}

func (v *verifier) moved(e *entry) func(int64) {
	return func(n int64) {
		v.done += n
		v.cfg.Progress(Progress{Op: v.op, Source: e.source(), Done: min(v.done, v.total), Total: v.total})
	}
}

// totals compares the number of files and their bytes with what the Python
// module recorded, which is all that it did.
func (v *verifier) totals(sources []SourceState, entries manifest) {
	for _, src := range sources {
		damaged := slices.ContainsFunc(v.problems, func(p Problem) bool { return p.Source == src.Name })
		if !src.Captured || src.Kind == File || damaged {
			continue
		}
		files, bytes := entries.sum(src.Name)
		if files != src.Files || bytes != src.Bytes {
			v.problems = append(v.problems, Problem{
				Code: CodeSizeMismatch, Source: src.Name, Path: src.Path,
				Detail: fmt.Sprintf("%d files of %d bytes, and not %d of %d", files, bytes, src.Files, src.Bytes),
			})
		}
	}
}
