package backup_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/atocore/backup"
)

// What the Python module of the ATOCore service promised, and the snapshots
// that it left.

func TestDrill(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		w.seed(t)
		s := w.store(t)
		snap := w.create(t, s)
		w.exec(t, "data/atocore.db", "INSERT INTO memories (body) VALUES ('mutation')")

		r := w.restore(t, s, snap.Stamp)
		if !r.IntegrityOK {
			t.Error("restored database fails its check")
		}
		if got := w.query(t, "data/atocore.db", "SELECT body FROM memories"); got != "baseline" {
			t.Errorf("after restore: %q, want the baseline alone", got)
		}
		w.restore(t, s, r.SafetyStamp)
		if got := w.query(t, "data/atocore.db", "SELECT body FROM memories"); got != "baseline\nmutation" {
			t.Errorf("after undo: %q, want the mutation back", got)
		}
	})
}

// metadata returns the keys of a snapshot's metadata.
func (w *world) metadata(t *testing.T, stamp string) map[string]any {
	t.Helper()
	var keys map[string]any
	if err := json.Unmarshal([]byte(w.read(t, in(stamp, metadataFile))), &keys); err != nil {
		t.Fatal(err)
	}
	return keys
}

// checkKeys compares some keys of a snapshot's metadata.
func (w *world) checkKeys(t *testing.T, stamp string, want map[string]any) {
	t.Helper()
	keys := w.metadata(t, stamp)
	for key, value := range want {
		if got, ok := keys[key]; !ok || got != value {
			t.Errorf("metadata key %q: %v, want %v", key, got, value)
		}
	}
}

func TestMetadataHavePythonKeys(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		w.seed(t)
		snap := w.create(t, w.store(t))
		dir := func(name string) string { // as the operating system has it
			return filepath.Join(w.metadata(t, snap.Stamp)["backup_root"].(string), filepath.FromSlash(name))
		}
		if !strings.HasSuffix(dir("."), filepath.FromSlash("backups/snapshots/"+snap.Stamp)) {
			t.Errorf("backup_root %q", dir("."))
		}
		db, _ := snap.Source("db")
		w.checkKeys(t, snap.Stamp, map[string]any{
			"created_at":             snap.CreatedAt.Format(time.RFC3339),
			"db_snapshot_path":       dir("db/atocore.db"),
			"db_size_bytes":          float64(db.Bytes),
			"registry_snapshot_path": dir("config/project-registry.json"),
			"validated":              true,
		})
	})
}

func TestMissingRegistryIsEmpty(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		w.seed(t)
		w.drop(t, "config/project-registry.json")
		s := w.store(t)
		snap, err := s.Create(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		want := backup.SourceState{Name: "config", Kind: backup.File}
		if got, ok := snap.Source("config"); !ok || !cmp.Equal(got, want) {
			t.Errorf("got %+v, want %+v", got, want)
		}
		w.checkKeys(t, snap.Stamp, map[string]any{"registry_snapshot_path": ""})

		w.write(t, "config/project-registry.json", "made since")
		w.restore(t, s, snap.Stamp)
		if got := w.read(t, "config/project-registry.json"); got != "made since" {
			t.Errorf("a source that was not captured was not left alone: %q", got)
		}
	})
}

func TestVectorStoreOnlyWhenAsked(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		w.seed(t)
		s := w.store(t)
		snap, err := s.Create(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := snap.Source("chroma"); got.Captured || w.exists(t, in(snap.Stamp, "chroma")) {
			t.Errorf("captured without being asked for: %+v", got)
		}
		w.checkKeys(t, snap.Stamp, map[string]any{
			"chroma_snapshot_included": false, "chroma_snapshot_path": "",
			"chroma_snapshot_files": 0.0, "chroma_snapshot_bytes": 0.0, "vector_store_note": "",
		})

		snap = w.create(t, s)
		bytes := len(w.read(t, "chroma/chroma.sqlite3")) + len(w.read(t, "chroma/collection-a/data.bin"))
		want := backup.SourceState{Name: "chroma", Kind: backup.Tree, Captured: true, Path: "chroma", Files: 2, Bytes: int64(bytes)}
		if got, _ := snap.Source("chroma"); !cmp.Equal(got, want) {
			t.Errorf("got %+v, want %+v", got, want)
		}
		w.checkKeys(t, snap.Stamp, map[string]any{
			"chroma_snapshot_included": true, "chroma_snapshot_files": 2.0, "chroma_snapshot_bytes": float64(bytes),
			"chroma_snapshot_path": filepath.Join(w.metadata(t, snap.Stamp)["backup_root"].(string), "chroma"),
		})
	})
}

