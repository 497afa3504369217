package backup_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/atocore/backup"
)

func TestLockedDatabaseIsBusy(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		w.bookkeeping(t, "app.db", "delete", 1)
		service := w.connect(t, "app.db")
		mustExec(t, service, "BEGIN EXCLUSIVE")
		s := w.store(t, withSources(w.database("app.db")), func(cfg *backup.Config) { cfg.BusyTimeout = 20 * time.Millisecond })
		_, err := s.Create(t.Context(), nil)
		if !errors.Is(err, backup.ErrBusy) {
			t.Errorf("got %v, want ErrBusy", err)
		}
		for _, want := range []string{`"db"`, "app.db"} {
			if err != nil && !strings.Contains(err.Error(), want) {
				t.Errorf("got %v, want %s in it", err, want)
			}
		}
		w.mustHaveNoSnapshots(t)
		mustExec(t, service, "ROLLBACK")
		mustCreate(t, s)
	})
}

func TestLockedDatabaseIsWaitedFor(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		w.bookkeeping(t, "app.db", "delete", 1)
		service := w.connect(t, "app.db")
		mustExec(t, service, "BEGIN EXCLUSIVE; INSERT INTO debits VALUES (1); INSERT INTO credits VALUES (1)")
		ctx := &waiting{Context: t.Context(), enough: 5, waited: func() { mustExec(t, service, "COMMIT") }}
		s := w.store(t, withSources(w.database("app.db")), func(cfg *backup.Config) { cfg.BusyTimeout = time.Minute })
		snap, err := s.Create(ctx, nil)
		if err != nil {
			t.Fatal(err)
		}
		if n := ctx.waits.Load(); n < ctx.enough {
			t.Errorf("waited %d times: the database was not locked", n)
		}
		if got := w.queryCopy(t, snap, "db/app.db", bookCount); got != "1" {
			t.Errorf("%s rows, want the one that was waited for", got)
		}
	})
}

func TestLockedDatabaseIsWaitedForUntilCancelled(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		w.bookkeeping(t, "app.db", "delete", 1)
		mustExec(t, w.connect(t, "app.db"), "BEGIN EXCLUSIVE")
		inner, cancel := context.WithCancel(t.Context())
		ctx := &waiting{Context: inner, enough: 5, waited: cancel}
		s := w.store(t, withSources(w.database("app.db")), func(cfg *backup.Config) { cfg.BusyTimeout = time.Hour })
		if _, err := s.Create(ctx, nil); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, want context.Canceled", err)
		}
		w.mustHaveNoSnapshots(t)
	})
}

// A service that holds its database in a tree locked does not stop the rest.
func TestLockedDatabaseInATreeIsCopiedRawAndNoted(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		w.bookkeeping(t, "tree/app.db", "delete", 1)
		mustExec(t, w.connect(t, "tree/app.db"), "BEGIN EXCLUSIVE")
		const patience = 20 * 5 * time.Millisecond // waits of that long each
		s := w.store(t, withSources(w.treeSource("tree")), func(cfg *backup.Config) { cfg.BusyTimeout = patience })
		ctx := &waiting{Context: t.Context()}
		snap, err := s.Create(ctx, nil)
		if err != nil {
			t.Fatal(err)
		}
		if n := ctx.waits.Load(); n < 20 || n >= 2*20 { // what is started asks for Done, too
			t.Errorf("waited %d times, want about 20: once until the patience ends", n)
		}
		if diff := cmp.Diff([]string{"raw_copy tree/app.db"}, problemsOf(snap)); diff != "" {
			t.Errorf("problems (-want +got):\n%s", diff)
		}
	})
}

// To wait for a moment without a writer is good for speed alone, and takes nothing
// from what a database that is locked is waited for.
func TestWriterOfOneDatabaseTakesNoTimeFromAnother(t *testing.T) {
	w := osWorld(t)
	w.exec(t, "a.db", "PRAGMA journal_mode=WAL; CREATE TABLE t (x)")
	w.exec(t, "b.db", "CREATE TABLE t (x)")
	mustExec(t, w.connect(t, "a.db"), "BEGIN IMMEDIATE; INSERT INTO t VALUES (1)")
	service := w.connect(t, "b.db")
	mustExec(t, service, "BEGIN EXCLUSIVE; INSERT INTO t VALUES (1)")
	const patience = 300 * time.Millisecond
	a, b := w.database("a.db"), w.database("b.db")
	a.Name, b.Name = "a", "b"
	ctx := &waiting{Context: t.Context(), enough: 90, waited: func() { mustExec(t, service, "COMMIT") }} // 60 for the one
	s := w.store(t, withSources(a, b), func(cfg *backup.Config) { cfg.BusyTimeout = patience })
	snap, err := s.Create(ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	if problems := problemsOf(snap); problems != nil {
		t.Error(problems)
	}
}
