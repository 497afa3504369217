package aferovfs_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/ncruces/go-sqlite3"
	"github.com/spf13/afero"
)

// spilled begins a transaction that has overwritten part of the database.
const spilled = "PRAGMA cache_size=1; BEGIN; UPDATE t SET v=randomblob(200); DELETE FROM t WHERE id%3=0"

func TestHotJournalIsRolledBack(t *testing.T) {
	eachFs(t, func(t *testing.T, fsys afero.Fs) {
		c := open(t, uri(register(t, fsys), "/a.db"))
		exec(t, c, fillSQL)
		before := readFile(t, fsys, "/a.db")
		exec(t, c, spilled)
		torn, journal := readFile(t, fsys, "/a.db"), readFile(t, fsys, "/a.db-journal")
		if bytes.Equal(torn, before) {
			t.Fatal("the transaction has not reached the database")
		}

		crashed := afero.NewMemMapFs()
		writeFile(t, crashed, "/a.db", torn)
		writeFile(t, crashed, "/a.db-journal", journal)

		ro := open(t, uri(register(t, crashed), "/a.db", "mode", "ro"))
		if err := ro.Exec("SELECT * FROM t"); !errors.Is(err, sqlite3.READONLY_ROLLBACK) {
			t.Errorf("read-only: got %v, want READONLY_ROLLBACK", err)
		}
		c2 := open(t, uri(register(t, crashed), "/a.db"))
		if got := value(t, c2, "SELECT count(*) FROM t"); got != "200" {
			t.Errorf("got %s rows, want 200", got)
		}
		if exists(t, crashed, "/a.db-journal") {
			t.Error("the journal is still there")
		}
		if !bytes.Equal(readFile(t, crashed, "/a.db"), before) {
			t.Error("the database is not as it was")
		}
		exec(t, ro, "SELECT * FROM t")
	})
}

// Two connections that find a hot journal at once must not both roll it back.
func TestHotJournalOfAWriterIsLeftAlone(t *testing.T) {
	eachFs(t, func(t *testing.T, fsys afero.Fs) {
		name := register(t, fsys)
		writer := open(t, uri(name, "/a.db"))
		exec(t, writer, fillSQL)
		exec(t, writer, "BEGIN; DELETE FROM t WHERE id=1") // RESERVED, the journal is there
		if !exists(t, fsys, "/a.db-journal") {
			t.Fatal("no journal")
		}
		if got := value(t, open(t, uri(name, "/a.db")), "SELECT count(*) FROM t"); got != "200" {
			t.Errorf("got %s rows, want 200", got)
		}
		exec(t, writer, "COMMIT")
		if got := value(t, writer, "SELECT count(*) FROM t"); got != "199" {
			t.Errorf("got %s rows, want 199", got)
		}
	})
}

// walDatabase returns a database in WAL mode with 200 rows, and the log with
// another 100, as a crash leaves them.
func walDatabase(t *testing.T) (db, wal []byte) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "native.db")
	c := open(t, path)
	exec(t, c, "PRAGMA journal_mode=wal;"+fillSQL+"; PRAGMA wal_checkpoint(truncate); PRAGMA wal_autocheckpoint=0")
	exec(t, c, "INSERT INTO t SELECT id+1000, v FROM t LIMIT 100")
	for name, b := range map[string]*[]byte{path: &db, path + "-wal": &wal} {
		var err error
		if *b, err = os.ReadFile(name); err != nil {
			t.Fatal(err)
		}
	}
	if len(wal) == 0 {
		t.Fatal("the log is empty")
	}
	return db, wal
}

const exclusive = "locking_mode(exclusive)"

func TestLogIsRead(t *testing.T) {
	db, wal := walDatabase(t)
	eachFs(t, func(t *testing.T, fsys afero.Fs) {
		writeFile(t, fsys, "/w.db", db)
		writeFile(t, fsys, "/w.db-wal", wal)
		c := open(t, uri(register(t, fsys), "/w.db", "_pragma", exclusive))
		if got := value(t, c, "SELECT count(*) FROM t"); got != "300" {
			t.Errorf("got %s rows, want 300", got)
		}
		wantBusy(t, open(t, uri(register(t, fsys), "/w.db")), "SELECT * FROM t")
		closeConn(t, c)
		if exists(t, fsys, "/w.db-wal") {
			t.Error("the log is still there after the last connection closed")
		}
		c = open(t, uri(register(t, fsys), "/w.db", "_pragma", exclusive))
		if got := value(t, c, "SELECT count(*) FROM t"); got != "300" {
			t.Errorf("got %s rows after the checkpoint, want 300", got)
		}
	})
}

// With mode=ro the log is read and no file changes, also where none could.
func TestLogIsReadWithoutWriting(t *testing.T) {
	db, wal := walDatabase(t)
	for _, test := range []struct {
		name string
		wal  []byte
		rows string
	}{
		{"log", wal, "300"},
		{"torn_log", wal[:len(wal)-1], "200"},
		{"empty_log", []byte{}, "200"},
		{"no_log", nil, "200"},
	} {
		t.Run(test.name, func(t *testing.T) {
			eachFs(t, func(t *testing.T, fsys afero.Fs) {
				writeFile(t, fsys, "/w.db", db)
				if test.wal != nil {
					writeFile(t, fsys, "/w.db-wal", test.wal)
				}
				before := files(t, fsys)
				for _, fsys := range []afero.Fs{fsys, afero.NewReadOnlyFs(fsys)} {
					c := open(t, uri(register(t, fsys), "/w.db", "mode", "ro", "_pragma", exclusive))
					if got := value(t, c, "SELECT count(*) FROM t"); got != test.rows {
						t.Errorf("got %s rows, want %s", got, test.rows)
					}
					if got := value(t, c, "PRAGMA integrity_check"); got != "ok" {
						t.Errorf("integrity_check: %s", got)
					}
					closeConn(t, c)
				}
				if diff := cmp.Diff(files(t, fsys), before); diff != "" {
					t.Errorf("the files changed (-got +want):\n%s", diff)
				}
			})
		})
	}
}

// files returns a description of every file.
func files(t *testing.T, fsys afero.Fs) (list []string) {
	t.Helper()
	err := afero.Walk(fsys, "/", func(path string, fi fs.FileInfo, err error) error {
		if err == nil && !fi.IsDir() {
			list = append(list, fmt.Sprintf("%s %v %v %x", path, fi.Mode(), fi.ModTime(), sha256.Sum256(readFile(t, fsys, path))))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func TestWALNeedsExclusive(t *testing.T) {
	db, _ := walDatabase(t)
	fsys := afero.NewMemMapFs()
	writeFile(t, fsys, "/w.db", db)
	c := open(t, uri(register(t, fsys), "/w.db"))
	if err := c.Exec("SELECT * FROM t"); !errors.Is(err, sqlite3.CANTOPEN) {
		t.Errorf("got %v, want CANTOPEN", err)
	}
}
