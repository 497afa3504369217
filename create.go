package backup

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"unicode/utf8"

	"github.com/spf13/afero"
)

// CreateOptions are the options of [Store.Create].
type CreateOptions struct {
	// Include names the OnRequest sources to capture too.
	Include []string

	// Level is how thoroughly the copy is validated.
	Level Level

	// Labels are kept with the snapshot; 64 KiB at most.
	Labels map[string]string

	// Pin keeps Cleanup from removing the snapshot.
	Pin bool

	// Origin is what the snapshot's Origin says: OriginManual or
	// OriginScheduled. If empty, OriginManual.
	Origin string
}

// createRequest is what a new snapshot is to be.
type createRequest struct {
	CreateOptions
	sources []Source
	lenient bool            // see capture
	apart   map[string]bool // paths that it shares with no earlier one
}

// Create takes a snapshot of every source that is not OnRequest, and of
// those that Include names, while the service keeps running.
//
// The databases are copied as of one instant each, as close to one another
// as SQLite allows. The copy is then validated, as thoroughly as Level says: it
// is read back, but for [ValidateStructure]. A copy that fails is kept, with
// Validated false and its Problems, and is not an error.
//
// An error means that there is no new snapshot: what was written is removed,
// also when ctx is cancelled. After a crash it may remain, listed as
// incomplete, until Cleanup removes it. The one exception is
// [ErrDurabilityUnknown], with which the snapshot is returned too.
func (s *Store) Create(ctx context.Context, opts *CreateOptions) (*Snapshot, error) {
	snap, err := s.create(ctx, opts)
	if err != nil {
		return snap, fmt.Errorf("backup: create: %w", err)
	}
	return snap, nil
}

func (s *Store) create(ctx context.Context, opts *CreateOptions) (*Snapshot, error) {
	req, err := s.createRequest(opts)
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := s.precheck(ctx, req); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil { // before a store is made
		return nil, err
	}
	ss, err := s.write(ctx, shared)
	if err != nil {
		return nil, err
	}
	defer ss.close()
	return ss.create(ctx, req)
}

func (s *Store) createRequest(opts *CreateOptions) (createRequest, error) {
	var req createRequest
	if opts != nil {
		req.CreateOptions = *opts
		req.Labels = maps.Clone(opts.Labels) // the Snapshot keeps them
	}
	var mistakes []error
	for _, name := range req.Include {
		if _, ok := s.source(name); !ok {
			mistakes = append(mistakes, fmt.Errorf("include %q: %w", name, ErrUnknownSource))
		}
	}
	if !req.Level.valid() {
		mistakes = append(mistakes, fmt.Errorf("%v: no such level", req.Level))
	}
	const maxLabels = 64 << 10
	size := 0
	for k, v := range req.Labels {
		size += len(k) + len(v)
		if !utf8.ValidString(k) || !utf8.ValidString(v) {
			mistakes = append(mistakes, fmt.Errorf("label %q: %q is not UTF-8", k, v))
		}
	}
	if size > maxLabels {
		mistakes = append(mistakes, fmt.Errorf("labels of %d bytes: %d are allowed", size, maxLabels))
	}
	switch req.Origin {
	case "":
		req.Origin = OriginManual
	case OriginManual, OriginScheduled:
	default:
		mistakes = append(mistakes, fmt.Errorf("origin %q: want %q or %q", req.Origin, OriginManual, OriginScheduled))
	}
	for _, src := range s.cfg.Sources {
		if !src.OnRequest || slices.Contains(req.Include, src.Name) {
			req.sources = append(req.sources, src)
		}
	}
	return req, errors.Join(mistakes...)
}

// precheck finds what is missing before the store's directory is made for
// the first time. (Later, a restore may be under way in it, and has the
// sources.)
func (s *Store) precheck(ctx context.Context, req createRequest) error {
	there, err := s.hasStore()
	if err != nil || there {
		return err
	}
	c := s.newCapture(req)
	c.depth = scanNothing
	if !c.held.none() { // what is held would be refused later
		c.depth = scanNames
	}
	defer c.close()
	return c.locateSources(ctx, req.sources)
}

// create takes a snapshot. If what it shares with an earlier one has come to
// be damaged there, it takes another that does not share that.
func (ss *session) create(ctx context.Context, req createRequest) (*Snapshot, error) {
	req.apart = make(map[string]bool)
	for {
		snap, err := ss.createOnce(ctx, req)
		damage, ok := errors.AsType[sharedDamage](err)
		if !ok || errors.Is(err, errNotRemoved) {
			return snap, err
		}
		ss.cfg.Logger.WarnContext(ctx, "an earlier snapshot is damaged: what it has of some files is not used", "error", err)
		for _, path := range damage.paths {
			req.apart[path] = true
		}
	}
}

