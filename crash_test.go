package backup_test

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/afero"

	"github.com/atocore/backup"
	"github.com/atocore/backup/internal/crashfs"
)

// These tests run an operation on a file system that fails, or loses power,
// at each of its operations in turn, and then look at what is left. What
// SQLite does goes through the same file system.

var crashFull = flag.Bool("crash.full", false, "explore every fault and every power cut, and not a sample")

// skipIfShort spares the race detector what it cannot find: these tests run
// one goroutine each.
func skipIfShort(t *testing.T) {
	if testing.Short() {
		t.Skip("crash states are explored without -short")
	}
}

// sampled reports whether case n is to be tried.
func (sc *scenario) sampled(n, every int) bool { return *crashFull && !sc.large || n%every == 0 }

// A scenario is an operation to be interrupted.
type scenario struct {
	name    string
	atOnce  bool                                             // on a file system with one sync for all
	links   bool                                             // its tree is LinkUnchanged, and nothing in it has changed lately
	large   bool                                             // never tried in full: that takes ten minutes
	uses    crashfs.OpKind                                   // what the operation is about, if not empty
	prepare func(t *testing.T, w *world)                     // after the fixture's
	run     func(ctx context.Context, s *backup.Store) error // the operation
	// after checks what must hold in the state after an interruption, given
	// those before the operation and after one that was not interrupted.
	after func(t *testing.T, before, finished, after *outcome, done error)
}

// errUnread: the operation was done as far as it could be, with files that
// could not be read, and has said so in its result.
var errUnread = errors.New("something could not be read")

// An outcome is what is found when the machine is up again and Recover was
// called.
type outcome struct {
	recovery  *backup.Recovery
	live      string // the sources' content
	snapshots map[string]backup.Snapshot
}

func (o *outcome) good() []string {
	var stamps []string
	for stamp, snap := range o.snapshots {
		if snap.HasMetadata && len(snap.Problems) == 0 {
			stamps = append(stamps, stamp)
		}
	}
	slices.Sort(stamps)
	return stamps
}

// crashWorld is small, for the sake of the number of states: a database of a
// few pages with its WAL, a file, and a tree.
func crashWorld(t *testing.T) *world {
	return crashWorldOn(t, crashfs.New(crashfs.Options{}))
}

func crashWorldOn(t *testing.T, fsys *crashfs.FS) *world {
	w := newWorld(t, fsys, "/srv")
	w.exec(t, "data/app.db", `PRAGMA page_size=512; PRAGMA journal_mode=WAL;
		CREATE TABLE t (x); INSERT INTO t VALUES ('old')`)
	w.write(t, "reg.json", "old")
	w.write(t, "tree/a", "old")
	w.write(t, "tree/d/b", "same")
	w.write(t, "others", "canary")
	return w
}

// mutate changes all that crashWorld made.
func (w *world) mutate(t *testing.T) {
	w.exec(t, "data/app.db", "UPDATE t SET x = 'new'")
	w.write(t, "reg.json", "new")
	w.write(t, "tree/a", "new")
	w.write(t, "tree/c", "new")
}

func (w *world) crashStore(t *testing.T) *backup.Store {
	return w.store(t, func(cfg *backup.Config) {
		cfg.BusyTimeout = time.Nanosecond
		fsys := bootedFs{FS: w.crashFs()}
		if w.links {
			fsys.boot = "this one"
		}
		cfg.Fs = fsys
		if w.atOnce {
			cfg.Fs = syncsAtOnce{fsys}
		}
		cfg.Sources = []backup.Source{
			{Name: "app", Kind: backup.Database, Path: w.path("data/app.db")},
			{Name: "reg", Kind: backup.File, Path: w.path("reg.json")},
			{Name: "tree", Kind: backup.Tree, Path: w.path("tree"), LinkUnchanged: w.links},
		}
	})
}

// slowFs returns a file system on which everything takes so long that no file
// is too new to be known as unchanged.
func slowFs() *crashfs.FS {
	now := start
	return crashfs.New(crashfs.Options{Now: func() time.Time {
		now = now.Add(time.Hour)
		return now
	}})
}

