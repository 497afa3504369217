package backup_test

import (
	"testing"

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

func TestMissingRegistryIsEmpty(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		w.seed(t)
		if err := w.fs.Remove(w.path("config/project-registry.json")); err != nil {
			t.Fatal(err)
		}
		s := w.store(t)
		snap, err := s.Create(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		want := backup.SourceState{Name: "config", Kind: backup.File}
		if got, _ := snap.Source("config"); got.Captured || got.Path != "" {
			t.Errorf("got %+v, want %+v", got, want)
		}
	})
}
