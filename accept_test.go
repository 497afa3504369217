package backup_test

import (
	"context"
	"errors"
	"math"
	"strings"
	"syscall"
	"testing"

	"github.com/ncruces/go-sqlite3"
	"github.com/spf13/afero"

	"github.com/atocore/backup"
)

// drift makes the world's database anew, by a SQLite that rounds otherwise
// than the one of this package: to itself it is sound, and to ours it has an
// index that disagrees with its table.
func (w *world) drift(t *testing.T) {
	t.Helper()
	w.mkdir(t, "data")
	c, err := backup.OpenDB(w.fs, w.path("data/atocore.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	err = c.CreateFunction("round", 2, sqlite3.DETERMINISTIC|sqlite3.INNOCUOUS, func(ctx sqlite3.Context, arg ...sqlite3.Value) {
		scale := math.Pow10(arg[1].Int())
		ctx.ResultFloat(math.Nextafter(math.Round(arg[0].Float()*scale)/scale, 0))
	})
	if err != nil {
		t.Fatal(err)
	}
	err = c.Exec(`PRAGMA locking_mode=EXCLUSIVE;
		CREATE TABLE t (price REAL); CREATE INDEX i ON t (round(price, 1));
		WITH RECURSIVE n (i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 50) INSERT INTO t SELECT i * 1.19 FROM n`)
	if err != nil {
		t.Fatal(err)
	}
}

// drifted returns a store of such a database alone, with a snapshot of it, and
// a live state that is another by now.
func drifted(t *testing.T, w *world, opts *backup.CreateOptions) (*backup.Store, string) {
	t.Helper()
	w.drift(t)
	s := w.store(t, withSources(w.database("data/atocore.db")))
	snap, err := s.Create(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	w.exec(t, "data/atocore.db", "DROP INDEX i; DELETE FROM t")
	return s, snap.Stamp
}

// accepting are the options of a restore in spite of some problems.
func accepting(codes ...backup.Code) *backup.RestoreOptions {
	return &backup.RestoreOptions{ConfirmServiceStopped: true, Accept: codes}
}

// A database may be sound, and fail a check all the same. It can be restored
// by who says so, unless it has been damaged since.
func TestRestoreAcceptsWhatWasRecorded(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		s, stamp := drifted(t, w, nil)
		if r := w.validate(t, s, stamp, nil); r.Valid || r.DBOK || !errors.Is(r.Err(), backup.CodeDatabaseCorrupt) {
			t.Errorf("full validation: %v", r.Err())
		}
		if r := w.validate(t, s, stamp, quick); !r.Valid {
			t.Errorf("quick validation: %v", r.Err())
		}
		for _, opts := range []*backup.RestoreOptions{confirmed, accepting(backup.CodeRawCopy, backup.CodeCheckFailed)} {
			if _, err := s.Restore(t.Context(), stamp, opts); !errors.Is(err, backup.ErrInvalidSnapshot) || !errors.Is(err, backup.CodeDatabaseCorrupt) {
				t.Errorf("accepting %v: %v", opts.Accept, err)
			}
		}
		r, err := s.Restore(t.Context(), stamp, accepting(backup.CodeDatabaseCorrupt))
		if err != nil || r.IntegrityOK {
			t.Fatalf("%+v, %v", r, err)
		}
		if got := w.query(t, "data/atocore.db", "SELECT count(*) FROM t"); got != "50" {
			t.Errorf("restored %s rows", got)
		}
		w.restore(t, s, r.SafetyStamp)
		if got := w.query(t, "data/atocore.db", "SELECT count(*) FROM t"); got != "0" {
			t.Errorf("undone, %s rows", got)
		}

		w.edit(t, in(stamp, "db/atocore.db"), flip(4000))
		_, err = s.Restore(t.Context(), stamp, accepting(backup.CodeDatabaseCorrupt, backup.CodeChecksumMismatch))
		if !errors.Is(err, backup.ErrInvalidSnapshot) || !errors.Is(err, backup.CodeChecksumMismatch) {
			t.Errorf("damaged since: %v", err)
		}
	})
}