// createOnce takes a snapshot: measure, claim a name, copy, seal.
func (ss *session) createOnce(ctx context.Context, req createRequest) (snap *Snapshot, err error) {
	c := ss.newCapture(req)
	defer c.close()
	c.now = ss.cfg.Now()
	if err := ss.measure(ctx, c, req); err != nil {
		return nil, err
	}
	stamp, out, err := ss.claim(ctx, c.now)
	if err != nil {
		return nil, err
	}
	defer out.close()
	defer func() {
		if err != nil && !errors.Is(err, ErrDurabilityUnknown) {
			err = errors.Join(err, notRemoved(ss.remove(stamp)))
		}
		if err != nil {
			err = fmt.Errorf("%s: %w", stamp, err)
		}
	}()
	if err := ss.snapshots.syncDir("."); err != nil {
		return nil, err
	}
	c.out = out
	if err := c.run(ctx); err != nil {
		return nil, err
	}
	m := &metadata{
		Format: metadataFormat, Stamp: stamp, Origin: req.Origin, Pinned: req.Pin, Labels: req.Labels,
		Level: req.Level, Sources: ss.states(c), PosixNames: c.entries.posixNames(), Boot: ss.snapshots.bootID(), Volumes: c.volumes(),
	}
	m.CreatedAt = c.now.UTC().Round(0)
	if err := ss.writeManifest(ctx, out, c.entries, m); err != nil {
		return nil, err
	}
	if err := out.syncDir("."); err != nil {
		return nil, err
	}
	synced := out.startSync()
	defer synced() // in any case before out is closed, or removed; seal returns its error
	return ss.seal(ctx, out, m, c, req.sources, synced)
}

// errNotRemoved: something is left of a snapshot that there is not to be.
var errNotRemoved = errors.New("what was written could not be removed")

// notRemoved says that something is left, if err says so.
func notRemoved(err error) error {
	if err != nil {
		err = fmt.Errorf("%w: %w", errNotRemoved, err)
	}
	return err
}

func (s *Store) newCapture(req createRequest) *capture {
	return &capture{
		Store: s, lenient: req.lenient, apart: req.apart, held: findHeldFiles(), meter: s.newMeter("create"),
		patience: newPatience(s.cfg.BusyTimeout), holding: newPatience(min(s.cfg.BusyTimeout, holdPatience)),
		reappearing: newPatience(reappearPatience),
		pins:        make(map[string]*pin), unpinned: make(map[string]bool),
	}
}

// measure finds the sources, what of them is to be shared with earlier
// snapshots, and whether there is room for the rest.
func (ss *session) measure(ctx context.Context, c *capture, req createRequest) (err error) {
	if c.clones = ss.snapshots.cloning(); c.clones == clonesAlways {
		if c.device, err = ss.snapshots.device(); err != nil {
			return err
		}
	}
	if c.previous, err = ss.findPrevious(ctx, c.now, c.clones == clonesAlways, req.sources); err != nil {
		return err
	}
	if err := c.locateSources(ctx, req.sources); err != nil {
		return err
	}
	for _, t := range c.targets {
		c.meter.total[t.Name] = t.bytes
		if req.Level != ValidateStructure {
			c.meter.total[t.Name] *= 2 // it is read back
		}
	}
	return ss.snapshots.checkSpace(c.space())
}

func (c *capture) close() {
	for _, t := range c.targets {
		t.close()
	}
}

// states are those of all sources: what was not asked for was not captured.
func (s *Store) states(c *capture) []SourceState {
	var states []SourceState
	for _, src := range s.cfg.Sources {
		st := SourceState{Name: src.Name, Kind: src.Kind}
		for _, t := range c.targets {
			if t.Name == src.Name {
				st = c.state(t)
			}
		}
		states = append(states, st)
	}
	return states
}

// checkSpace compares what is needed in a directory with what is free there,
// where the file system can tell.
func (d *dir) checkSpace(need int64) error {
	free, ok := d.free()
	const margin = 1 << 20 // manifest, metadata, directories
	if ok && free < need+margin {
		return fmt.Errorf("%w in %s: %d bytes are needed, %d are free", ErrNoSpace, d.base, need+margin, free)
	}
	return nil
}

func (ss *session) writeManifest(ctx context.Context, out *dir, entries manifest, m *metadata) error {
	err := out.createFile(manifestName, func(f afero.File) error { return entries.write(f, maxManifestBytes) })
	if err != nil {
		return err
	}
	f, info, err := out.open(ctx, manifestName)
	if err != nil {
		return err
	}
	defer f.Close() // nothing was written
	m.ManifestBytes = info.size
	m.ManifestSHA256, err = hashOf(ctx, f, unreported)
	return err
}

// seal validates what was written and then writes the metadata, with which the
// snapshot begins to exist. All that they speak of is durable by then.
func (ss *session) seal(ctx context.Context, out *dir, m *metadata, c *capture, sources []Source, synced func() error) (*Snapshot, error) {
	for _, src := range m.Sources {
		m.Files += src.Files
		m.Bytes += src.Bytes
	}
	m.Problems = append([]Problem{}, c.problems...)
	v := newVerifier(ctx, newCrew(out.cores()), sources, m.Level, c.meter)
	err := v.verify(out, m.Sources, c.entries)
	if err == nil {
		err = v.checkShared(c.entries)
	}
	if err = errors.Join(err, synced()); err != nil {
		return nil, err
	}
	c.meter.finish()
	m.Problems = append(m.Problems, v.problems...)
	m.abridge()
	m.setLegacy(ss.snapshots.full(m.Stamp))
	m.toUTF8()
	data, err := seal(m)
	if err != nil {
		return nil, err
	}
	if len(data) > maxMetadataBytes {
		return nil, fmt.Errorf("metadata of %d bytes: %d are allowed: fewer sources or labels", len(data), maxMetadataBytes)
	}
	if err = out.replaceFile(metadataName, data); err != nil && !errors.Is(err, ErrDurabilityUnknown) {
		return nil, err
	}
	snap := m.snapshot()
	ss.cfg.Logger.InfoContext(ctx, "snapshot taken", "stamp", m.Stamp, "bytes", m.Bytes, "validated", snap.Validated)
	for _, p := range snap.Problems {
		ss.cfg.Logger.WarnContext(ctx, "snapshot has a problem", "stamp", m.Stamp, "problem", p.Error())
	}
	return &snap, err
}
