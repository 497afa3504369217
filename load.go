package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
)

// A loaded snapshot is one that can be read from.
type loaded struct {
	*dir
	snapshot *Snapshot
	entries  manifest
	legacy   bool              // made by the Python module
	volumes  map[string]string // see metadata
}

// load reads the metadata and the manifest of the snapshot in d. The error is for a
// shortage, of which nothing follows for the snapshot.
func (d *dir) load(ctx context.Context, stamp string) (*loaded, *Problem, error) {
	l := &loaded{dir: d}
	m, snap, err := d.readMetadata(ctx, stamp)
	l.snapshot = snap
	if isShortage(err) {
		return l, nil, err
	}
	if err != nil {
		return l, metadataProblem(err), nil
	}
	if l.legacy = m == nil; l.legacy {
		l.entries, err = d.inventory(snap)
	} else {
		l.volumes = m.Volumes
		l.entries, err = d.readManifest(ctx, m)
	}
	if isShortage(err) {
		return l, nil, err
	}
	if err != nil {
		return l, l.manifestProblem(err), nil
	}
	return l, nil, nil
}

// readMetadata reads the metadata of the snapshot in d; m is nil if they are
// the Python module's.
func (d *dir) readMetadata(ctx context.Context, stamp string) (m *metadata, snap *Snapshot, err error) {
	data, err := d.readFile(ctx, metadataName, maxMetadataBytes)
	if err != nil {
		return nil, nil, err
	}
	m, legacy, err := parseMetadata(data, stamp)
	if err != nil {
		return nil, nil, err
	}
	if m != nil {
		s := m.snapshot()
		return m, &s, nil
	}
	s, err := legacy.snapshot(stamp)
	if err != nil {
		return nil, nil, err
	}
	if ours, err := d.exists(manifestName); ours || err != nil {
		return nil, nil, errors.Join(errors.New("it has a manifest, but no metadata that go with it"), err)
	}
	return nil, &s, nil
}

// metadataProblem says what is wrong with metadata that cannot be read.
func metadataProblem(err error) *Problem {
	p := &Problem{Code: CodeMetadataInvalid, Path: metadataName, Detail: err.Error()}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		p.Code, p.Detail = CodeMetadataMissing, "unfinished, interrupted or half deleted"
	case isUnread(err):
		p.Code = CodeUnreadable
	}
	return p
}

// manifestProblem says what is wrong with a manifest that cannot be read. Where the
// files themselves must do for one, what stands in their way is damage.
func (l *loaded) manifestProblem(err error) *Problem {
	p := &Problem{Code: CodeManifestInvalid, Path: manifestName, Detail: err.Error()}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		p.Code, p.Detail = CodeManifestMissing, ""
	case !l.legacy && isUnread(err):
		p.Code = CodeUnreadable
	}
	return p
}

// isUnread reports whether an error is the file system's, which says nothing about
// what a file holds.
func isUnread(err error) bool {
	_, ok := errors.AsType[*fs.PathError](err)
	return ok && !errors.Is(err, errTooLarge) && !errors.Is(err, errNotRegular)
}

func (d *dir) readManifest(ctx context.Context, m *metadata) (manifest, error) {
	f, info, err := d.open(ctx, manifestName)
	if err != nil {
		return nil, err
	}
	defer f.Close() // nothing was written
	if info.size != m.ManifestBytes {
		return nil, fmt.Errorf("%d bytes, and not the %d of its metadata", info.size, m.ManifestBytes)
	}
	var lines lineCounter
	sum, err := hashOf(ctx, io.TeeReader(io.NewSectionReader(f, 0, info.size), &lines), unreported)
	if err != nil {
		return nil, err
	}
	if sum != m.ManifestSHA256 {
		return nil, errors.New("checksum mismatch")
	}
	if int(lines) > int(info.size)/minManifestLine { // memory is taken for each
		return nil, errors.New("lines that are too short")
	}
	entries, err := readManifest(ctx, newCrew(d.cores()), io.NewSectionReader(f, 0, info.size), int(lines), m.PosixNames)
	if err == nil {
		err = entries.agree(m.Sources, m.Problems)
	}
	return entries, err
}