// A syncsAtOnce is a file system with one sync for all of it, as Linux has.
type syncsAtOnce struct{ bootedFs }

func (fsys syncsAtOnce) SyncFS() error { return fsys.SyncAll() }

// A bootedFs is a file system that tells when its system was started.
type bootedFs struct {
	*crashfs.FS
	boot string
}

func (fsys bootedFs) BootID() string { return fsys.boot }

// on returns the world on another file system.
func (w *world) on(fsys afero.Fs) *world {
	return &world{fs: fsys, root: w.root, now: w.now, atOnce: w.atOnce, links: w.links}
}

func (w *world) crashFs() *crashfs.FS { return w.fs.(*crashfs.FS) }

// live sums up the content of the sources.
func (w *world) live(t *testing.T) string {
	t.Helper()
	var parts []string
	if w.exists(t, "data/app.db") {
		parts = append(parts, "db: "+w.query(t, "data/app.db", "SELECT x FROM t"), w.query(t, "data/app.db", "PRAGMA integrity_check"))
	}
	for name, content := range w.tree(t, ".") {
		if strings.HasSuffix(name, "-shm") || strings.HasSuffix(name, "-wal") && strings.HasSuffix(content, " ") {
			continue // a look at a database leaves them, if it is killed
		}
		if name == "reg.json" || strings.HasPrefix(name, "tree/") || name == "others" {
			_, content, _ = strings.Cut(content, " ")
			parts = append(parts, name+": "+content)
		}
		if strings.Contains(name, ".atobackup-") {
			t.Errorf("left behind: %s", name)
		}
	}
	slices.Sort(parts)
	return strings.Join(parts, "\n")
}

// reboot recovers what a crash left on fsys, and checks what must hold
// whatever was interrupted.
func (w *world) reboot(t *testing.T, fsys *crashfs.FS) *outcome {
	t.Helper()
	w = w.on(fsys)
	s := w.crashStore(t)
	recovery, err := s.Recover(t.Context())
	if err != nil {
		t.Errorf("recover: %v", err)
		return nil
	}
	if r, err := s.Recover(t.Context()); err != nil || r.Outcome != backup.NothingPending {
		t.Errorf("second recover: %+v, %v", r, err)
	}
	snapshots, err := s.List(t.Context())
	if err != nil {
		t.Errorf("list: %v", err)
		return nil
	}
	o := &outcome{recovery: recovery, live: w.live(t), snapshots: make(map[string]backup.Snapshot)}
	for _, snap := range snapshots {
		o.snapshots[snap.Stamp] = snap
		if !snap.HasMetadata || len(snap.Problems) > 0 {
			continue
		}
		report, err := s.Validate(t.Context(), snap.Stamp, nil)
		if err != nil || !report.Valid {
			t.Errorf("%s lists as whole, but: %v, %v", snap.Stamp, report.Err(), err)
		}
	}
	return o
}

