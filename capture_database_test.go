package backup_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/ncruces/go-sqlite3"
	"github.com/spf13/afero"

	"github.com/atocore/backup"
)

func TestDatabaseIsConsistentWhileAWriterWrites(t *testing.T) {
	for _, mode := range []string{"wal", "delete", "truncate", "persist"} {
		for name, start := range map[string]func(*testing.T, string) *writer{
			"goroutine": startGoroutine, "process": startProcess,
		} {
			t.Run(mode+"_"+name, func(t *testing.T) {
				w := osWorld(t)
				w.bookkeeping(t, "app.db", mode, 10)
				reader := w.connect(t, "app.db")
				mustExec(t, reader, "PRAGMA busy_timeout=60000")
				wr := start(t, w.path("app.db"))
				wr.next(t, 0)

				s := w.store(t, withSources(w.database("app.db")), atFirst(t, "db", func() {
					if mode == "wal" { // it goes on while we copy
						wr.next(t, countRows(t, reader))
					}
				}))
				snap := mustCreate(t, s)
				wr.next(t, countRows(t, reader))
				wr.stop()

				if got := w.queryCopy(t, snap, "db/app.db", bookBalance); got != "0" {
					t.Errorf("a copy of half a transaction: debits less credits are %s", got)
				}
				if got := w.queryCopy(t, snap, "db/app.db", bookCount); got == "0" {
					t.Error("nothing of what had been committed is in the copy")
				}
			})
		}
	}
}

// A reader in WAL mode blocks nobody, and so must Create.
func TestWriterIsNotBlockedInWALMode(t *testing.T) {
	eachNativeFs(t, func(t *testing.T, w *world) {
		w.bookkeeping(t, "app.db", "wal", 10)
		service := w.connect(t, "app.db") // which waits for nobody
		commits := 0
		s := w.store(t, withSources(w.database("app.db")), onProgress(t, "db", func() {
			mustExec(t, service, bookEntry)
			commits++
		}))
		snap := mustCreate(t, s)
		if commits < 3 {
			t.Errorf("%d batches, want several", commits)
		}
		if got := w.queryCopy(t, snap, "db/app.db", bookCount); got != "0" {
			t.Errorf("%s of the rows that were written during the copy are in it, want none", got)
		}
	})
}

// An open transaction is no obstacle in WAL mode, and in rollback mode not as
// long as it has only reserved the database.
func TestUncommittedRowsAreNotCopied(t *testing.T) {
	for _, mode := range []string{"wal", "delete"} {
		t.Run(mode, func(t *testing.T) {
			eachNativeFs(t, func(t *testing.T, w *world) {
				w.bookkeeping(t, "app.db", mode, 1)
				w.exec(t, "app.db", bookEntry)
				service := w.connect(t, "app.db")
				mustExec(t, service, "BEGIN IMMEDIATE; INSERT INTO debits VALUES (1)")
				s := w.store(t, withSources(w.database("app.db")), func(cfg *backup.Config) { cfg.BusyTimeout = time.Nanosecond })
				snap := mustCreate(t, s)
				mustExec(t, service, "ROLLBACK")
				if got := w.queryCopy(t, snap, "db/app.db", bookCount); got != "1" {
					t.Errorf("%s rows, want the one that was committed", got)
				}
			})
		})
	}
}

func TestBigDatabaseIsCopiedInBatches(t *testing.T) {
	w := osWorld(t)
	w.bookkeeping(t, "app.db", "wal", 66)
	wr := startGoroutine(t, w.path("app.db"))
	wr.next(t, 0)
	batches := 0
	s := w.store(t, withSources(w.database("app.db")), func(cfg *backup.Config) {
		cfg.Progress = func(p backup.Progress) {
			if p.Op == "create" {
				batches++
			}
		}
	})
	// Nothing is read back.
	snap, err := s.Create(t.Context(), &backup.CreateOptions{Level: backup.ValidateStructure})
	if err != nil {
		t.Fatal(err)
	}
	wr.stop()
	mustBeValid(t, s, snap.Stamp)
	if batches < 16 {
		t.Errorf("%d batches, want no more than 4 MiB to each", batches)
	}
	if got := w.queryCopy(t, snap, "db/app.db", bookBalance); got != "0" {
		t.Errorf("a copy of half a transaction: debits less credits are %s", got)
	}
}

