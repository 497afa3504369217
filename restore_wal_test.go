package backup_test

import (
	"os"
	"strings"
	"testing"

	"github.com/atocore/backup"
)

// stoppedWithWAL makes a database whose last rows are in its WAL alone, as a
// service leaves one that is killed, and returns the WAL's content.
func (w *world) stoppedWithWAL(t *testing.T, name string) []byte {
	t.Helper()
	c, err := backup.OpenDB(w.fs, w.path(name))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Exec("PRAGMA wal_autocheckpoint=0; INSERT INTO memories (body) VALUES ('in the WAL')"); err != nil {
		t.Fatal(err)
	}
	db, wal := []byte(w.read(t, name)), []byte(w.read(t, name+"-wal"))
	if err := c.Close(); err != nil { // folds the WAL in
		t.Fatal(err)
	}
	for suffix, data := range map[string][]byte{"": db, "-wal": wal} {
		if err := os.WriteFile(w.path(name+suffix), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return wal
}

func TestCreateLeavesTheWALOfAStoppedServiceAlone(t *testing.T) {
	w := osWorld(t)
	w.seed(t)
	s := w.store(t)
	wal := w.stoppedWithWAL(t, "data/atocore.db")
	db := w.read(t, "data/atocore.db")
	snap := w.create(t, s)
	if w.read(t, "data/atocore.db") != db || w.read(t, "data/atocore.db-wal") != string(wal) {
		t.Error("the live database was changed")
	}
	got := w.query(t, "backups/snapshots/"+snap.Stamp+"/db/atocore.db", "SELECT body FROM memories")
	if got != "baseline\nin the WAL" {
		t.Errorf("copy: %q", got)
	}
}

// A service that stops while its database is copied is not the last to close
// it. Its log is folded in all the same: who then moves the database by itself
// moves all of it.
func TestCreateLeavesNoWALOfAServiceThatStopsMeanwhile(t *testing.T) {
	w := osWorld(t)
	service := w.connect(t, "app.db")
	mustExec(t, service, "PRAGMA journal_mode=WAL; CREATE TABLE t (x)")
	mustCreate(t, w.store(t, withSources(w.database("app.db")), atFirst(t, "db", func() {
		mustExec(t, service, "INSERT INTO t VALUES ('last words')")
		if err := service.Close(); err != nil {
			t.Error(err)
		}
	})))
	if w.exists(t, "app.db-wal") {
		t.Error("the WAL was left behind")
	}
	if !strings.Contains(w.read(t, "app.db"), "last words") {
		t.Error("what was committed last is not in the database")
	}
}

// A database that was cut short still has its rows in its WAL, which SQLite
// would delete on opening what it takes for a new database.
func TestRestoreOverATruncatedDatabaseSavesItsWAL(t *testing.T) {
	for _, size := range []int64{0, 100} {
		w := osWorld(t)
		w.seed(t)
		s := w.store(t)
		snap := w.create(t, s)
		wal := w.stoppedWithWAL(t, "data/atocore.db")
		if err := os.Truncate(w.path("data/atocore.db"), size); err != nil {
			t.Fatal(err)
		}
		r := w.restore(t, s, snap.Stamp)
		if got := w.query(t, "data/atocore.db", "SELECT body FROM memories"); got != "baseline" {
			t.Errorf("%d bytes: after restore: %q", size, got)
		}
		if got := w.read(t, "backups/snapshots/"+r.SafetyStamp+"/db/atocore.db-wal"); got != string(wal) {
			t.Errorf("%d bytes: the WAL is not in the safety snapshot", size)
		}
		w.restore(t, s, r.SafetyStamp)
		if got := w.read(t, "data/atocore.db-wal"); got != string(wal) {
			t.Errorf("%d bytes: the WAL is not back after the undo", size)
		}
	}
}

func TestCreateOfAnEmptyDatabaseIsNotValidated(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		w.seed(t)
		w.write(t, "data/atocore.db", "")
		snap, err := w.store(t).Create(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		if snap.Validated || len(snap.Problems) == 0 {
			t.Errorf("an empty file passed for a database: %+v", snap)
		}
	})
}