func TestRestoreOfVectorStore(t *testing.T) {
	for _, tc := range []struct {
		name    string
		include []string
		sources []string
		want    string
		back    []string
	}{
		{"brought_back_by_default", []string{"chroma"}, nil, "as it was", []string{"db", "config", "chroma"}},
		{"left_when_told", []string{"chroma"}, []string{"db"}, "mutated", []string{"db"}},
		{"left_when_not_captured", nil, nil, "mutated", []string{"db", "config"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			eachFs(t, func(t *testing.T, w *world) {
				w.seed(t)
				w.write(t, "chroma/collection-a/data.bin", "as it was")
				s := w.store(t)
				snap, err := s.Create(t.Context(), &backup.CreateOptions{Include: tc.include})
				if err != nil {
					t.Fatal(err)
				}
				w.write(t, "chroma/collection-a/data.bin", "mutated")
				r, err := s.Restore(t.Context(), snap.Stamp, &backup.RestoreOptions{ConfirmServiceStopped: true, Sources: tc.sources})
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(r.Restored, tc.back); diff != "" {
					t.Errorf("restored (-got +want):\n%s", diff)
				}
				if got := w.read(t, "chroma/collection-a/data.bin"); got != tc.want {
					t.Errorf("%q, want %q", got, tc.want)
				}
				// The safety snapshot has what was replaced, and only that.
				safety := w.listed(t, s, r.SafetyStamp)
				if chroma, _ := safety.Source("chroma"); chroma.Captured != (len(tc.back) == 3) {
					t.Errorf("safety snapshot: %+v", chroma)
				}
			})
		})
	}
}

// listed returns a snapshot as List has it.
func (w *world) listed(t *testing.T, s *backup.Store, stamp string) *backup.Snapshot {
	t.Helper()
	for _, snap := range w.list(t, s) {
		if snap.Stamp == stamp {
			return &snap
		}
	}
	t.Fatalf("%s is not listed", stamp)
	return nil
}

func (w *world) list(t *testing.T, s *backup.Store) []backup.Snapshot {
	t.Helper()
	list, err := s.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func TestMissingStampIsReported(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		w.seed(t)
		s := w.store(t)
		w.create(t, s)
		r := w.validate(t, s, missingStamp, nil)
		if diff := cmp.Diff(codes(r.Problems), []backup.Code{backup.CodeSnapshotMissing}); r.Exists || r.Valid || diff != "" {
			t.Errorf("%+v (-got +want):\n%s", r, diff)
		}
	})
}

func TestRestoreRefusesClearly(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		w.seed(t)
		s := w.store(t)
		stamp := w.create(t, s).Stamp
		before := w.stat(t, ".")
		for _, opts := range []*backup.RestoreOptions{nil, {}, {Sources: []string{"db"}}, {SkipSafetySnapshot: true}} {
			r, err := s.Restore(t.Context(), stamp, opts)
			if r != nil || !errors.Is(err, backup.ErrNotConfirmed) || !strings.Contains(err.Error(), "ConfirmServiceStopped") {
				t.Errorf("not confirmed: %+v, %v", r, err)
			}
		}
		if diff := cmp.Diff(w.stat(t, "."), before); diff != "" {
			t.Errorf("changed by a restore that was refused (-after +before):\n%s", diff)
		}

		w.edit(t, in(stamp, "db/atocore.db"), flip(5000))
		before = w.stat(t, ".")
		for stamp, code := range map[string]backup.Code{stamp: backup.CodeChecksumMismatch, missingStamp: backup.CodeSnapshotMissing} {
			r, err := s.Restore(t.Context(), stamp, confirmed)
			if r != nil || !errors.Is(err, backup.ErrInvalidSnapshot) || !errors.Is(err, code) {
				t.Fatalf("invalid: %+v, %v", r, err)
			}
			for _, word := range []string{"failed validation", string(code), stamp} {
				if !strings.Contains(err.Error(), word) {
					t.Errorf("%v: does not say %q", err, word)
				}
			}
		}
		if diff := cmp.Diff(w.stat(t, "."), before); diff != "" {
			t.Errorf("changed by a restore that was refused (-after +before):\n%s", diff)
		}
	})
}