// All databases are copied as of one instant: before the first page of the
// first one is copied.
func TestDatabasesArePinnedBeforeTheFirstPage(t *testing.T) {
	eachNativeFs(t, func(t *testing.T, w *world) {
		names := []string{"a.db", "b.db", "trees/one/nested.db", "trees/two/deep/nested.db"}
		services := make(map[string]*sqlite3.Conn)
		for _, name := range names {
			w.bookkeeping(t, name, "wal", 1)
			services[name] = w.connect(t, name)
			mustExec(t, services[name], bookEntry)
		}
		s := w.store(t, withSources(
			backup.Source{Name: "a", Kind: backup.Database, Path: w.path("a.db")},
			backup.Source{Name: "one", Kind: backup.Tree, Path: w.path("trees/one")},
			backup.Source{Name: "b", Kind: backup.Database, Path: w.path("b.db")},
			backup.Source{Name: "two", Kind: backup.Tree, Path: w.path("trees/two")},
		), atFirst(t, "a", func() {
			for _, name := range names {
				mustExec(t, services[name], bookEntry)
			}
		}))
		snap := mustCreate(t, s)
		for _, name := range []string{"a/a.db", "b/b.db", "one/nested.db", "two/deep/nested.db"} {
			if got := w.queryCopy(t, snap, name, bookCount); got != "1" {
				t.Errorf("%s: %s rows, want the one of before the copy began", name, got)
			}
		}
	})
}

// header is what the first 100 bytes of a database say that a copy must say
// too: https://sqlite.org/fileformat.html#the_database_header. Left out are
// the counters of changes.
func (w *world) header(t *testing.T, path string) map[string]int {
	t.Helper()
	data, err := afero.ReadFile(w.fs, path)
	if err != nil || len(data) < 100 {
		t.Fatalf("%s: %d bytes, %v", path, len(data), err)
	}
	word := func(at int) int { return int(binary.BigEndian.Uint32(data[at:])) }
	return map[string]int{
		"page size":      int(binary.BigEndian.Uint16(data[16:])),
		"write version":  int(data[18]), // 2 is WAL
		"read version":   int(data[19]),
		"reserved":       int(data[20]),
		"pages":          word(28),
		"free pages":     word(36),
		"schema format":  word(44),
		"cache size":     word(48),
		"auto vacuum":    word(52),
		"text encoding":  word(56),
		"user version":   word(60),
		"incremental":    word(64),
		"application id": word(68),
	}
}

func TestCopyHasTheHeaderOfTheDatabase(t *testing.T) {
	const table = "CREATE TABLE t (x); INSERT INTO t VALUES (zeroblob(100000)), (1); DELETE FROM t WHERE x = 1;"
	for _, test := range []struct{ name, sql string }{
		{"defaults", table},
		{"wal", "PRAGMA journal_mode=WAL;" + table},
		{"wal_with_large_pages", "PRAGMA page_size=65536; PRAGMA journal_mode=WAL;" + table},
		{"small_pages", "PRAGMA page_size=512;" + table},
		{"large_pages", "PRAGMA page_size=65536;" + table},
		{"reserved_bytes", table}, // see below
		{"auto_vacuum", "PRAGMA auto_vacuum=FULL;" + table},
		{"incremental_vacuum", "PRAGMA auto_vacuum=INCREMENTAL;" + table + "DELETE FROM t"},
		{"free_pages", table + "DELETE FROM t"},
		{"utf16", "PRAGMA encoding='UTF-16be';" + table},
		{"versions", "PRAGMA application_id=1635017060; PRAGMA user_version=-7;" + table},
		{"default_cache_size", "PRAGMA default_cache_size=123;" + table},
	} {
		t.Run(test.name, func(t *testing.T) {
			eachFs(t, func(t *testing.T, w *world) {
				c := w.connect(t, "app.db")
				if test.name == "reserved_bytes" {
					if _, err := c.FileControl("main", sqlite3.FCNTL_RESERVE_BYTES, 32); err != nil {
						t.Fatal(err)
					}
				}
				mustExec(t, c, "PRAGMA locking_mode=EXCLUSIVE;"+test.sql)
				if err := c.Close(); err != nil {
					t.Fatal(err)
				}
				want := w.header(t, w.path("app.db"))
				snap := mustCreate(t, w.store(t, withSources(w.database("app.db"))))
				if diff := cmp.Diff(want, w.header(t, w.snapshot(snap.Stamp, "db/app.db"))); diff != "" {
					t.Errorf("header (-want +got):\n%s", diff)
				}
			})
		})
	}
}