var scenarios = []scenario{
	{
		name:  "create",
		run:   createValid,
		after: afterCreate,
	},
	{
		name:   "create_with_one_sync",
		atOnce: true,
		run:    createValid,
		after:  afterCreate,
	},
	{
		name:    "create_with_links",
		links:   true,
		uses:    crashfs.OpLink,
		prepare: func(t *testing.T, w *world) { w.write(t, "tree/a", "new") },
		run:     createValid,
		after:   afterCreate,
	},
	{
		name:   "create_with_links_and_one_sync",
		links:  true,
		uses:   crashfs.OpLink,
		atOnce: true,
		run:    createValid,
		after:  afterCreate,
	},
	{
		name:  "delete_of_what_is_linked",
		links: true,
		prepare: func(t *testing.T, w *world) {
			if _, err := w.crashStore(t).Create(t.Context(), nil); err != nil {
				t.Fatal(err)
			}
		},
		run: func(ctx context.Context, s *backup.Store) error {
			snapshots, err := s.List(ctx)
			if err != nil {
				return err
			}
			return s.Delete(ctx, snapshots[len(snapshots)-1].Stamp)
		},
		after: func(t *testing.T, before, _, after *outcome, done error) {
			all := before.good()
			if newest := all[len(all)-1]; !slices.Contains(after.good(), newest) {
				t.Errorf("snapshot %s went with one that it shares files with: %v", newest, after.good())
			}
			if done == nil && len(after.snapshots) != 1 {
				t.Errorf("deleted, and left %v", after.snapshots)
			}
		},
	},
	{
		name:    "restore",
		prepare: func(t *testing.T, w *world) { w.mutate(t) },
		run:     restoreNewest,
		after:   afterRestore,
	},
	{
		name:    "restore_with_one_sync",
		atOnce:  true,
		prepare: func(t *testing.T, w *world) { w.mutate(t) },
		run:     restoreNewest,
		after:   afterRestore,
	},
	{
		name:  "restore_of_databases_in_a_tree",
		large: true,
		prepare: func(t *testing.T, w *world) {
			for _, db := range []string{"tree/x.db", "tree/d/x.db"} {
				w.exec(t, db, "PRAGMA page_size=512; PRAGMA journal_mode=WAL; CREATE TABLE t (x)")
			}
			if err := createValid(t.Context(), w.crashStore(t)); err != nil {
				t.Fatal(err)
			}
			w.mutate(t)
			w.exec(t, "tree/d/x.db", "INSERT INTO t VALUES ('new')")
		},
		run:   restoreNewest,
		after: afterRestore,
	},
	{
		name: "restore_over_mount_points",
		prepare: func(t *testing.T, w *world) {
			w.mutate(t)
			for _, name := range []string{"data/app.db", "reg.json", "tree"} {
				if err := w.crashFs().SetMount(w.path(name)); err != nil {
					t.Fatal(err)
				}
			}
		},
		run:   restoreNewest,
		after: afterRestore,
	},
	{
		name: "restore_of_what_is_missing",
		prepare: func(t *testing.T, w *world) {
			for _, name := range []string{"data", "reg.json", "tree"} {
				if err := w.fs.RemoveAll(w.path(name)); err != nil {
					t.Fatal(err)
				}
			}
		},
		run:   restoreNewest,
		after: afterRestore,
	},
	{
		name: "delete",
		run: func(ctx context.Context, s *backup.Store) error {
			snapshots, err := s.List(ctx)
			if err != nil {
				return err
			}
			return s.Delete(ctx, snapshots[0].Stamp)
		},
		after: func(t *testing.T, before, _, after *outcome, done error) {
			if after.live != before.live {
				t.Errorf("live state:\n%s\nwant:\n%s", after.live, before.live)
			}
			if done == nil && len(after.snapshots) != 0 {
				t.Errorf("deleted, and still there: %v", after.snapshots)
			}
		},
	},
	{
		name: "cleanup",
		prepare: func(t *testing.T, w *world) {
			s := w.crashStore(t)
			for range 2 {
				if _, err := s.Create(t.Context(), nil); err != nil {
					t.Fatal(err)
				}
			}
		},
		run: func(ctx context.Context, s *backup.Store) error {
			result, err := s.Cleanup(ctx, &backup.CleanupOptions{Confirm: true, Retention: &backup.Retention{Last: 1}})
			if err == nil && result.Deleted != 2 {
				return errUnread
			}
			return err
		},
		after: func(t *testing.T, before, _, after *outcome, done error) {
			if after.live != before.live {
				t.Errorf("live state:\n%s\nwant:\n%s", after.live, before.live)
			}
			all := before.good()
			newest := all[len(all)-1]
			if !slices.Contains(after.good(), newest) {
				t.Errorf("the newest good snapshot %s is gone: %v", newest, after.good())
			}
			if done == nil && len(after.snapshots) != 1 {
				t.Errorf("cleaned up, and left %v", after.snapshots)
			}
		},
	},
}

func createValid(ctx context.Context, s *backup.Store) error {
	snap, err := s.Create(ctx, nil)
	if err == nil && !snap.Validated {
		return errUnread
	}
	return err
}

func afterCreate(t *testing.T, before, _, after *outcome, done error) {
	if after.live != before.live {
		t.Errorf("live state:\n%s\nwant:\n%s", after.live, before.live)
	}
	added := len(after.good()) - len(before.good())
	if added < 0 || done == nil && added != 1 || done != nil && added != 0 && !mayBeDone(done) {
		t.Errorf("%d snapshots more, and the operation said %v", added, done)
	}
}