func TestSkippingTheSafetySnapshotMakesNone(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		w.seed(t)
		s := w.store(t)
		stamp := w.create(t, s).Stamp
		r, err := s.Restore(t.Context(), stamp, &backup.RestoreOptions{ConfirmServiceStopped: true, SkipSafetySnapshot: true})
		if err != nil {
			t.Fatal(err)
		}
		if n := len(w.list(t, s)); n != 1 || r.SafetyStamp != "" {
			t.Errorf("%d snapshots, want 1; safety snapshot %q", n, r.SafetyStamp)
		}
		var got map[string]any
		remarshal(t, *r, &got) // by value: hosts put it in structs of theirs
		want := map[string]any{
			"stamp": stamp, "restored": []any{"db", "config", "chroma"}, "pre_restore_snapshot": nil,
			"restored_integrity_ok": true, "bytes": float64(r.Bytes), "dry_run": false,
		}
		if diff := cmp.Diff(got, want); diff != "" || r.Bytes == 0 {
			t.Errorf("json (-got +want):\n%s", diff)
		}
		w.restore(t, s, stamp)
		if n := len(w.list(t, s)); n != 2 {
			t.Errorf("%d snapshots after a restore with a safety snapshot, want 2", n)
		}
	})
}

func TestStaleSidecarBytesDoNotSurviveARestore(t *testing.T) {
	for _, tc := range []struct {
		name  string
		stale func(t *testing.T, w *world) string // what the sidecars hold
	}{
		{"garbage", func(*testing.T, *world) string { return strings.Repeat("stale sidecar bytes ", 500) }},
		{"empty", func(*testing.T, *world) string { return "" }},
		{"log_that_would_replay", staleWAL},
	} {
		t.Run(tc.name, func(t *testing.T) {
			eachFs(t, func(t *testing.T, w *world) {
				stale := tc.stale(t, w)
				w.seed(t)
				s := w.store(t)
				stamp := w.create(t, s).Stamp
				for _, suffix := range []string{"-wal", "-shm", "-journal"} {
					w.write(t, "data/atocore.db"+suffix, stale)
				}
				r := w.restore(t, s, stamp)
				if diff := cmp.Diff(w.names(t, "data"), []string{".", "atocore.db"}); diff != "" || !r.IntegrityOK {
					t.Errorf("integrity %v; beside the database (-got +want):\n%s", r.IntegrityOK, diff)
				}
				if got := w.query(t, "data/atocore.db", "SELECT body FROM memories"); got != "baseline" {
					t.Errorf("restored: %q", got)
				}
			})
		})
	}
}

// staleWAL returns a log of another generation of the service's database,
// having shown that it replays over one that it does not belong to.
func staleWAL(t *testing.T, w *world) string {
	t.Helper()
	c, err := backup.OpenDB(w.fs, w.path("old.db"))
	if err != nil {
		t.Fatal(err)
	}
	err = c.Exec(`PRAGMA locking_mode=EXCLUSIVE; PRAGMA journal_mode=WAL;
		CREATE TABLE memories (id INTEGER PRIMARY KEY, body TEXT);
		CREATE INDEX bodies ON memories (body);
		INSERT INTO memories (body) VALUES ('stale');`)
	if err != nil {
		t.Fatal(err)
	}
	wal := w.read(t, "old.db-wal")
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	w.exec(t, "victim.db", `PRAGMA journal_mode=WAL; CREATE TABLE memories (id INTEGER PRIMARY KEY, body TEXT);
		INSERT INTO memories (body) VALUES ('victim')`)
	w.write(t, "victim.db-wal", wal)
	if got := w.query(t, "victim.db", "SELECT body FROM memories"); got != "stale" {
		t.Fatalf("the log does not replay: %q", got)
	}
	return wal
}