// The driver takes 8 reserved bytes per page for checksums. If they are for
// something else, "disk I/O error" would send people to look at the disk.
func TestReservedBytesThatAreNoChecksumsAreExplained(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		c := w.connect(t, "app.db")
		if _, err := c.FileControl("main", sqlite3.FCNTL_RESERVE_BYTES, 8); err != nil {
			t.Fatal(err)
		}
		mustExec(t, c, "PRAGMA locking_mode=EXCLUSIVE; PRAGMA page_size=512; CREATE TABLE t (x)")
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		s := w.store(t, withSources(w.database("app.db")))
		good := mustCreate(t, s).Stamp // with checksums
		spoil := func(data []byte) []byte {
			for page := 512; page <= len(data); page += 512 {
				clear(data[page-8 : page])
			}
			return data
		}
		w.edit(t, "app.db", spoil)
		_, err := s.Create(t.Context(), nil)
		if !errors.Is(err, sqlite3.IOERR_DATA) || !strings.Contains(err.Error(), "8 reserved bytes") {
			t.Errorf("got %v", err)
		}
		w.edit(t, in(good, "db/app.db"), spoil)
		if err := w.validate(t, s, good, nil).Err(); !strings.Contains(err.Error(), "8 reserved bytes") {
			t.Errorf("validated: %v", err)
		}
	})
}

// Nor does Create write checksums where a service has something else: what the
// driver checkpoints gets them.
func TestReservedBytesOfALiveDatabaseAreLeftAlone(t *testing.T) {
	w := osWorld(t)
	service := w.connect(t, "app.db")
	if _, err := service.FileControl("main", sqlite3.FCNTL_RESERVE_BYTES, 8); err != nil {
		t.Fatal(err)
	}
	mustExec(t, service, "PRAGMA page_size=512; PRAGMA journal_mode=WAL; CREATE TABLE t (x); PRAGMA wal_checkpoint(TRUNCATE)")
	f, err := os.OpenFile(w.path("app.db"), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteAt([]byte("not ours"), 512-8)
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	mustExec(t, service, "PRAGMA wal_autocheckpoint=0; INSERT INTO t VALUES (zeroblob(2000000)), (1)")
	before := w.read(t, "app.db")
	_, err = w.store(t, withSources(w.database("app.db"))).Create(t.Context(), nil)
	if err != nil && !strings.Contains(err.Error(), "8 reserved bytes") {
		t.Errorf("not looked at: %v", err)
	}
	if w.read(t, "app.db") != before {
		t.Error("Create has written to the database")
	}
}

// Checksums of the driver's do not keep a database from being copied, with all
// of them.
func TestChecksumsOfPagesAreCopied(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		service := w.connect(t, "app.db")
		if _, err := service.FileControl("main", sqlite3.FCNTL_RESERVE_BYTES, 8); err != nil {
			t.Fatal(err)
		}
		mustExec(t, service, "PRAGMA locking_mode=EXCLUSIVE; PRAGMA journal_mode=WAL; CREATE TABLE t (x); INSERT INTO t VALUES (randomblob(1000000))")
		if err := service.Close(); err != nil {
			t.Fatal(err)
		}
		mustCreate(t, w.store(t, withSources(w.database("app.db"))))
	})
}

