package backup_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/atocore/backup"
)

// dataDirectory captures a whole data directory as one tree, but for what
// lies in it and is captured, or kept, another way.
func dataDirectory(w *world) func(*backup.Config) {
	return func(cfg *backup.Config) {
		cfg.Dir = w.path("data/backups")
		cfg.Sources = []backup.Source{
			{Name: "data", Kind: backup.Tree, Path: w.path("data")},
			{Name: "app", Kind: backup.Database, Path: w.path("data/state/app.db")},
		}
	}
}

func TestTreeLeavesOutWhatBelongsToOthers(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		w.write(t, "data/uploads/a.txt", "a")
		w.write(t, "data/state/cache.bin", "c")
		w.exec(t, "data/state/app.db", "CREATE TABLE t (x); INSERT INTO t VALUES (1)")
		w.write(t, "data/state/app.db-journal", "") // as persist and truncate leave one
		s := w.store(t, dataDirectory(w))
		snap, err := s.Create(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		got := w.names(t, "data/backups/snapshots/"+snap.Stamp)
		want := []string{
			".", "app", "app/app.db", "backup-metadata.json", "data", "data/state", "data/state/cache.bin",
			"data/uploads", "data/uploads/a.txt", "manifest.jsonl",
		}
		if diff := cmp.Diff(got, want); diff != "" {
			t.Errorf("snapshot (-got +want):\n%s", diff)
		}
	})
}

func TestRestoreOfTreeLeavesOthersInPlace(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		w.write(t, "data/uploads/a.txt", "a")
		w.write(t, "data/state/cache.bin", "c")
		w.exec(t, "data/state/app.db", "CREATE TABLE t (x); INSERT INTO t VALUES (1)")
		s := w.store(t, dataDirectory(w))
		snap, err := s.Create(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		w.exec(t, "data/state/app.db", "INSERT INTO t VALUES (2)")
		w.write(t, "data/state/cache.bin", "changed")
		w.write(t, "data/state/new.bin", "new")
		w.write(t, "data/uploads/b.txt", "b")

		opts := &backup.RestoreOptions{ConfirmServiceStopped: true, Sources: []string{"data"}}
		if _, err := s.Restore(t.Context(), snap.Stamp, opts); err != nil {
			t.Fatal(err)
		}
		if got := w.query(t, "data/state/app.db", "SELECT x FROM t"); got != "1\n2" {
			t.Errorf("database that was not restored: %q", got)
		}
		if got := w.read(t, "data/state/cache.bin"); got != "c" {
			t.Errorf("cache.bin: %q", got)
		}
		if w.exists(t, "data/state/new.bin") || w.exists(t, "data/uploads/b.txt") {
			t.Error("files that the snapshot does not have are still there")
		}
		w.restore(t, s, snap.Stamp)
		if got := w.query(t, "data/state/app.db", "SELECT x FROM t"); got != "1" {
			t.Errorf("database that was restored too: %q", got)
		}
		if snapshots, err := s.List(t.Context()); err != nil || len(snapshots) != 3 {
			t.Errorf("%d snapshots in the tree's store, want 3: %v", len(snapshots), err)
		}
	})
}

func TestRestoreMakesADirectoryThatLeadsToAnotherSource(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		w.write(t, "data/state/cache.bin", "c")
		w.exec(t, "data/state/app.db", "CREATE TABLE t (x); INSERT INTO t VALUES (1)")
		s := w.store(t, dataDirectory(w), func(cfg *backup.Config) { cfg.Dir = w.path("backups") })
		snap, err := s.Create(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		want := w.tree(t, "data")
		if err := w.fs.RemoveAll(w.path("data")); err != nil {
			t.Fatal(err)
		}
		w.restore(t, s, snap.Stamp)
		got := w.tree(t, "data")
		want["state/app.db"], got["state/app.db"] = "", "" // a copy has a header of its own
		want["state"], got["state"] = "", ""               // made anew, for its owner alone
		if diff := cmp.Diff(got, want); diff != "" {
			t.Errorf("tree (-got +want):\n%s", diff)
		}
		if got := w.query(t, "data/state/app.db", "SELECT x FROM t"); got != "1" {
			t.Errorf("database: %q", got)
		}
	})
}