// The host's own test is no other case.
func TestRestoreAcceptsAFailedCheck(t *testing.T) {
	w := newWorld(t, afero.NewMemMapFs(), "/srv")
	w.seed(t)
	var verdict error
	s := w.store(t, withChecks(&verdict))
	sound := w.create(t, s).Stamp
	verdict = errors.New("no users")
	stamp := mustKeep(t, s)
	if _, err := s.Restore(t.Context(), stamp, accepting(backup.CodeCheckFailed)); err != nil {
		t.Errorf("recorded: %v", err)
	}
	if _, err := s.Restore(t.Context(), sound, accepting(backup.CodeCheckFailed)); !errors.Is(err, backup.CodeCheckFailed) {
		t.Errorf("not recorded: %v", err)
	}
}

func withChecks(verdict *error) func(*backup.Config) {
	return func(cfg *backup.Config) {
		cfg.Sources[0].Check = func(context.Context, *sqlite3.Conn) error { return *verdict }
	}
}

// mustKeep takes a snapshot that has problems.
func mustKeep(t *testing.T, s *backup.Store) string {
	t.Helper()
	snap, err := s.Create(t.Context(), nil)
	if err != nil || snap.Validated {
		t.Fatalf("%+v, %v", snap, err)
	}
	return snap.Stamp
}

// What was not found when the snapshot was taken is not accepted.
func TestRestoreAcceptsNothingElse(t *testing.T) {
	t.Run("not_looked_for", func(t *testing.T) {
		w := newWorld(t, afero.NewMemMapFs(), "/srv")
		s, stamp := drifted(t, w, &backup.CreateOptions{Level: backup.ValidateQuick})
		_, err := s.Restore(t.Context(), stamp, accepting(backup.CodeDatabaseCorrupt))
		if !errors.Is(err, backup.ErrInvalidSnapshot) || !errors.Is(err, backup.CodeDatabaseCorrupt) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("of_another_path", func(t *testing.T) {
		w := newWorld(t, afero.NewMemMapFs(), "/srv")
		w.drift(t)
		w.exec(t, "other.db", "CREATE TABLE t (x); INSERT INTO t VALUES (1)")
		verdict := error(nil)
		s := w.store(t, withSources(w.database("data/atocore.db"), backup.Source{
			Name: "other", Kind: backup.Database, Path: w.path("other.db"),
			Check: func(context.Context, *sqlite3.Conn) error { return verdict },
		}))
		stamp := mustKeep(t, s)
		verdict = backup.CodeCheckFailed
		_, err := s.Restore(t.Context(), stamp, accepting(backup.CodeDatabaseCorrupt, backup.CodeCheckFailed))
		if !errors.Is(err, backup.ErrInvalidSnapshot) || !errors.Is(err, backup.CodeCheckFailed) || errors.Is(err, backup.CodeDatabaseCorrupt) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("missing", func(t *testing.T) {
		w := newWorld(t, afero.NewMemMapFs(), "/srv")
		s, stamp := drifted(t, w, nil)
		if err := w.fs.Remove(w.snapshot(stamp, manifestFile)); err != nil {
			t.Fatal(err)
		}
		_, err := s.Restore(t.Context(), stamp, accepting(backup.CodeDatabaseCorrupt, backup.CodeManifestMissing))
		if !errors.Is(err, backup.ErrInvalidSnapshot) || !errors.Is(err, backup.CodeManifestMissing) {
			t.Errorf("got %v", err)
		}
	})
}

// What was accepted need not be accepted anew after a crash.
func TestRecoverAcceptsWhatTheRestoreDid(t *testing.T) {
	w := newWorld(t, afero.NewMemMapFs(), "/srv")
	s, stamp := drifted(t, w, nil)
	dead := false
	crashes := w.store(t, withSources(w.database("data/atocore.db")), func(cfg *backup.Config) {
		cfg.Fs = &faultFs{Fs: w.fs, fail: func(op, p string) error {
			if dead = dead || op == "rename" && strings.Contains(p, "/new/"); dead {
				return syscall.EIO
			}
			return nil
		}}
	})
	_, err := crashes.Restore(t.Context(), stamp, accepting(backup.CodeDatabaseCorrupt))
	if !errors.Is(err, backup.ErrRecoveryPending) {
		t.Fatal(err)
	}
	got, err := s.Recover(t.Context())
	if err != nil || got.Outcome != backup.RestoreFinished || !got.Verified {
		t.Errorf("%+v, %v", got, err)
	}
	if got := w.query(t, "data/atocore.db", "SELECT count(*) FROM t"); got != "50" {
		t.Errorf("restored %s rows", got)
	}
}
