package backup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ncruces/go-sqlite3"
	"github.com/spf13/afero"
)

// connect opens a database until the test ends, and runs some SQL.
func connect(t *testing.T, path, sql string) *sqlite3.Conn {
	t.Helper()
	c, err := sqlite3.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.Exec(sql); err != nil {
		t.Fatal(err)
	}
	return c
}

// While one database is waited for, the writers of those that are pinned already
// wait, too: all of them share one patience.
func TestPatienceEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // in no time
		waits := func(p *patience) (n int) {
			for p.busy(t.Context(), n) {
				n++
			}
			return n
		}
		shared := newPatience(50 * time.Millisecond)
		if first, second, none := waits(shared), waits(shared), waits(nil); first != 10 || second != 0 || none != 0 {
			t.Errorf("waited %d, %d and %d times", first, second, none)
		}
	})
}

// A service is stopped, gets another database, and is started again, while a
// connection of ours has the old one open and has not read it yet. The log that
// it finds then is the new one's: folded into the old one, it would be lost.
func TestLogOfADatabaseThatHasBeenReplacedIsNotOurs(t *testing.T) {
	dir := t.TempDir()
	db := filepath.Join(dir, "app.db")
	const walMode = "PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0;"
	for _, path := range []string{db, filepath.Join(dir, "new.db")} {
		if err := connect(t, path, walMode+"CREATE TABLE t (x)").Close(); err != nil {
			t.Fatal(err)
		}
	}
	at, name, err := locate(afero.NewOsFs(), db)
	if err != nil {
		t.Fatal(err)
	}
	defer at.close()
	ours, err := openLive(t.Context(), place{at, name}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(dir, "new.db"), db); err != nil {
		t.Fatal(err)
	}
	service := connect(t, db, walMode+"INSERT INTO t VALUES (1)")
	if err := ours.begin("PRAGMA schema_version"); !errors.Is(err, errReplaced) {
		t.Errorf("got %v, want %v", err, errReplaced)
	}
	if err := errors.Join(ours.Close(), service.Close()); err != nil {
		t.Error(err)
	}
	again := &conn{connect(t, db, ""), func() error { return nil }}
	if n, err := queryInt(again, "SELECT count(*) FROM t"); n != 1 || err != nil {
		t.Errorf("%d rows, %v: 1 was committed", n, err)
	}
	if err := again.Close(); err != nil {
		t.Error(err)
	}
}

// Writers are held for what little of the log is left, and not for what an older
// reader has kept in it: if that ends, they would wait for all of it.
func TestWritersAreNotHeldForALongLog(t *testing.T) {
	for _, test := range []struct {
		name string
		rows int // of a page each
		held bool
	}{{"short", mostHeld / 2, true}, {"long", mostHeld * 2, false}} {
		t.Run(test.name, func(t *testing.T) {
			db := filepath.Join(t.TempDir(), "app.db")
			service := connect(t, db, "PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0; PRAGMA busy_timeout=0; CREATE TABLE t (x)")
			connect(t, db, "BEGIN; SELECT * FROM t") // the older reader
			if err := service.Exec(fmt.Sprintf("WITH RECURSIVE i (i) AS (SELECT 1 UNION ALL SELECT i+1 FROM i WHERE i < %d) INSERT INTO t SELECT zeroblob(4000) FROM i", test.rows)); err != nil {
				t.Fatal(err)
			}
			at, name, err := locate(afero.NewOsFs(), db)
			if err != nil {
				t.Fatal(err)
			}
			defer at.close()
			l, err := openLive(t.Context(), place{at, name}, nil)
			if err != nil {
				t.Fatal(err)
			}
			p := pin{live: l}
			defer p.close()
			letGo, err := p.holdWriters(t.Context(), nil)
			if err != nil {
				t.Fatal(err)
			}
			if err := service.Exec("BEGIN IMMEDIATE"); errors.Is(err, sqlite3.BUSY) != test.held {
				t.Errorf("with %d pages in the log: %v", test.rows, err)
			}
			if err := letGo(); err != nil {
				t.Error(err)
			}
		})
	}
}