// Pages in the log have no checksums yet. Those that do not fit into the memory
// of the copy are written before its first page, which says that they have.
func TestChecksumsOfPagesInTheLogAreMade(t *testing.T) {
	w := osWorld(t)
	service := w.connect(t, "app.db")
	if _, err := service.FileControl("main", sqlite3.FCNTL_RESERVE_BYTES, 8); err != nil {
		t.Fatal(err)
	}
	mustExec(t, service, "PRAGMA journal_mode=WAL; CREATE TABLE t (x)")
	reader := w.connect(t, "app.db")
	mustExec(t, reader, "BEGIN; SELECT * FROM t") // keeps the log from being checkpointed
	for range 10 {
		mustExec(t, service, "INSERT INTO t VALUES (randomblob(1000000))")
	}
	mustCreate(t, w.store(t, withSources(w.database("app.db"))))
}

func TestHotJournalIsRolledBackInTheCopy(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		w.crash(t, "app.db", crashedWithJournal)
		if !w.exists(t, "app.db-journal") || !strings.Contains(w.read(t, "app.db"), "new   ") {
			t.Fatal("there is no half-written transaction to roll back")
		}
		snap := mustCreate(t, w.store(t, withSources(w.database("app.db"))))
		if got := w.queryCopy(t, snap, "db/app.db", "SELECT DISTINCT trim(x) FROM t"); got != "old" {
			t.Errorf("got %q, want what was committed alone", got)
		}
	})
}

func TestHotJournalInATreeIsRolledBackInTheCopy(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		w.crash(t, "tree/app.db", crashedWithJournal)
		snap := mustCreate(t, w.store(t, withSources(w.treeSource("tree"))))
		if got := w.queryCopy(t, snap, "tree/app.db", "SELECT DISTINCT trim(x) FROM t"); got != "old" {
			t.Errorf("got %q, want what was committed alone", got)
		}
	})
}

func TestRowsInTheWALAloneAreCopied(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		w.crash(t, "app.db", crashedWithWAL)
		if !w.exists(t, "app.db-wal") || strings.Contains(w.read(t, "app.db"), "in the WAL") {
			t.Fatal("the row is in the database already")
		}
		snap := mustCreate(t, w.store(t, withSources(w.database("app.db"))))
		if got := w.queryCopy(t, snap, "db/app.db", "SELECT x FROM t"); got != "checkpointed\nin the WAL" {
			t.Errorf("got %q, want both rows", got)
		}
	})
}

// A backup looks at the service's files, and leaves them as they are: the WAL
// of a service that crashed is for the service to fold in.
func TestCreateLeavesTheWALOfACrashInPlace(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		w.crash(t, "data/app.db", crashedWithWAL)
		before := w.tree(t, "data")
		mustCreate(t, w.store(t, withSources(w.database("data/app.db"))))
		after := w.tree(t, "data")
		delete(after, "app.db-shm")
		if diff := cmp.Diff(before, after); diff != "" {
			t.Errorf("the database's files (-want +got):\n%.2000s", diff)
		}
	})
}

// sqliteShell runs SQL through the sqlite3 command, or skips the test.
func sqliteShell(t *testing.T, path, sql string) string {
	t.Helper()
	shell, err := exec.LookPath("sqlite3")
	if err != nil {
		t.Skip("the sqlite3 command is not installed")
	}
	cmd := exec.Command(shell, "-bail", path)
	cmd.Stdin = strings.NewReader(sql)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("sqlite3: %v: %s", err, out)
	}
	return string(out)
}