// A day is a snapshot's, at noon.
func day(date string) time.Time {
	t, err := time.Parse(time.DateOnly, date)
	if err != nil {
		panic(err)
	}
	return t.Add(12 * time.Hour)
}

// createOn takes a snapshot on each of some days, and leaves the clock at
// the last.
func (w *world) createOn(t *testing.T, s *backup.Store, days ...time.Time) (stamps []string) {
	t.Helper()
	for _, day := range days {
		w.now = day.Add(-time.Minute)
		stamps = append(stamps, w.create(t, s).Stamp)
	}
	return stamps
}

// cleanup runs Cleanup and compares its counts.
func (w *world) cleanup(t *testing.T, s *backup.Store, opts *backup.CleanupOptions, want backup.Cleanup) *backup.Cleanup {
	t.Helper()
	got, err := s.Cleanup(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	counts := *got
	counts.Decisions = nil
	if want.Unparseable == nil {
		want.Unparseable = []string{}
	}
	if diff := cmp.Diff(counts, want); diff != "" {
		t.Errorf("cleanup (-got +want):\n%s", diff)
	}
	return got
}

var confirmedCleanup = &backup.CleanupOptions{Confirm: true}

// stamps returns those that List has, newest first.
func (w *world) stamps(t *testing.T, s *backup.Store) []string {
	t.Helper()
	stamps := []string{}
	for _, snap := range w.list(t, s) {
		stamps = append(stamps, snap.Stamp)
	}
	return stamps
}

func TestCleanupOfNothing(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		s := w.store(t)
		w.cleanup(t, s, nil, backup.Cleanup{DryRun: true})
		w.cleanup(t, s, confirmedCleanup, backup.Cleanup{})
		if w.exists(t, "backups") {
			t.Error("it made a store where there was none")
		}
		w.mkdir(t, "backups/snapshots")
		w.cleanup(t, s, nil, backup.Cleanup{DryRun: true})
		w.cleanup(t, s, confirmedCleanup, backup.Cleanup{})
	})
}

func TestCleanupOfTenDays(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		s := w.small(t)
		var days []time.Time
		for i := range 10 {
			days = append(days, day("2026-04-02").AddDate(0, 0, i))
		}
		stamps := w.createOn(t, s, days...)
		if stamps[0] != "20260402T120000Z" {
			t.Fatalf("first stamp %s", stamps[0])
		}
		all := w.stat(t, "backups")
		w.cleanup(t, s, nil, backup.Cleanup{DryRun: true, Kept: 7, WouldDelete: 3})
		if diff := cmp.Diff(w.stat(t, "backups"), all); diff != "" {
			t.Errorf("changed by a dry run (-after +before):\n%s", diff)
		}
		got := w.cleanup(t, s, confirmedCleanup, backup.Cleanup{Kept: 7, Deleted: 3})
		for _, stamp := range stamps[:3] {
			if w.exists(t, in(stamp, "")) {
				t.Errorf("%s is there", stamp)
			}
		}
		if n := len(w.list(t, s)); n != 7 {
			t.Errorf("%d are left, want 7", n)
		}
		for i, d := range got.Decisions {
			if d.Stamp != stamps[9-i] || d.Keep != (i < 7) || len(d.Reasons) == 0 {
				t.Errorf("decision %d: %+v", i, d)
			}
		}
		w.cleanup(t, s, confirmedCleanup, backup.Cleanup{Kept: 7})
	})
}

func TestCleanupKeepsSevenDays(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		s := w.small(t)
		for i := range 7 {
			w.createOn(t, s, day("2026-04-02").AddDate(0, 0, i))
		}
		w.cleanup(t, s, confirmedCleanup, backup.Cleanup{Kept: 7})
	})
}

