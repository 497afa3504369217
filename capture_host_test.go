package backup_test

import (
	"context"
	"database/sql"
	"errors"
	"path"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ncruces/go-sqlite3"
	"github.com/ncruces/go-sqlite3/driver"

	"github.com/atocore/backup"
)

// openSQL opens a database through database/sql.
func openSQL(t *testing.T, path string) *sql.DB {
	t.Helper()
	db, err := driver.Open("file:" + filepath.ToSlash(path))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

// reachable returns a world in which a driver of database/sql reaches a file:
// w itself or, if it is in memory, another one; then w gets a decoy.
func (w *world) reachable(t *testing.T, name string) *world {
	t.Helper()
	if w.native() {
		return w
	}
	w.write(t, name, "a decoy")
	other := osWorld(t)
	other.mkdir(t, path.Dir(name))
	return other
}

// With Source.DB, the file at Path is not opened. Where a handle cannot reach
// it, it is a decoy here, and no database.
func TestDatabaseIsCapturedThroughTheHostsHandle(t *testing.T) {
	for _, mode := range []string{"wal", "delete"} {
		t.Run(mode, func(t *testing.T) {
			eachFs(t, func(t *testing.T, w *world) {
				live := w.reachable(t, "data/app.db")
				live.exec(t, "data/app.db", "PRAGMA page_size=8192; PRAGMA user_version=7; PRAGMA journal_mode="+mode+
					"; CREATE TABLE t (x); INSERT INTO t VALUES (1)")
				db := openSQL(t, live.nativePath("data/app.db"))
				if _, err := db.ExecContext(t.Context(), "INSERT INTO t VALUES (2)"); err != nil {
					t.Fatal(err)
				}
				source := w.database("data/app.db")
				source.DB = db

				snap := mustCreate(t, w.store(t, withSources(source)))
				if got := w.queryCopy(t, snap, "db/app.db", "SELECT x FROM t"); got != "1\n2" {
					t.Errorf("got %q, want the rows that the handle sees", got)
				}
				want, got := live.header(t, live.path("data/app.db")), w.header(t, w.snapshot(snap.Stamp, "db/app.db"))
				for _, field := range []string{"write version", "read version", "page size", "user version"} {
					if want[field] != got[field] {
						t.Errorf("%s: got %d, want %d", field, got[field], want[field])
					}
				}
			})
		})
	}
}

// The one connection of a pool is in use, here by who holds the writers off: that is
// not waited for without an end.
func TestHandleWithoutAFreeConnectionIsBusy(t *testing.T) {
	w := osWorld(t)
	w.exec(t, "app.db", "CREATE TABLE t (x)")
	source := w.database("app.db")
	source.DB = openSQL(t, w.path("app.db"))
	source.DB.SetMaxOpenConns(1)
	source.Quiesce = func(ctx context.Context) (func(), error) {
		tx, err := source.DB.BeginTx(ctx, nil)
		return func() {
			if err := tx.Rollback(); err != nil {
				t.Error(err)
			}
		}, err
	}
	s := w.store(t, withSources(source), func(cfg *backup.Config) { cfg.BusyTimeout = time.Millisecond })
	err := endsSoon(t, func(ctx context.Context) error {
		_, err := s.Create(ctx, nil)
		return err
	})
	if !errors.Is(err, backup.ErrBusy) {
		t.Errorf("got %v, want %v", err, backup.ErrBusy)
	}
	w.mustHaveNoSnapshots(t)
	source.DB.SetMaxOpenConns(2)
	mustCreate(t, w.store(t, withSources(source)))
}

func TestHandleOnAnotherFileIsRefused(t *testing.T) {
	w := osWorld(t)
	w.exec(t, "app.db", "CREATE TABLE t (x)")
	w.exec(t, "other.db", "CREATE TABLE t (x)")
	source := w.database("app.db")
	source.DB = openSQL(t, w.path("other.db"))
	_, err := w.store(t, withSources(source)).Create(t.Context(), nil)
	if err == nil || !strings.Contains(err.Error(), w.path("other.db")) {
		t.Errorf("got %v, want an error that names the file that the handle is on", err)
	}
	w.mustHaveNoSnapshots(t)
}

func TestHandleIsCopiedWhileItWrites(t *testing.T) {
	w := osWorld(t)
	w.bookkeeping(t, "app.db", "wal", 10)
	wr := startGoroutine(t, w.path("app.db"))
	wr.next(t, 0)
	source := w.database("app.db")
	source.DB = openSQL(t, w.path("app.db"))
	snap := mustCreate(t, w.store(t, withSources(source)))
	wr.stop()
	if got := w.queryCopy(t, snap, "db/app.db", bookBalance); got != "0" {
		t.Errorf("a copy of half a transaction: debits less credits are %s", got)
	}
}

func TestHandleThatFailsIsNamed(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		w.seed(t)
		db := openSQL(t, filepath.Join(t.TempDir(), "app.db"))
		db.Close()
		source := w.database("data/atocore.db")
		source.DB = db
		snap, err := w.store(t, withSources(source)).Create(t.Context(), nil)
		if snap != nil || err == nil || !strings.Contains(err.Error(), `"db"`) {
			t.Errorf("got %v, %v, want an error that names the source", snap, err)
		}
		w.mustHaveNoSnapshots(t)
	})
}

// A context that is cancelled while the host's driver works stops it.
func TestHandleIsInterruptedWhenCancelled(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		live := w.reachable(t, "app.db")
		live.bookkeeping(t, "app.db", "wal", 4)
		ctx, cancel := context.WithCancel(t.Context())
		db, err := driver.Open("file:"+filepath.ToSlash(live.nativePath("app.db")), func(c *sqlite3.Conn) error {
			return c.Trace(sqlite3.TRACE_STMT, func(_ sqlite3.TraceEvent, _, text any) error {
				if text, _ := text.(string); strings.HasPrefix(text, "VACUUM INTO") {
					cancel()
				}
				return nil
			})
		})
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		source := w.database("app.db")
		source.DB = db
		if _, err := w.store(t, withSources(source)).Create(ctx, nil); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, want context.Canceled", err)
		}
		w.mustHaveNoSnapshots(t)
	})
}