// What other builds of SQLite make is copied as it is, and passes.
func TestObjectsOfAllKindsAreCopied(t *testing.T) {
	for name, sql := range map[string]string{
		"fts5":           "CREATE VIRTUAL TABLE f USING fts5(body, tokenize='porter'); INSERT INTO f VALUES ('running'), ('runs');",
		"fts5_external":  "CREATE TABLE d (id INTEGER PRIMARY KEY, body); CREATE VIRTUAL TABLE f USING fts5(body, content='d', content_rowid='id'); INSERT INTO d VALUES (1, 'x'); INSERT INTO f(f) VALUES ('rebuild');",
		"fts4":           "CREATE VIRTUAL TABLE f USING fts4(body); INSERT INTO f VALUES ('running');",
		"rtree":          "CREATE VIRTUAL TABLE r USING rtree(id, x0, x1); INSERT INTO r VALUES (1, 0, 2), (2, 1, 3);",
		"generated":      "CREATE TABLE g (a, b AS (a*2) STORED, c AS (a*3) VIRTUAL); INSERT INTO g VALUES (1), (2); CREATE INDEX gc ON g (c);",
		"without_rowid":  "CREATE TABLE w (k TEXT PRIMARY KEY, v) WITHOUT ROWID; INSERT INTO w VALUES ('b', 1), ('a', 2);",
		"strict":         "CREATE TABLE s (i INTEGER, a ANY) STRICT; INSERT INTO s VALUES (1, x'00');",
		"blobs":          "CREATE TABLE b (x BLOB); INSERT INTO b VALUES (x''), (x'00ff00'), (zeroblob(300000)), (randomblob(5000));",
		"partial_index":  "CREATE TABLE p (a, b); CREATE UNIQUE INDEX pi ON p (a) WHERE b > 1; INSERT INTO p VALUES (1, 1), (1, 0), (1, 2);",
		"expression":     "CREATE TABLE e (j); CREATE INDEX ei ON e (json_extract(j, '$.k'), lower(j)); INSERT INTO e VALUES ('{\"k\": 1}');",
		"collation":      "CREATE TABLE c (x TEXT COLLATE NOCASE PRIMARY KEY); INSERT INTO c VALUES ('B'), ('a');",
		"trigger_view":   "CREATE TABLE t (x); CREATE VIEW v AS SELECT sum(x) FROM t; CREATE TRIGGER tr AFTER INSERT ON t BEGIN DELETE FROM t WHERE x < 0; END; INSERT INTO t VALUES (-1), (2);",
		"foreign_keys":   "CREATE TABLE a (id INTEGER PRIMARY KEY); CREATE TABLE b (a REFERENCES a); INSERT INTO b VALUES (7);", // a violation is the host's business
		"autoincrement":  "CREATE TABLE a (id INTEGER PRIMARY KEY AUTOINCREMENT); INSERT INTO a VALUES (9); DELETE FROM a;",
		"statistics":     "CREATE TABLE a (x); CREATE INDEX ax ON a (x); INSERT INTO a VALUES (1); ANALYZE;",
		"quoted_names":   "CREATE TABLE \"a\"\"b'; --\" (\"select\"); INSERT INTO \"a\"\"b'; --\" VALUES (1);",
		"no_tables":      "PRAGMA user_version=1;",
		"numbers":        "CREATE TABLE n (x); INSERT INTO n VALUES (9e999), (-9e999), (9223372036854775807), (1e-300), (NULL), ('1');",
		"text_with_nuls": "CREATE TABLE n (x TEXT); INSERT INTO n VALUES ('a' || char(0) || 'b');",
	} {
		t.Run(name, func(t *testing.T) {
			w := osWorld(t)
			sqliteShell(t, w.path("app.db"), "PRAGMA journal_mode=WAL;"+sql)
			snap := mustCreate(t, w.store(t, withSources(w.database("app.db"))))
			w.write(t, "copy.db", w.read(t, "backups/snapshots/"+snap.Stamp+"/db/app.db"))
			want := sqliteShell(t, w.path("app.db"), ".dump")
			got := sqliteShell(t, w.path("copy.db"), ".dump")
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("dump (-want +got):\n%s", diff)
			}
		})
	}
}