// restoreNewest restores the newest snapshot.
func restoreNewest(ctx context.Context, s *backup.Store) error {
	snapshots, err := s.List(ctx)
	if err != nil {
		return err
	}
	_, err = s.Restore(ctx, snapshots[0].Stamp, confirmed)
	return err
}

// afterRestore demands the old state or the new one, wholly.
func afterRestore(t *testing.T, before, finished, after *outcome, done error) {
	switch {
	case after.live == finished.live:
	case after.live != before.live:
		t.Errorf("live state is neither the old nor the new one:\n%s\nold:\n%s\nnew:\n%s", after.live, before.live, finished.live)
	case done == nil:
		t.Error("restored, and the old state is there")
	}
	if done != nil && !mayBeDone(done) && after.live != before.live {
		t.Errorf("not restored (%v), and the new state is there", done)
	}
	for _, stamp := range before.good() {
		if !slices.Contains(after.good(), stamp) {
			t.Errorf("snapshot %s is gone", stamp)
		}
	}
}

// errNotTakenBack: the file system went on failing, so that what had been
// done could not be undone.
var errNotTakenBack = errors.New("the file system went on failing")

// mayBeDone reports whether an operation that failed so may have taken effect
// all the same.
func mayBeDone(err error) bool {
	return errors.Is(err, errNotTakenBack) || errors.Is(err, backup.ErrDurabilityUnknown) || errors.Is(err, backup.ErrRecoveryPending) ||
		errors.Is(err, crashfs.ErrPowerCut)
}

// A fixture is a world with one good snapshot, all of it durable, and the
// states before an operation and after it.
type fixture struct {
	*scenario
	*world
	ops              []crashfs.Op // of the operation
	before, finished *outcome
}