// older takes snapshots on some days, and then on seven that fill the daily
// slots, cleans up, and compares which of the older ones are left.
func (w *world) checkOlder(t *testing.T, keep map[string]bool) {
	t.Helper()
	s := w.small(t)
	want := 7
	stamps := make(map[string]string)
	for date, kept := range keep {
		stamps[date] = w.createOn(t, s, day(date))[0]
		if kept {
			want++
		}
	}
	for i := range 7 {
		w.createOn(t, s, day("2026-04-06").AddDate(0, 0, i)) // from a Monday on
	}
	w.cleanup(t, s, confirmedCleanup, backup.Cleanup{Kept: want, Deleted: 7 + len(keep) - want})
	for date, stamp := range stamps {
		if got := w.exists(t, in(stamp, "")); got != keep[date] {
			t.Errorf("%s kept: %v, want %v", date, got, keep[date])
		}
	}
}

func TestCleanupKeepsOlderSundays(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		w.checkOlder(t, map[string]bool{"2026-03-29": true, "2026-03-22": true, "2026-03-25": false})
	})
}

func TestCleanupKeepsOlderFirstsOfMonth(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		w.checkOlder(t, map[string]bool{"2026-01-01": true, "2025-12-01": true, "2026-01-15": false})
	})
}

func TestCleanupReportsWhatIsNotATimestamp(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		s := w.small(t)
		w.create(t, s)
		w.write(t, "backups/snapshots/not-a-timestamp/db/atocore.db", "somebody's")
		w.write(t, "backups/snapshots/notes.txt", "somebody's")
		w.write(t, "backups/snapshots/20260230T000000Z/x", "no such day")
		w.write(t, "backups/snapshots/20200101T000000Z", "a file")
		before := w.stat(t, "backups")
		others := []string{"20200101T000000Z", "20260230T000000Z", "not-a-timestamp", "notes.txt"}
		w.cleanup(t, s, nil, backup.Cleanup{DryRun: true, Kept: 1, Unparseable: others})
		w.cleanup(t, s, confirmedCleanup, backup.Cleanup{Kept: 1, Unparseable: others})
		if diff := cmp.Diff(w.stat(t, "backups"), before); diff != "" {
			t.Errorf("touched (-after +before):\n%s", diff)
		}
		if n := len(w.list(t, s)); n != 1 {
			t.Errorf("%d are listed, want 1", n)
		}
	})
}