// agree refuses a manifest that does not bear out what the metadata say.
func (m manifest) agree(sources []SourceState, problems []Problem) error {
	count := make(map[string]int)
	for i := range m {
		count[m[i].source()]++
	}
	for _, src := range sources {
		err := m.agreeOn(&src, problems)
		if src.Captured != (count[src.Name] > 0) {
			err = errors.New("metadata and manifest disagree on whether it was captured")
		}
		if err != nil {
			return fmt.Errorf("source %q: %w", src.Name, err)
		}
		delete(count, src.Name)
	}
	if len(count) > 0 {
		return errors.New("entries of sources that the metadata do not name")
	}
	return nil
}

// agreeOn is agree for one source. What a capture has copied raw it has noted:
// a manifest that does so in silence is not one of ours.
func (m manifest) agreeOn(src *SourceState, problems []Problem) error {
	noted := slices.ContainsFunc(problems, func(p Problem) bool {
		return p.Code == CodeRawCopy && (p.Source == src.Name || p.Source == "") // "" in what abridge says
	})
	main, ok := m.find(src.Path)
	hot := ok && main.Type != typeRaw
	for i := range m {
		e := &m[i]
		if e.source() != src.Name {
			continue
		}
		mixed := src.Kind == Database && hot && e.Type == typeRaw
		unsaid := e.Type == typeRaw && !noted
		if mixed || unsaid || !src.mayHave(e) {
			return fmt.Errorf("entry %q of type %q", e.Path, e.Type)
		}
	}
	files, bytes := m.sum(src.Name)
	if files != src.Files || bytes != src.Bytes {
		return fmt.Errorf("%d files of %d bytes, and not %d of %d", files, bytes, src.Files, src.Bytes)
	}
	if files == 0 && src.Captured && src.Kind != Tree {
		return errors.New("it has no file") // a restore would remove the live one
	}
	return nil
}

// mayHave reports whether an entry can be of a source: a Tree may have any, a
// File or Database its directory, its file and, if it was copied as it lay,
// its sidecars.
func (s *SourceState) mayHave(e *entry) bool {
	name := strings.ToValidUTF8(string(e.Path), "\uFFFD") // as the path of the source is
	suffix, ok := strings.CutPrefix(name, s.Path)
	switch {
	case string(e.Path) == s.Name:
		return e.Type == typeDir
	case s.Kind == Tree:
		return true
	case s.Kind == File:
		return e.Type == typeFile && name == s.Path
	case e.Type == typeRaw:
		return ok && (suffix == "" || slices.Contains(sidecars, suffix))
	}
	return e.Type == typeDatabase && name == s.Path
}

// inventory makes a manifest for a snapshot of the Python module, without
// checksums: of what its metadata name, as far as it is there.
func (d *dir) inventory(snap *Snapshot) (manifest, error) {
	var m manifest
	for _, src := range snap.Sources {
		if !src.Captured {
			continue
		}
		fi, err := d.lstat(src.Path)
		if err != nil || src.Kind != Tree || !fi.isDir() {
			m = append(m, d.inventoryOf(src, fi)...)
			if err = ignoreNotExist(err); err != nil {
				return nil, err
			}
			continue
		}
		err = d.walk(context.Background(), src.Path, func(at place, name string, fi fileInfo) error {
			e := entry{Path: rawString(name), Type: typeFile, Size: fi.size}
			e.setAttributes(fi)
			switch {
			case fi.isDir():
				e.Type = typeDir
			case fi.isLink():
				target, err := at.dir.readlink(at.name)
				m = append(m, entry{Path: rawString(name), Type: typeLink, Target: rawString(target)})
				return err
			case !fi.isRegular():
				return nil
			}
			m = append(m, e)
			return nil
		}, exceptGone)
		if err != nil {
			return nil, err
		}
	}
	m.sort()
	return m, nil
}

// inventoryOf makes the entries of a source that is one file, or that is not
// what it should be; fi is what is there.
func (d *dir) inventoryOf(src SourceState, fi fileInfo) manifest {
	e := entry{Path: rawString(src.Path), Type: sourceTypes[src.Kind], Size: fi.size}
	if src.Kind == Tree {
		e.Size = 0
	}
	e.setAttributes(fi)
	if src.Kind == Tree {
		return manifest{e}
	}
	return manifest{{Path: rawString(src.Name), Type: typeDir, Mode: "0700"}, e}
}

var sourceTypes = map[Kind]entryType{Database: typeDatabase, File: typeFile, Tree: typeDir}