func (sc *scenario) fixture(t *testing.T) *fixture {
	t.Helper()
	w := crashWorld(t)
	if sc.links {
		w = crashWorldOn(t, slowFs())
	}
	w.atOnce, w.links = sc.atOnce, sc.links
	if _, err := w.crashStore(t).Create(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if sc.prepare != nil {
		sc.prepare(t, w)
	}
	f := &fixture{scenario: sc, world: w.on(w.crashFs().Clone())}
	f.before = f.reboot(t, f.crashFs().Clone())
	fsys, err := f.try(t)
	if err != nil {
		t.Fatal(err)
	}
	f.ops = fsys.Log()
	if sc.uses != "" && !slices.ContainsFunc(f.ops, func(op crashfs.Op) bool { return op.Kind == sc.uses }) {
		t.Fatalf("%s: no %s among its operations", sc.name, sc.uses)
	}
	f.finished = f.reboot(t, fsys.Clone())
	if t.Failed() {
		t.FailNow()
	}
	return f
}

// try runs the operation on a copy of the fixture, with faults.
func (f *fixture) try(t *testing.T, faults ...crashfs.Fault) (*crashfs.FS, error) {
	fsys := f.crashFs().Clone()
	fsys.Inject(faults...)
	return fsys, f.run(t.Context(), f.on(fsys).crashStore(t))
}

func TestPowerCuts(t *testing.T) {
	skipIfShort(t)
	for _, sc := range scenarios {
		t.Run(sc.name, func(t *testing.T) {
			t.Parallel()
			f := sc.fixture(t)
			cuts, states, tried := 0, 0, 0
			for n := range cutPoints(f.ops) {
				if !sc.sampled(n, 3) {
					continue
				}
				fsys, done := f.try(t, crashfs.CutAt(n))
				cuts++
				for label, left := range fsys.CrashStates(8) {
					if states++; !sc.sampled(states, 13) {
						continue
					}
					tried++
					f.check(t, fmt.Sprintf("cut before #%d of %d, %s", n, len(f.ops), label), left, done)
					if t.Failed() {
						explain(t, f.ops, n)
					}
				}
			}
			t.Logf("%d operations, %d cuts, %d of %d states explored", len(f.ops), cuts, tried, states)
		})
	}
}

// cutPoints yields the operations before which a cut finds something new on
// disk: those after one that changes something, and the end.
func cutPoints(ops []crashfs.Op) func(yield func(int) bool) {
	return func(yield func(int) bool) {
		changed := true
		for _, op := range ops {
			if changed && !yield(op.N) {
				return
			}
			changed = op.Changes()
		}
		yield(len(ops) + 1)
	}
}

// check looks at what was left.
func (f *fixture) check(t *testing.T, label string, left *crashfs.FS, done error) {
	t.Helper()
	if after := f.reboot(t, left.Clone()); after != nil {
		f.after(t, f.before, f.finished, after, done)
		if done == nil && after.recovery.Outcome != backup.NothingPending {
			t.Errorf("done, and yet to recover: %+v", after.recovery)
		}
	}
	if t.Failed() {
		t.Errorf("%s: the operation said: %v", label, done)
	}
}

// explain ends a test with the operations around the one that failed.
func explain(t *testing.T, ops []crashfs.Op, n int) {
	t.Helper()
	for _, op := range ops[max(0, n-25):min(len(ops), n+3)] {
		t.Log(op)
	}
	t.FailNow()
}

func TestFaults(t *testing.T) {
	skipIfShort(t)
	for _, sc := range scenarios {
		t.Run(sc.name, func(t *testing.T) {
			t.Parallel()
			f := sc.fixture(t)
			faults := 0
			for _, op := range f.ops {
				for i, fault := range op.Faults() {
					for _, repeat := range []crashfs.Repeat{crashfs.Once, crashfs.SameKind, crashfs.Forever} {
						if faults++; !sc.sampled(faults+i, 47) {
							continue
						}
						fault.Repeat = repeat
						f.strike(t, op, fault)
						if t.Failed() {
							explain(t, f.ops, op.N)
						}
					}
				}
			}
			t.Logf("%d operations, %d faults", len(f.ops), faults)
		})
	}
}

// strike runs the operation with a fault and looks at what it leaves.
func (f *fixture) strike(t *testing.T, op crashfs.Op, fault crashfs.Fault) {
	t.Helper()
	fsys, done := f.try(t, fault)
	if done != nil && fault.Repeat != crashfs.Once {
		done = errors.Join(done, errNotTakenBack)
	}
	f.check(t, fmt.Sprintf("%s, %s", op, fault), fsys, done)
	if done != nil {
		return
	}
	for label, left := range fsys.CrashStates(0) { // no later cut may take it back
		f.check(t, fmt.Sprintf("%s, %s, %s", op, fault, label), left, done)
	}
}

// TestPowerCutsDuringRecover cuts the power a second time, while Recover is
// at work.
func TestPowerCutsDuringRecover(t *testing.T) {
	skipIfShort(t)
	for _, sc := range scenarios {
		if !strings.HasPrefix(sc.name, "restore") {
			continue
		}
		t.Run(sc.name, func(t *testing.T) {
			t.Parallel()
			f := sc.fixture(t)
			states := 0
			for n := range cutPoints(f.ops) {
				if !sc.sampled(n, 41) {
					continue
				}
				fsys, done := f.try(t, crashfs.CutAt(n))
				for label, left := range fsys.CrashStates(0) {
					states += f.cutRecover(t, fmt.Sprintf("cut before #%d, %s", n, label), n, left, done)
					if t.Failed() {
						explain(t, f.ops, n)
					}
				}
			}
			t.Logf("%d states", states)
		})
	}
}

// cutRecover lets Recover loose on what a crash before operation cut left,
// and cuts it short, or lets it fail, at every thirteenth operation, other ones for
// other cuts: all of them would be millions of states.
func (f *fixture) cutRecover(t *testing.T, label string, cut int, left *crashfs.FS, done error) (states int) {
	t.Helper()
	recover := func(faults ...crashfs.Fault) *crashfs.FS {
		fsys := left.Clone()
		fsys.Inject(faults...)
		_, _ = f.on(fsys).crashStore(t).Recover(t.Context()) // fails by the cut
		return fsys
	}
	done = cmp.Or(done, error(crashfs.ErrPowerCut))
	for n := range cutPoints(recover().Log()) {
		if (n+cut)%13 != 0 {
			continue
		}
		failed := recover(crashfs.Fault{At: n - 1, Effect: crashfs.FailAfter})
		f.check(t, fmt.Sprintf("%s; recover failed at #%d", label, n-1), failed, done)
		for label2, left2 := range recover(crashfs.CutAt(n)).CrashStates(0) {
			states++
			f.check(t, fmt.Sprintf("%s; recover cut before #%d, %s", label, n, label2), left2, done)
			if t.Failed() {
				return states
			}
		}
	}
	return states
}

// TestPowerCutsDuringUndo lets the last step of a restore fail, so that all of
// it is undone, and cuts the power meanwhile.
func TestPowerCutsDuringUndo(t *testing.T) {
	skipIfShort(t)
	for _, sc := range scenarios {
		if !strings.HasPrefix(sc.name, "restore") {
			continue
		}
		t.Run(sc.name, func(t *testing.T) {
			t.Parallel()
			f := sc.fixture(t)
			failure := crashfs.Fault{At: lastStep(t, f.ops), Effect: crashfs.FailBefore}
			fsys, err := f.try(t, failure)
			if err == nil {
				t.Fatalf("restored in spite of %v", failure)
			}
			ops, cuts, states := fsys.Log(), 0, 0
			for n := range cutPoints(ops) {
				if n <= failure.At || !sc.sampled(n, 3) {
					continue
				}
				fsys, done := f.try(t, failure, crashfs.CutAt(n))
				cuts++
				for label, left := range fsys.CrashStates(8) {
					if states++; !sc.sampled(states, 7) {
						continue
					}
					f.check(t, fmt.Sprintf("%v; cut before #%d of %d, %s", failure, n, len(ops), label), left, cmp.Or(done, err))
					if t.Failed() {
						explain(t, ops, n)
					}
				}
			}
			t.Logf("%d operations, %d cuts, %d states", len(ops), cuts, states)
		})
	}
}

// lastStep returns the number of the last operation that puts something in
// place, before the journal says that all is.
func lastStep(t *testing.T, ops []crashfs.Op) int {
	t.Helper()
	last, journals := 0, 0
	for _, op := range ops {
		switch {
		case op.Kind == crashfs.OpRename && strings.HasSuffix(op.To, "/restore-journal.json"):
			journals++
		case journals >= 2 && strings.Contains(op.Path, "restore-journal.json"):
			return last
		case journals >= 2 && op.Changes() && op.Kind != crashfs.OpSync:
			last = op.N
		}
	}
	t.Fatal("no step found")
	return 0
}

// The modes of what was restored are durable, like its bytes, also of what had
// to be overwritten.
func TestPowerCutsKeepRestoredModes(t *testing.T) {
	for name, mounted := range map[string]bool{"renamed": false, "mounted": true} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, crashfs.New(crashfs.Options{}), "/srv")
			w.write(t, "reg.json", "secret")
			w.write(t, "tree/d/f", "x")
			w.write(t, "tree/secret", "x")
			modes := map[string]fs.FileMode{"reg.json": 0o600, "tree/d": 0o755, "tree/d/f": 0o644, "tree/secret": 0o200}
			for p, perm := range modes {
				w.attribute(t, p, perm, start)
			}
			sources := withSources(w.file("reg.json"), w.treeSource("tree"))
			stamp := mustCreate(t, w.store(t, sources)).Stamp
			w.write(t, "reg.json", "public")
			w.attribute(t, "reg.json", 0o644, start)
			if mounted {
				if err := w.crashFs().SetMount(w.path("reg.json")); err != nil {
					t.Fatal(err)
				}
			}
			w.fs = w.fs.(*crashfs.FS).Clone() // all so far is on the disk
			w.restore(t, w.store(t, sources), stamp)
			for label, left := range w.fs.(*crashfs.FS).CrashStates(8) {
				for p, perm := range modes {
					fi, err := left.Stat(w.path(p))
					if err != nil {
						t.Errorf("%s: %v", label, err)
					} else if fi.Mode().Perm() != perm {
						t.Errorf("%s: %s: %v, want %v", label, p, fi.Mode().Perm(), perm)
					}
				}
			}
		})
	}
}