// The snapshots in testdata were made by the Python module, on a machine
// that had them under /srv/atocore/backups.
func TestPythonSnapshots(t *testing.T) {
	database := func(bytes int64) backup.SourceState {
		return backup.SourceState{Name: "db", Kind: backup.Database, Captured: true, Path: "db/atocore.db", Files: 1, Bytes: bytes}
	}
	registry := backup.SourceState{Name: "config", Kind: backup.File, Captured: true, Path: "config/project-registry.json", Files: 1}
	noRegistry := backup.SourceState{Name: "config", Kind: backup.File}
	chroma := backup.SourceState{Name: "chroma", Kind: backup.Tree, Captured: true, Path: "chroma", Files: 3, Bytes: 41995}
	noChroma := backup.SourceState{Name: "chroma", Kind: backup.Tree}
	want := []backup.Snapshot{
		{Stamp: "20260411T100000Z", Sources: []backup.SourceState{database(40960), registry, noChroma}, Validated: true},
		{Stamp: "20260409T120000Z", Sources: []backup.SourceState{database(40960), registry, chroma}},
		{Stamp: "20260406T190000Z", Sources: []backup.SourceState{database(40960), noRegistry, noChroma}},
		{Stamp: "20260406T180000Z", Sources: []backup.SourceState{database(40960), registry, noChroma}},
	}
	for i := range want {
		snap := &want[i]
		snap.CreatedAt, _ = time.Parse("20060102T150405Z", snap.Stamp)
		snap.HasMetadata, snap.Origin, snap.Problems = true, backup.OriginATOCore, []backup.Problem{}
		for _, src := range snap.Sources {
			snap.Files += src.Files
			snap.Bytes += src.Bytes
		}
	}
	eachFs(t, func(t *testing.T, w *world) {
		s := w.python(t)
		check := func(t *testing.T, w *world, s *backup.Store) {
			if diff := cmp.Diff(w.list(t, s), want); diff != "" {
				t.Errorf("list (-got +want):\n%s", diff)
			}
			for _, snap := range want {
				if r := w.validate(t, s, snap.Stamp, nil); !r.Valid || !r.DBOK {
					t.Errorf("%s: %+v", snap.Stamp, r)
				}
			}
			before := w.stat(t, "backups/snapshots")
			for i, snap := range want {
				w.seed(t)
				w.exec(t, "data/atocore.db", "DELETE FROM memories")
				if _, err := s.Restore(t.Context(), snap.Stamp, &backup.RestoreOptions{ConfirmServiceStopped: true, SkipSafetySnapshot: true}); err != nil {
					t.Fatalf("%s: %v", snap.Stamp, err)
				}
				projects := "5"
				if i == 0 {
					projects = "7"
				}
				if got := w.query(t, "data/atocore.db", "SELECT count(*) FROM projects"); got != projects {
					t.Errorf("%s: %s projects, want %s", snap.Stamp, got, projects)
				}
				if got := w.query(t, "data/atocore.db", "SELECT count(*) FROM memories"); got != "200" {
					t.Errorf("%s: %s memories", snap.Stamp, got)
				}
				wantRegistry := `{"projects": ["p1"]}` // the live one
				if snap.Sources[1].Captured {
					wantRegistry = w.read(t, in(snap.Stamp, "config/project-registry.json"))
				}
				if got := w.read(t, "config/project-registry.json"); got != wantRegistry {
					t.Errorf("%s: registry %q", snap.Stamp, got)
				}
				if snap.Sources[2].Captured {
					if diff := cmp.Diff(w.names(t, "chroma"), w.names(t, in(snap.Stamp, "chroma"))); diff != "" {
						t.Errorf("%s: vector store (-got +want):\n%s", snap.Stamp, diff)
					}
				}
				w.drop(t, "data")
				w.drop(t, "chroma")
			}
			if diff := cmp.Diff(w.stat(t, "backups/snapshots"), before); diff != "" {
				t.Errorf("changed (-after +before):\n%s", diff)
			}
		}
		t.Run("where_they_are", func(t *testing.T) { check(t, w, s) })
		t.Run("moved", func(t *testing.T) {
			w.mkdir(t, "elsewhere")
			w.rename(t, "backups", "elsewhere/backups")
			moved := &world{fs: w.fs, root: w.path("elsewhere"), now: w.now}
			check(t, moved, moved.store(t))
		})
	})
}

// Both implementations keep their snapshots in one directory.
func TestPythonSnapshotsAmongOurs(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		s := w.python(t)
		w.seed(t)
		w.now = day("2026-04-12")
		ours := w.create(t, s).Stamp
		want := []string{ours, "20260411T100000Z", "20260409T120000Z", "20260406T190000Z", "20260406T180000Z"}
		if diff := cmp.Diff(w.stamps(t, s), want); diff != "" {
			t.Errorf("(-got +want):\n%s", diff)
		}
		r := w.restore(t, s, pythonSnapshot)
		w.restore(t, s, r.SafetyStamp)
		if got := w.query(t, "data/atocore.db", "SELECT body FROM memories"); got != "baseline" {
			t.Errorf("after undo: %q", got)
		}
		for _, verdict := range []string{"true", "false"} { // without a verdict, it is believed
			w.edit(t, in(pythonSnapshot, metadataFile), func(data []byte) []byte {
				text := strings.TrimRight(strings.TrimSuffix(string(data), "\n"), "}\n")
				text, _, _ = strings.Cut(text, ",\n  \"validated\"")
				return fmt.Appendf(nil, "%s,\n  \"validated\": %s\n}\n", text, verdict)
			})
			if snap := w.listed(t, s, pythonSnapshot); fmt.Sprint(snap.Validated) != verdict || (len(snap.Problems) > 0) != (verdict == "false") {
				t.Errorf("recorded as %s: %+v", verdict, snap)
			}
		}
	})
}