// A collation or a function of the host's own is no damage.
func TestSchemaThatNeedsTheHostsOwnFunctionsIsCopied(t *testing.T) {
	for name, sql := range map[string]string{
		"collation":  "CREATE TABLE t (x COLLATE backwards); CREATE INDEX i ON t (x); INSERT INTO t VALUES ('a'), ('b')",
		"expression": "CREATE TABLE t (x); CREATE INDEX i ON t (twice(x)); INSERT INTO t VALUES ('a'), ('b')",
		"check":      "CREATE TABLE t (x CHECK (twice(x) <> 'b')); INSERT INTO t VALUES ('a'), ('b')",
		"generated":  "CREATE TABLE t (x, y AS (twice(x))); INSERT INTO t VALUES ('a'), ('b')",
		"several": `CREATE TABLE t (x COLLATE backwards); CREATE INDEX i ON t (x); INSERT INTO t VALUES ('a'), ('b');
			CREATE TABLE u (x); CREATE INDEX j ON u (twice(x)); INSERT INTO u VALUES ('a'), ('b'); CREATE TABLE v (x)`,
	} {
		t.Run(name, func(t *testing.T) {
			eachFs(t, func(t *testing.T, w *world) {
				c := w.connect(t, "app.db")
				err := errors.Join(
					c.CreateCollation("backwards", func(a, b []byte) int { return bytes.Compare(b, a) }),
					c.CreateFunction("twice", 1, sqlite3.DETERMINISTIC|sqlite3.INNOCUOUS, func(ctx sqlite3.Context, arg ...sqlite3.Value) {
						ctx.ResultText(arg[0].Text() + arg[0].Text())
					}))
				if err != nil {
					t.Fatal(err)
				}
				mustExec(t, c, sql)
				if err := c.Close(); err != nil {
					t.Fatal(err)
				}
				mustCreate(t, w.store(t, withSources(w.database("app.db"))))
			})
		})
	}
}

func TestDatabaseOfAnyNameIsCopied(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("Windows has no such names")
	}
	names := append([]string{`back\slash.db`}, oddNames...)
	eachFs(t, func(t *testing.T, w *world) {
		var sources []backup.Source
		for i, name := range names {
			w.exec(t, "dir of "+name+"/"+name, "PRAGMA journal_mode=WAL; CREATE TABLE t (x); INSERT INTO t VALUES (1)")
			source := w.database("dir of " + name + "/" + name)
			source.Name = fmt.Sprint("db", i)
			sources = append(sources, source)
		}
		s := w.store(t, withSources(sources...))
		snap := mustCreate(t, s)
		for i, name := range names {
			if state, _ := snap.Source(fmt.Sprint("db", i)); state.Path != fmt.Sprint("db", i, "/", name) {
				t.Errorf("%q: recorded as %q", name, state.Path)
			}
			if got := w.queryCopy(t, snap, fmt.Sprint("db", i, "/", name), "SELECT x FROM t"); got != "1" {
				t.Errorf("%q: got %q, want the row", name, got)
			}
			w.exec(t, "dir of "+name+"/"+name, "DELETE FROM t")
		}
		w.restore(t, s, snap.Stamp)
		for _, name := range names {
			if got := w.query(t, "dir of "+name+"/"+name, "SELECT x FROM t"); got != "1" {
				t.Errorf("%q: restored: %q, want the row", name, got)
			}
		}
	})
}

// Names that are no text are kept too, in every place that has them.
func TestDatabaseWhoseNameIsNoTextIsCopied(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux takes any bytes for a name")
	}
	eachFs(t, func(t *testing.T, w *world) {
		w.exec(t, "invalid\xff.db", "CREATE TABLE t (x); INSERT INTO t VALUES (1)")
		snap := mustCreate(t, w.store(t, withSources(w.database("invalid\xff.db"))))
		if got := w.queryCopy(t, snap, "db/invalid\xff.db", "SELECT x FROM t"); got != "1" {
			t.Errorf("got %q, want the row", got)
		}
	})
}
