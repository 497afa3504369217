package backup_test

import (
	"testing"

	"github.com/atocore/backup"
)

// A database in WAL mode is copied as a file, under its writers: what they
// commit, and what is checkpointed, meanwhile must not reach that file. These
// writers commit as soon as they can, and checkpoint after each step of the
// copy.
func TestDatabaseStaysAsItIsWhileItIsCopied(t *testing.T) {
	w := osWorld(t)
	w.bookkeeping(t, "app.db", "wal", 3)
	wr := startGoroutine(t, w.path("app.db"))
	wr.next(t, 0)
	service := w.connect(t, "app.db")
	s := w.store(t, withSources(w.database("app.db")), func(cfg *backup.Config) {
		cfg.Progress = func(backup.Progress) { mustExec(t, service, "PRAGMA wal_checkpoint(PASSIVE)") }
	})
	for range 30 {
		snap, err := s.Create(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		if !snap.Validated {
			t.Fatalf("torn: %v", snap.Problems)
		}
		if got := w.queryCopy(t, snap, "db/app.db", bookBalance); got != "0" {
			t.Fatalf("a copy of half a transaction: debits less credits are %s", got)
		}
	}
	wr.stop()
}
