package backup_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/ncruces/go-sqlite3"
	"github.com/ncruces/go-sqlite3/driver"
	"github.com/spf13/afero"

	"github.com/atocore/backup"
	"github.com/atocore/backup/internal/crashfs"
)

// eachNativeFs runs a test where several connections can have a database in
// WAL mode open.
func eachNativeFs(t *testing.T, test func(t *testing.T, w *world)) {
	eachFs(t, func(t *testing.T, w *world) {
		if _, ok := w.fs.(*afero.MemMapFs); ok {
			t.Skip("a database in WAL mode has one connection at a time in memory")
		}
		test(t, w)
	})
}

// eachKindOfFs runs a long test once in memory and once on a disk.
func eachKindOfFs(t *testing.T, test func(t *testing.T, w *world)) {
	t.Run("memory", func(t *testing.T) { test(t, newWorld(t, afero.NewMemMapFs(), "/srv")) })
	t.Run("os", func(t *testing.T) { test(t, osWorld(t)) })
}

// withSources returns a change of a Config to other sources.
func withSources(sources ...backup.Source) func(*backup.Config) {
	return func(cfg *backup.Config) { cfg.Sources = sources }
}

// database, file and tree are sources that are named as their paths end.
func (w *world) database(name string) backup.Source {
	return backup.Source{Name: "db", Kind: backup.Database, Path: w.path(name)}
}

func (w *world) file(name string) backup.Source {
	return backup.Source{Name: "file", Kind: backup.File, Path: w.path(name)}
}

func (w *world) treeSource(name string) backup.Source {
	return backup.Source{Name: "tree", Kind: backup.Tree, Path: w.path(name)}
}

// onProgress returns a change of a Config that calls hook each time that
// Create has copied a part of a source. What it validates comes after.
func onProgress(source string, hook func()) func(*backup.Config) {
	return func(cfg *backup.Config) {
		cfg.Progress = func(p backup.Progress) {
			if p.Op == "create" && p.Source == source {
				hook()
			}
		}
	}
}

// atFirst returns a change of a Config that calls hook when the first bytes
// of a source have been copied.
func atFirst(source string, hook func()) func(*backup.Config) {
	return onProgress(source, sync.OnceFunc(hook))
}

// connect opens a database as the service has it open, until the test ends.
func (w *world) connect(t *testing.T, name string) *sqlite3.Conn {
	t.Helper()
	w.mkdir(t, path.Dir(name))
	c, err := backup.OpenDB(w.fs, w.path(name))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	mustExec(t, c, "PRAGMA busy_timeout=0")
	return c
}

func mustExec(t *testing.T, c *sqlite3.Conn, sql string) {
	t.Helper()
	if err := c.Exec(sql); err != nil {
		t.Errorf("%s: %v", sql, err)
	}
}

// mustCreate takes a snapshot that must be good.
func mustCreate(t *testing.T, s *backup.Store) *backup.Snapshot {
	t.Helper()
	snap, err := s.Create(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if !snap.Validated {
		t.Fatalf("not validated: %v", snap.Problems)
	}
	mustBeValid(t, s, snap.Stamp)
	return snap
}

func mustBeValid(t *testing.T, s *backup.Store, stamp string) {
	t.Helper()
	report, err := s.Validate(t.Context(), stamp, nil)
	if err != nil {
		t.Fatal(err)
	}
	if !report.Valid {
		t.Fatalf("not valid: %v", report.Err())
	}
}

// queryCopy is query on a database in a snapshot, which it leaves as it is.
func (w *world) queryCopy(t *testing.T, snap *backup.Snapshot, name, sql string) string {
	t.Helper()
	data, err := afero.ReadFile(w.fs, w.snapshot(snap.Stamp, name))
	if err != nil {
		t.Fatal(err)
	}
	w.write(t, "scratch/copy.db", string(data))
	return w.query(t, "scratch/copy.db", sql)
}

// bookkeeping makes a database whose transactions each add to two tables, and
// gives it a few megabytes, so that it is copied in several batches.
func (w *world) bookkeeping(t *testing.T, name, journalMode string, megabytes int) {
	t.Helper()
	w.exec(t, name, fmt.Sprintf(`PRAGMA journal_mode=%s;
		CREATE TABLE debits (n INTEGER);
		CREATE TABLE bulk (b BLOB);
		CREATE TABLE credits (n INTEGER);
		WITH RECURSIVE i (i) AS (SELECT 1 UNION ALL SELECT i+1 FROM i WHERE i < %d)
		INSERT INTO bulk SELECT zeroblob(1048576) FROM i;`, journalMode, megabytes))
}

const (
	bookEntry   = "BEGIN IMMEDIATE; INSERT INTO debits VALUES (1); INSERT INTO credits VALUES (1); COMMIT"
	bookCount   = "SELECT count(*) FROM debits"
	bookBalance = "SELECT (SELECT count(*) FROM debits) - (SELECT count(*) FROM credits)"
)

// A writer commits book entries all the time. It says how many there are
// after each, to whoever listens at that moment.
type writer struct {
	commits chan int
	stop    func()
}

// next waits until the writer commits another time than those n.
func (wr *writer) next(t *testing.T, n int) {
	t.Helper()
	giveUp := time.After(time.Minute)
	for {
		select {
		case m := <-wr.commits:
			if m > n {
				return
			}
		case <-giveUp:
			t.Error("the writer makes no headway")
			return
		}
	}
}

// keepWriting commits book entries until told to stop.
func keepWriting(path string, committed func(n int) (more bool)) error {
	c, err := sqlite3.Open(path)
	if err != nil {
		return err
	}
	defer c.Close()
	// Nothing here is to survive a power cut.
	if err := c.Exec("PRAGMA busy_timeout=60000; PRAGMA synchronous=OFF"); err != nil {
		return err
	}
	for n := 1; ; n++ {
		if err := c.Exec(bookEntry); err != nil {
			return err
		}
		if !committed(n) {
			return c.Close()
		}
	}
}

// startGoroutine starts a writer in this process.
func startGoroutine(t *testing.T, path string) *writer {
	wr := &writer{commits: make(chan int)}
	stop, stopped := make(chan struct{}), make(chan error, 1)
	go func() {
		stopped <- keepWriting(path, func(n int) bool {
			select {
			case <-stop:
				return false
			case wr.commits <- n:
			default:
			}
			return true
		})
	}()
	wr.stop = sync.OnceFunc(func() {
		close(stop)
		if err := <-stopped; err != nil {
			t.Errorf("writer: %v", err)
		}
	})
	t.Cleanup(wr.stop)
	return wr
}

const writerEnv = "BACKUP_TEST_WRITER" // the path of the database to write to

// startProcess starts a writer in a process of its own: this test binary.
func startProcess(t *testing.T, path string) *writer {
	cmd := rerun(t, "TestWriterProcess", writerEnv+"="+path)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	wr := &writer{commits: make(chan int)}
	read := make(chan struct{})
	go func() {
		defer close(read)
		for lines := bufio.NewScanner(stdout); lines.Scan(); {
			n, _ := strconv.Atoi(lines.Text()) // the last lines are the test's
			select {
			case wr.commits <- n:
			default:
			}
		}
	}()
	wr.stop = sync.OnceFunc(func() {
		stdin.Close()
		<-read
		if err := cmd.Wait(); err != nil {
			t.Errorf("writer: %v", err)
		}
	})
	t.Cleanup(wr.stop)
	return wr
}

// rerun returns a command that runs one test of this binary.
func rerun(t *testing.T, test string, env ...string) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe, "-test.run=^"+test+"$")
	cmd.Env = append(os.Environ(), env...)
	cmd.Stderr = os.Stderr
	return cmd
}

// TestWriterProcess is what startProcess starts; by itself it is no test.
func TestWriterProcess(t *testing.T) {
	path := os.Getenv(writerEnv)
	if path == "" {
		t.Skip("a part of other tests")
	}
	stop := make(chan struct{})
	go func() {
		os.Stdin.Read(make([]byte, 1)) // until it is closed
		close(stop)
	}()
	err := keepWriting(path, func(n int) bool {
		fmt.Println(n)
		select {
		case <-stop:
			return false
		default:
			return true
		}
	})
	if err != nil {
		t.Fatal(err)
	}
}

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

				s := w.store(t, withSources(w.database("app.db")), atFirst("db", func() {
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

func countRows(t *testing.T, c *sqlite3.Conn) int {
	t.Helper()
	stmt, _, err := c.Prepare(bookCount)
	if err != nil {
		t.Error(err)
		return 0
	}
	defer stmt.Close()
	stmt.Step()
	return stmt.ColumnInt(0)
}

// A reader in WAL mode blocks nobody, and so must Create.
func TestWriterIsNotBlockedInWALMode(t *testing.T) {
	eachNativeFs(t, func(t *testing.T, w *world) {
		w.bookkeeping(t, "app.db", "wal", 10)
		service := w.connect(t, "app.db") // which waits for nobody
		commits := 0
		s := w.store(t, withSources(w.database("app.db")), onProgress("db", func() {
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
		), atFirst("a", func() {
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

// crash runs SQL on a database and leaves its files as a crash then would:
// with the journal or the WAL that there is before the connection is closed.
func (w *world) crash(t *testing.T, name, sql string) {
	t.Helper()
	c := w.connect(t, "crash.db")
	mustExec(t, c, "PRAGMA locking_mode=EXCLUSIVE;"+sql)
	for _, suffix := range []string{"", "-wal", "-journal"} {
		if w.exists(t, "crash.db"+suffix) {
			w.write(t, name+suffix, w.read(t, "crash.db"+suffix))
		}
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
}

const crashedWithJournal = `PRAGMA cache_size=2;
	CREATE TABLE t (id INTEGER PRIMARY KEY, x);
	WITH RECURSIVE i (i) AS (SELECT 1 UNION ALL SELECT i+1 FROM i WHERE i < 100)
	INSERT INTO t SELECT i, printf('%-1000s', 'old') FROM i;
	BEGIN; UPDATE t SET x = printf('%-1000s', 'new');`

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

const crashedWithWAL = `PRAGMA journal_mode=WAL; CREATE TABLE t (x); INSERT INTO t VALUES ('checkpointed');
	PRAGMA wal_checkpoint(TRUNCATE); INSERT INTO t VALUES ('in the WAL');`

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

// oddNames are names of files that are hard on whoever puts them into URIs,
// JSON, or SQL.
var oddNames = []string{
	"a b?.db", "x%41.db", "#1.db", "?_pragma=x.db", "a&vfs=memdb.db", "file:x.db", ":memory:",
	"ünï😀.db", "it's.db", `quo"te.db`, "new\nline.db", "-dash.db", "...db", "a:b.db", "%00.db", "semi;colon.db",
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

// A waiting is a context that tells how often somebody has waited with it.
type waiting struct {
	context.Context
	waits  int
	enough int
	waited func() // called after enough of them
}

func (c *waiting) Done() <-chan struct{} {
	if c.waits++; c.waits == c.enough {
		c.waited()
	}
	return c.Context.Done()
}

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

// mustHaveNoSnapshots fails if anything is left in the snapshots' directory.
func (w *world) mustHaveNoSnapshots(t *testing.T) {
	t.Helper()
	if !w.exists(t, "backups/snapshots") {
		return
	}
	left, err := afero.ReadDir(w.fs, w.path("backups/snapshots"))
	if err != nil {
		t.Fatal(err)
	}
	for _, fi := range left {
		t.Errorf("left behind: %s", fi.Name())
	}
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
		if ctx.waits < ctx.enough {
			t.Errorf("waited %d times: the database was not locked", ctx.waits)
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
		if ctx.waits < 20 || ctx.waits > 30 {
			t.Errorf("waited %d times, want 20: once until the patience ends", ctx.waits)
		}
		if diff := cmp.Diff([]string{"raw_copy tree/app.db"}, problemsOf(snap)); diff != "" {
			t.Errorf("problems (-want +got):\n%s", diff)
		}
	})
}

// problemsOf returns the codes and paths of a snapshot's problems.
func problemsOf(snap *backup.Snapshot) []string {
	var found []string
	for _, p := range snap.Problems {
		found = append(found, fmt.Sprintf("%s %s", p.Code, p.Path))
	}
	return found
}

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

// A manifestLine is what manifest.jsonl says of an entry.
type manifestLine struct {
	Path   manifestName `json:"path"`
	Type   string       `json:"type"`
	Mode   string       `json:"mode"`
	MTime  time.Time    `json:"mtime"`
	Size   int64        `json:"size"`
	SHA256 string       `json:"sha256"`
	Target manifestName `json:"target"`
}

// A manifestName is text, or {"base64": …}.
type manifestName string

func (n *manifestName) UnmarshalJSON(data []byte) error {
	var raw struct {
		Base64 []byte `json:"base64"`
	}
	if err := json.Unmarshal(data, &raw); err == nil {
		*n = manifestName(raw.Base64)
		return nil
	}
	return json.Unmarshal(data, (*string)(n))
}

// manifest returns the manifest of a snapshot, by path.
func (w *world) manifest(t *testing.T, stamp string) map[string]manifestLine {
	t.Helper()
	data, err := afero.ReadFile(w.fs, w.snapshot(stamp, "manifest.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	lines := make(map[string]manifestLine)
	for line := range bytes.Lines(data) {
		var m manifestLine
		if err := json.Unmarshal(line, &m); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		lines[string(m.Path)] = m
	}
	return lines
}

// types returns the types of the entries of a snapshot, by path.
func (w *world) types(t *testing.T, stamp string) map[string]string {
	t.Helper()
	types := make(map[string]string)
	for name, line := range w.manifest(t, stamp) {
		types[name] = line.Type
	}
	return types
}

// attributes returns the permissions and times of files and directories at a
// path and below it.
func (w *world) attributes(t *testing.T, name string) map[string]string {
	t.Helper()
	found := make(map[string]string)
	err := afero.Walk(w.fs, w.path(name), func(p string, fi fs.FileInfo, err error) error {
		if err == nil && fi.Mode()&fs.ModeSymlink == 0 {
			found[p] = fmt.Sprintf("%v %v", fi.Mode().Perm(), fi.ModTime().UTC())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// attribute sets the permissions and the time of a file or directory.
func (w *world) attribute(t *testing.T, name string, perm fs.FileMode, mtime time.Time) {
	t.Helper()
	if err := errors.Join(w.fs.Chmod(w.path(name), perm), w.fs.Chtimes(w.path(name), mtime, mtime)); err != nil {
		t.Fatal(err)
	}
}

// symlink makes a symbolic link, or skips the test.
func (w *world) symlink(t *testing.T, target, name string) {
	t.Helper()
	w.mkdir(t, path.Dir(name))
	if _, ok := w.fs.(*afero.MemMapFs); ok {
		t.Skip("this file system has no symbolic links")
	}
	if err := os.Symlink(target, w.nativePath(name)); err != nil {
		t.Fatal(err)
	}
}

func (w *world) remove(t *testing.T, name string) {
	t.Helper()
	if err := w.fs.RemoveAll(w.path(name)); err != nil {
		t.Error(err)
	}
}

// ancient is a time that no test happens in, with a part of a second.
var ancient = time.Date(2001, 2, 3, 4, 5, 6, 700_000_000, time.UTC)

func TestFileIsHashedAndRecorded(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		w.write(t, "config/registry.json", "abc")
		w.attribute(t, "config/registry.json", 0o640, ancient)
		snap := mustCreate(t, w.store(t, withSources(w.file("config/registry.json"))))
		want := manifestLine{
			Path: "file/registry.json", Type: "file", Mode: "0640", MTime: ancient, Size: 3,
			SHA256: "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", // FIPS 180-2, B.1
		}
		if diff := cmp.Diff(want, w.manifest(t, snap.Stamp)["file/registry.json"]); diff != "" {
			t.Errorf("entry (-want +got):\n%s", diff)
		}
		state, _ := snap.Source("file")
		wantState := backup.SourceState{Name: "file", Kind: backup.File, Captured: true, Path: "file/registry.json", Files: 1, Bytes: 3}
		if diff := cmp.Diff(wantState, state); diff != "" {
			t.Errorf("state (-want +got):\n%s", diff)
		}
	})
}

func TestEmptyFileIsCopied(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		w.write(t, "empty", "")
		snap := mustCreate(t, w.store(t, withSources(w.file("empty"))))
		if state, _ := snap.Source("file"); !state.Captured || state.Files != 1 || state.Bytes != 0 {
			t.Errorf("got %+v, want one file of no bytes", state)
		}
	})
}

// A source's path may be a symbolic link: it is the host's own word. What is
// copied has the name that the host uses.
func TestSymlinkedPathIsFollowed(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		w.write(t, "real/registry-2.json", "abc")
		w.crash(t, "real/app-2.db", crashedWithWAL)
		w.write(t, "real/tree-2/f", "f")
		w.symlink(t, "../../real/registry-2.json", "links/two/registry.json")
		w.symlink(t, "two/registry.json", "links/registry.json")
		w.symlink(t, "../real/app-2.db", "links/app.db")
		w.symlink(t, "../real/tree-2", "links/tree")
		s := w.store(t, withSources(w.file("links/registry.json"), w.database("links/app.db"), w.treeSource("links/tree")))
		snap := mustCreate(t, s)
		want := map[string]string{
			"file": "dir", "file/registry.json": "file",
			"db": "dir", "db/app.db": "db",
			"tree": "dir", "tree/f": "file",
		}
		if diff := cmp.Diff(want, w.types(t, snap.Stamp)); diff != "" {
			t.Errorf("entries (-want +got):\n%s", diff)
		}
		state, _ := snap.Source("db")
		if got := w.queryCopy(t, snap, state.Path, "SELECT x FROM t"); got != "checkpointed\nin the WAL" {
			t.Errorf("got %q, want both rows", got)
		}
	})
}

// An absolute link is the operating system's, also below a BasePathFs, which
// follows it.
func TestAbsolutelySymlinkedPathIsFollowed(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		w.write(t, "real/registry.json", "abc")
		w.symlink(t, w.nativePath("real/registry.json"), "links/registry.json")
		if got := w.read(t, "links/registry.json"); got != "abc" {
			t.Fatalf("the file system itself has %q", got)
		}
		mustCreate(t, w.store(t, withSources(w.file("links/registry.json"))))
	})
}

// native reports whether the world is on the operating system.
func (w *world) native() bool {
	_, memory := w.fs.(*afero.MemMapFs)
	return !memory
}

// nativePath is path on the operating system.
func (w *world) nativePath(name string) string {
	if base, ok := w.fs.(*afero.BasePathFs); ok {
		real, _ := base.RealPath(w.path(name))
		return real
	}
	return w.path(name)
}

// Ways in which a file changes while it is copied, and what is to come of it.
var fileChanges = []struct {
	name     string
	change   func(t *testing.T, w *world, name string, n int) // the n-th time that a part of it was copied
	problems []string
	old, new bool // what the copy may be
}{
	{
		name: "not_at_all", old: true,
		change: func(*testing.T, *world, string, int) {},
	},
	{
		name: "rewritten_once", new: true,
		change: func(t *testing.T, w *world, name string, n int) {
			if n == 1 {
				w.write(t, name, newContent)
			}
		},
	},
	{
		name: "rewritten_once_in_the_same_instant", new: true,
		change: func(t *testing.T, w *world, name string, n int) {
			if n != 1 {
				return
			}
			fi, err := w.fs.Stat(w.path(name))
			if err != nil {
				t.Fatal(err)
			}
			mtime := fi.ModTime()
			w.write(t, name, newContent)
			w.attribute(t, name, 0o644, mtime)
		},
	},
	{
		name: "replaced_once", old: true, new: true, // never torn: see rename(2)
		change: func(t *testing.T, w *world, name string, n int) {
			if n == 1 {
				w.replace(t, name, newContent)
			}
		},
	},
	{
		name: "truncated_once", new: true,
		change: func(t *testing.T, w *world, name string, n int) {
			if n == 1 {
				w.write(t, name, "")
				w.write(t, name, newContent)
			}
		},
	},
	{
		name: "touched_each_time", old: true,
		change: func(t *testing.T, w *world, name string, n int) {
			w.attribute(t, name, 0o644, ancient.Add(time.Duration(n)*time.Hour))
		},
	},
	{
		name: "grows_each_time", old: true, // as a log does
		change: func(t *testing.T, w *world, name string, n int) {
			w.write(t, name, w.read(t, name)+"more")
		},
	},
	{
		name: "rewritten_each_time", problems: []string{"file_changed"}, old: true, new: true,
		change: func(t *testing.T, w *world, name string, n int) {
			w.write(t, name, strings.Repeat(string(rune('a'+n)), len(newContent)))
		},
	},
	{
		name: "replaced_each_time", old: true, new: true, // as a registry is that is saved all the time
		change: func(t *testing.T, w *world, name string, n int) {
			w.replace(t, name, []string{oldContent, newContent}[n%2])
		},
	},
}

// Of more than one buffer, so that the copy could have parts of both.
var (
	oldContent = strings.Repeat("old\n", 600_000)
	newContent = strings.Repeat("new\n", 600_000)
)

// replace gives a file new content as a careful program does: by a rename.
func (w *world) replace(t *testing.T, name, content string) {
	t.Helper()
	w.write(t, "replacement", content)
	if err := w.fs.Rename(w.path("replacement"), w.path(name)); err != nil {
		t.Error(err)
	}
}

func TestFileThatChangesUnderTheCopy(t *testing.T) {
	for _, test := range fileChanges {
		t.Run(test.name, func(t *testing.T) {
			eachKindOfFs(t, func(t *testing.T, w *world) {
				for _, source := range []backup.Source{w.file("live/f"), w.treeSource("live")} {
					w.write(t, "live/f", oldContent)
					n := 0
					s := w.store(t, withSources(source), onProgress(source.Name, func() {
						n++
						test.change(t, w, "live/f", n)
					}))
					snap, err := s.Create(t.Context(), nil)
					if err != nil {
						t.Fatal(err)
					}
					var want []string
					for _, code := range test.problems {
						want = append(want, code+" "+source.Name+"/f")
					}
					if diff := cmp.Diff(want, problemsOf(snap)); diff != "" {
						t.Errorf("%s: problems (-want +got):\n%s", source.Name, diff)
					}
					if snap.Validated != (want == nil) {
						t.Errorf("%s: validated: %v", source.Name, snap.Validated)
					}
					got := w.read(t, "backups/snapshots/"+snap.Stamp+"/"+source.Name+"/f")
					if !(test.old && got == oldContent || test.new && got == newContent || test.problems != nil) {
						t.Errorf("%s: copy of %d bytes, beginning with %.8q and ending in %.8q", source.Name, len(got), got, got[max(0, len(got)-8):])
					}
				}
			})
		})
	}
}

// The bar does not go backwards when a file is copied anew.
func TestProgressIsMonotoneWhenAFileIsCopiedAnew(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		w.write(t, "f", oldContent)
		last, rewrite := int64(0), sync.OnceFunc(func() { w.write(t, "f", newContent) })
		s := w.store(t, withSources(w.file("f")), func(cfg *backup.Config) {
			cfg.Progress = func(p backup.Progress) {
				if p.Op != "create" {
					return
				}
				if p.Done < last {
					t.Errorf("from %d back to %d", last, p.Done)
				}
				last = p.Done
				rewrite()
			}
		})
		mustCreate(t, s)
	})
}

func TestFileThatVanishesFromATreeIsNoted(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		for _, name := range []string{"a", "b", "c", "d/e", "f/g/h", "z"} {
			w.write(t, "tree/"+name, name)
		}
		w.exec(t, "tree/x.db", "CREATE TABLE t (x)")
		s := w.store(t, withSources(w.treeSource("tree")), atFirst("tree", func() {
			for _, name := range []string{"a", "b", "d", "f/g", "x.db"} {
				w.remove(t, "tree/"+name)
			}
		}))
		snap, err := s.Create(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		want := map[string]bool{"tree/b": true} // at least; of a directory it or all that was in it
		for _, p := range snap.Problems {
			if p.Code != backup.CodeFileVanished {
				t.Errorf("unexpected: %v", p)
			}
			delete(want, p.Path)
		}
		if len(want) > 0 || snap.Validated {
			t.Errorf("not noted: %v; got %v", want, problemsOf(snap))
		}
		types := w.types(t, snap.Stamp)
		for _, name := range []string{"tree/c", "tree/z"} {
			if types[name] != "file" {
				t.Errorf("%s is not in the snapshot: %v", name, types)
			}
		}
		if _, ok := types["tree/b"]; ok {
			t.Error("tree/b is in the manifest")
		}
	})
}

// A directory that vanishes while a tree is measured does not make the whole
// tree a missing, optional source.
func TestDirectoryThatVanishesFromAnOptionalTreeIsNoted(t *testing.T) {
	w := newWorld(t, crashfs.New(crashfs.Options{}), "/srv")
	w.write(t, "tree/a", "a")
	w.write(t, "tree/sub/b", "b")
	source := w.treeSource("tree")
	source.Optional = true
	s := w.store(t, withSources(source))
	w.fs.(*crashfs.FS).SetHook(func(op crashfs.Op) crashfs.Fault {
		if op.Kind == crashfs.OpOpen && op.Path == w.path("tree/sub") {
			return crashfs.Fault{Effect: crashfs.FailBefore, Err: fs.ErrNotExist}
		}
		return crashfs.Fault{}
	})
	snap, err := s.Create(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if state, _ := snap.Source("tree"); !state.Captured || w.types(t, snap.Stamp)["tree/a"] != "file" {
		t.Errorf("got %+v, want what was there", state)
	}
}

func TestFileSourceThatVanishesBeforeItsCopyIsNoted(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		w.write(t, "f", "content")
		source := w.file("f")
		source.Optional = true
		source.Quiesce = func(context.Context) (func(), error) { w.remove(t, "f"); return nil, nil }
		snap, err := w.store(t, withSources(source)).Create(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]string{"file_vanished file/f"}, problemsOf(snap)); diff != "" {
			t.Errorf("problems (-want +got):\n%s", diff)
		}
		if state, _ := snap.Source("file"); state.Captured || state.Path != "" {
			t.Errorf("captured, though it was not there: %+v", state)
		}
		if diff := cmp.Diff([]string{".", "backup-metadata.json", "manifest.jsonl"}, w.names(t, in(snap.Stamp, "."))); diff != "" {
			t.Errorf("in the snapshot (-want +got):\n%s", diff)
		}
	})
}

// A snapshot that says nothing of a file must not remove the live one.
func TestRestoreOfAFileThatVanishedLeavesTheLiveOne(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		w.write(t, "f", "content")
		w.write(t, "g", "content")
		file := w.file("f")
		file.Quiesce = func(context.Context) (func(), error) { w.remove(t, "f"); return nil, nil }
		other := backup.Source{Name: "other", Kind: backup.File, Path: w.path("g")}
		s := w.store(t, withSources(file, other))
		snap, err := s.Create(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		w.write(t, "f", "back again")
		r, err := s.Restore(t.Context(), snap.Stamp, &backup.RestoreOptions{ConfirmServiceStopped: true, SkipSafetySnapshot: true, Accept: []backup.Code{backup.CodeFileVanished}})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]string{"other"}, r.Restored); diff != "" {
			t.Errorf("restored (-want +got):\n%s", diff)
		}
		if got := w.read(t, "f"); got != "back again" {
			t.Errorf("the live file: %q", got)
		}
	})
}

// What is removed when all of it has been read is whole.
func TestFileSourceThatVanishesAfterItsCopyIsKept(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		w.write(t, "f", "content")
		s := w.store(t, withSources(w.file("f")), atFirst("file", func() { w.remove(t, "f") }))
		snap, err := s.Create(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := w.read(t, "backups/snapshots/"+snap.Stamp+"/file/f"); got != "content" {
			t.Errorf("copy: %q; problems: %v", got, problemsOf(snap))
		}
	})
}

// A hookFs calls a hook before a file is opened. To the library it is no
// file system of the operating system's, though its files are.
type hookFs struct {
	afero.Fs
	opening func(name string)
}

func (h hookFs) Name() string { return "hookFs" }

func (h hookFs) Open(name string) (afero.File, error) {
	h.opening(name)
	return h.Fs.Open(name)
}

func (h hookFs) OpenFile(name string, flag int, perm fs.FileMode) (afero.File, error) {
	h.opening(name)
	return h.Fs.OpenFile(name, flag, perm)
}

func (h hookFs) LstatIfPossible(name string) (fs.FileInfo, bool, error) {
	return h.Fs.(afero.Lstater).LstatIfPossible(name)
}

// A file that is replaced between a look at it and its opening is as good as
// one that was replaced before.
func TestFileThatIsReplacedBeforeItIsOpenedIsCopied(t *testing.T) {
	for n := 1; n <= 3; n++ { // a tree's files are opened for their headers too
		t.Run(fmt.Sprintf("opening_%d", n), func(t *testing.T) {
			w := osWorld(t)
			for _, source := range []backup.Source{w.file("live/f"), w.treeSource("live")} {
				w.write(t, "live/f", oldContent)
				opened := 0
				hooked := &world{root: w.root, now: w.now}
				hooked.fs = hookFs{w.fs, func(name string) {
					if name != w.path("live/f") {
						return
					}
					if opened++; opened == n {
						w.replace(t, "live/f", newContent)
					}
				}}
				snap := mustCreate(t, hooked.store(t, withSources(source)))
				want := newContent
				if opened < n {
					want = oldContent
				}
				if got := w.read(t, "backups/snapshots/"+snap.Stamp+"/"+source.Name+"/f"); got != want {
					t.Errorf("%s: copy of %d bytes, beginning with %.8q", source.Name, len(got), got)
				}
				w.remove(t, "backups")
			}
		})
	}
}

// roundTrip takes a snapshot of what is at a path, removes all that is in it
// but its own directory, and puts it back: it must be what it was, but for
// the times of links.
func (w *world) roundTrip(t *testing.T, name string) *backup.Snapshot {
	t.Helper()
	before, attributes := w.tree(t, name), w.attributes(t, name)
	s := w.store(t, withSources(w.treeSource(name)))
	snap := mustCreate(t, s)
	found, err := afero.ReadDir(w.fs, w.path(name))
	if err != nil {
		t.Fatal(err)
	}
	for _, fi := range found {
		if err := w.fs.RemoveAll(filepath.Join(w.path(name), fi.Name())); err != nil {
			t.Fatal(err)
		}
	}
	opts := &backup.RestoreOptions{ConfirmServiceStopped: true, SkipSafetySnapshot: true}
	if _, err := s.Restore(t.Context(), snap.Stamp, opts); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, w.tree(t, name)); diff != "" {
		t.Errorf("restored (-want +got):\n%.4000s", diff)
	}
	after := w.attributes(t, name)
	delete(attributes, w.path(name)) // the tree's own directory stays
	delete(after, w.path(name))
	if diff := cmp.Diff(attributes, after); diff != "" {
		t.Errorf("permissions and times (-want +got):\n%.4000s", diff)
	}
	return snap
}

func TestTreeIsCopiedWithItsAttributes(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		w.write(t, "tree/run.sh", "#!")
		w.write(t, "tree/d/secret", "s")
		w.write(t, "tree/d/d/locked", "l")
		w.mkdir(t, "tree/empty/also")
		w.attribute(t, "tree/run.sh", 0o755, ancient)
		w.attribute(t, "tree/d/secret", 0o600, ancient.Add(time.Nanosecond))
		w.attribute(t, "tree/d/d/locked", 0o444, time.Unix(-1, 0))
		for i, name := range []string{"tree/empty/also", "tree/empty", "tree/d/d", "tree/d", "tree"} {
			w.attribute(t, name, 0o701+fs.FileMode(i), ancient.Add(time.Duration(i)*time.Hour))
		}
		snap := w.roundTrip(t, "tree")

		hash := func(text string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(text))) }
		want := map[string]manifestLine{
			"tree":            {Type: "dir", Mode: "0705", MTime: ancient.Add(4 * time.Hour)},
			"tree/d":          {Type: "dir", Mode: "0704", MTime: ancient.Add(3 * time.Hour)},
			"tree/d/d":        {Type: "dir", Mode: "0703", MTime: ancient.Add(2 * time.Hour)},
			"tree/d/d/locked": {Type: "file", Mode: "0444", MTime: time.Unix(-1, 0).UTC(), Size: 1, SHA256: hash("l")},
			"tree/d/secret":   {Type: "file", Mode: "0600", MTime: ancient.Add(time.Nanosecond), Size: 1, SHA256: hash("s")},
			"tree/empty":      {Type: "dir", Mode: "0702", MTime: ancient.Add(time.Hour)},
			"tree/empty/also": {Type: "dir", Mode: "0701", MTime: ancient},
			"tree/run.sh":     {Type: "file", Mode: "0755", MTime: ancient, Size: 2, SHA256: hash("#!")},
		}
		for name, line := range want {
			line.Path = manifestName(name)
			want[name] = line
		}
		if diff := cmp.Diff(want, w.manifest(t, snap.Stamp)); diff != "" {
			t.Errorf("manifest (-want +got):\n%s", diff)
		}
		state, _ := snap.Source("tree")
		wantState := backup.SourceState{Name: "tree", Kind: backup.Tree, Captured: true, Path: "tree", Files: 3, Bytes: 4}
		if diff := cmp.Diff(wantState, state); diff != "" {
			t.Errorf("state (-want +got):\n%s", diff)
		}
		// Times can be seen in the copy too, by any tool.
		fi, err := w.fs.Stat(w.snapshot(snap.Stamp, "tree/d"))
		if err != nil || !fi.ModTime().Equal(ancient.Add(3*time.Hour)) {
			t.Errorf("the copy of a directory is of %v, %v", fi.ModTime(), err)
		}
	})
}

func TestEmptyTreeIsCopied(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		w.mkdir(t, "tree")
		snap := w.roundTrip(t, "tree")
		if state, _ := snap.Source("tree"); !state.Captured || state.Files != 0 {
			t.Errorf("got %+v, want it captured, without files", state)
		}
	})
}

func TestLinksAreCopiedAsLinks(t *testing.T) {
	w := osWorld(t)
	w.write(t, "outside/secret", "the secret")
	w.write(t, "tree/d/f", "f")
	links := map[string]string{
		"tree/to_file":        "d/f",
		"tree/to_dir":         "d",
		"tree/dangling":       "nowhere",
		"tree/outside":        "../outside/secret",
		"tree/outside_dir":    "../outside",
		"tree/absolute":       "/etc/passwd",
		"tree/d/itself":       "itself",
		"tree/d/loop":         "..",
		"tree/d/a":            "b",
		"tree/d/b":            "a",
		"tree/unclean":        "d/../d//./f",
		"tree/spaces newline": "a b\nc",
		"tree/not_a_db-wal":   "x",
		"tree/long":           strings.Repeat("x", 4000),
	}
	for name, target := range links {
		w.symlink(t, target, name)
	}
	snap := w.roundTrip(t, "tree")
	manifest := w.manifest(t, snap.Stamp)
	for name, target := range links {
		want := manifestLine{Path: manifestName(name), Type: "link", Target: manifestName(target)}
		if diff := cmp.Diff(want, manifest[name]); diff != "" {
			t.Errorf("entry (-want +got):\n%s", diff)
		}
	}
	if len(manifest) != len(links)+3 {
		t.Errorf("%d entries, want the links, two directories and a file", len(manifest))
	}
	w.mustNotHold(t, "backups", "the secret")
}

// mustNotHold fails if a file at a path or below it has a text in it.
func (w *world) mustNotHold(t *testing.T, name, text string) {
	t.Helper()
	for p, content := range w.tree(t, name) {
		if strings.Contains(content, fmt.Sprintf("%x", text)) {
			t.Errorf("%s holds %q", p, text)
		}
	}
}

// What is swapped for a link while a tree is copied never leads out of it.
func TestLinkThatIsSwappedInIsNotFollowed(t *testing.T) {
	for _, swapped := range []string{"tree/b", "tree/b/c", "tree/b/file", "tree/b/u.db"} {
		t.Run(path.Base(swapped), func(t *testing.T) {
			w := osWorld(t)
			for dir, secret := range map[string]string{"tree/b": "open", "outside": "the secret"} {
				w.write(t, dir+"/file", secret)
				w.write(t, dir+"/c/file", secret)
				w.exec(t, dir+"/u.db", "CREATE TABLE t (x); INSERT INTO t VALUES ('"+secret+"')")
			}
			w.write(t, path.Dir(swapped)+"/a", "the first to be copied")
			w.write(t, "tree/z", "the last")
			s := w.store(t, withSources(w.treeSource("tree")), atFirst("tree", func() {
				w.remove(t, swapped)
				w.symlink(t, w.path(strings.Replace(swapped, "tree/b", "outside", 1)), swapped)
			}))
			snap, err := s.Create(t.Context(), nil)
			w.mustNotHold(t, "backups", "the secret")
			if err != nil {
				t.Fatalf("the rest is not copied: %v", err)
			}
			if snap.Validated && swapped != "tree/b/u.db" { // which was pinned before
				t.Errorf("nothing is said about it: %v", w.types(t, snap.Stamp))
			}
			if w.types(t, snap.Stamp)["tree/z"] != "file" {
				t.Error("the rest is not copied")
			}
		})
	}
}

// Nor is a database beyond a link so much as read: to read one is to roll back
// its hot journal.
func TestDatabaseBeyondALinkThatIsSwappedInIsLeftAlone(t *testing.T) {
	for name, sql := range map[string]string{"journal": crashedWithJournal, "wal": crashedWithWAL} {
		t.Run(name, func(t *testing.T) {
			w := osWorld(t)
			w.write(t, "tree/b/a", "the first to be copied")
			w.exec(t, "tree/b/u.db", "CREATE TABLE t (x); INSERT INTO t VALUES ('open')")
			w.crash(t, "outside/u.db", sql)
			before := w.tree(t, "outside")
			source := w.treeSource("tree")
			source.Quiesce = func(context.Context) (func(), error) { return nil, nil } // nothing is pinned before
			s := w.store(t, withSources(source), atFirst("tree", func() {
				w.rename(t, "tree/b", "aside")
				w.symlink(t, w.path("outside"), "tree/b")
			}))
			snap, err := s.Create(t.Context(), nil)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(before, w.tree(t, "outside")); diff != "" {
				t.Errorf("outside (-before +after):\n%.500s", diff)
			}
			if got := w.queryCopy(t, snap, "tree/b/u.db", "SELECT x FROM t"); got != "open" {
				t.Errorf("copied %q; problems: %v", got, snap.Problems)
			}
		})
	}
}

// Nor is one that leads elsewhere in the tree: what is there is not what was
// to be copied.
func TestLinkWithinTheTreeThatIsSwappedInIsNotFollowed(t *testing.T) {
	for _, swapped := range []string{"tree/b", "tree/b/d", "tree/b/file"} {
		t.Run(path.Base(swapped), func(t *testing.T) {
			w := osWorld(t)
			for _, dir := range []string{"tree/b", "tree/c"} {
				w.write(t, dir+"/d/file", "of "+dir)
				w.write(t, dir+"/file", "of "+dir)
			}
			w.write(t, path.Dir(swapped)+"/a", "the first to be copied")
			s := w.store(t, withSources(w.treeSource("tree")), atFirst("tree", func() {
				w.remove(t, swapped)
				w.symlink(t, w.path(strings.Replace(swapped, "tree/b", "tree/c", 1)), swapped)
			}))
			snap, err := s.Create(t.Context(), nil)
			if err != nil {
				t.Fatal(err)
			}
			if len(snap.Problems) != 1 {
				t.Errorf("problems: %v", snap.Problems)
			}
			for name, kind := range w.types(t, snap.Stamp) {
				if kind != "file" || !strings.HasPrefix(name, "tree/b/") {
					continue
				}
				if got := w.read(t, "backups/snapshots/"+snap.Stamp+"/"+name); got == "of tree/c" {
					t.Errorf("%s has what the link leads to", name)
				}
			}
		})
	}
}

// A database in a tree is copied hot, with what its WAL has; its sidecars
// are of no use beside the copy. What only looks like one is kept.
func TestDatabaseInATreeIsCopiedHot(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		w.crash(t, "tree/deep/app.db", crashedWithWAL)
		w.exec(t, "tree/no-suffix", "CREATE TABLE t (x); INSERT INTO t VALUES ('rollback mode')")
		w.write(t, "tree/notes", "notes")
		w.write(t, "tree/notes-wal", "of notes")
		w.write(t, "tree/app.db-wal", "of no database")
		snap := mustCreate(t, w.store(t, withSources(w.treeSource("tree"))))
		want := map[string]string{
			"tree": "dir", "tree/deep": "dir", "tree/deep/app.db": "db", "tree/no-suffix": "db",
			"tree/notes": "file", "tree/notes-wal": "file", "tree/app.db-wal": "file",
		}
		if diff := cmp.Diff(want, w.types(t, snap.Stamp)); diff != "" {
			t.Errorf("entries (-want +got):\n%s", diff)
		}
		if got := w.queryCopy(t, snap, "tree/deep/app.db", "SELECT x FROM t"); got != "checkpointed\nin the WAL" {
			t.Errorf("got %q, want both rows", got)
		}
		if got := w.queryCopy(t, snap, "tree/no-suffix", "SELECT x FROM t"); got != "rollback mode" {
			t.Errorf("got %q, want the row", got)
		}
	})
}

func TestDatabaseInATreeIsConsistentWhileAWriterWrites(t *testing.T) {
	for _, mode := range []string{"wal", "delete"} {
		t.Run(mode, func(t *testing.T) {
			w := osWorld(t)
			w.bookkeeping(t, "tree/deep/app.db", mode, 10)
			wr := startProcess(t, w.path("tree/deep/app.db"))
			wr.next(t, 0)
			snap := mustCreate(t, w.store(t, withSources(w.treeSource("tree"))))
			wr.stop()
			want := map[string]string{"tree": "dir", "tree/deep": "dir", "tree/deep/app.db": "db"}
			if diff := cmp.Diff(want, w.types(t, snap.Stamp)); diff != "" {
				t.Errorf("entries (-want +got):\n%s", diff)
			}
			if got := w.queryCopy(t, snap, "tree/deep/app.db", bookBalance); got != "0" {
				t.Errorf("a copy of half a transaction: debits less credits are %s", got)
			}
		})
	}
}

// More databases than are held open at once.
func TestManyDatabasesInATreeAreCopiedHot(t *testing.T) {
	eachKindOfFs(t, func(t *testing.T, w *world) {
		w.crash(t, "tree/000.db", crashedWithWAL)
		for i := range 70 {
			for _, suffix := range []string{"", "-wal"} {
				w.write(t, fmt.Sprintf("tree/%03d.db%s", i, suffix), w.read(t, "tree/000.db"+suffix))
			}
		}
		snap := mustCreate(t, w.store(t, withSources(w.treeSource("tree"))))
		if state, _ := snap.Source("tree"); state.Files != 70 {
			t.Errorf("%d files, want 70 databases without sidecars", state.Files)
		}
		if got := w.queryCopy(t, snap, "tree/069.db", "SELECT x FROM t"); got != "checkpointed\nin the WAL" {
			t.Errorf("got %q, want both rows", got)
		}
	})
}

// What begins like a database and is none is copied as it lies, with its
// sidecars, and noted.
func TestGarbageWithADatabasesHeaderIsCopiedRaw(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		garbage := "SQLite format 3\x00" + strings.Repeat("garbage", 1000)
		w.write(t, "tree/app.db", garbage)
		w.write(t, "tree/app.db-wal", "more of it")
		w.write(t, "tree/short.db", garbage[:511])
		w.write(t, "tree/z", "z")
		s := w.store(t, withSources(w.treeSource("tree")))
		snap, err := s.Create(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]string{"raw_copy tree/app.db"}, problemsOf(snap)); diff != "" {
			t.Errorf("problems (-want +got):\n%s", diff)
		}
		want := map[string]string{
			"tree": "dir", "tree/app.db": "raw", "tree/app.db-wal": "file", "tree/short.db": "file", "tree/z": "file",
		}
		got := w.types(t, snap.Stamp)
		delete(got, "tree/app.db-shm") // made by looking at it
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("entries (-want +got):\n%s", diff)
		}
		if !w.exists(t, "tree/app.db-wal") {
			t.Error("Create has removed the service's own app.db-wal")
		}
		if got := w.read(t, "backups/snapshots/"+snap.Stamp+"/tree/app.db"); got != garbage {
			t.Errorf("copy of %d bytes, beginning with %.20q", len(got), got)
		}
		report, err := s.Validate(t.Context(), snap.Stamp, nil)
		if err != nil || !errors.Is(report.Err(), backup.CodeRawCopy) || len(report.Problems) != 1 {
			t.Errorf("validated: %v, %v, want raw_copy alone", report, err)
		}
	})
}

// A database with a flipped page is copied, and found out.
func TestDamagedDatabaseIsNotValidated(t *testing.T) {
	for name, source := range map[string]func(*world) backup.Source{
		"database": func(w *world) backup.Source { return w.database("tree/app.db") },
		"tree":     func(w *world) backup.Source { return w.treeSource("tree") },
	} {
		t.Run(name, func(t *testing.T) {
			eachFs(t, func(t *testing.T, w *world) {
				w.exec(t, "tree/app.db", `CREATE TABLE t (x); CREATE INDEX i ON t (x);
					WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n+1 FROM n WHERE n < 1000) INSERT INTO t SELECT hex(n) FROM n`)
				data := []byte(w.read(t, "tree/app.db"))
				copy(data[4096*2:], make([]byte, 4096))
				w.write(t, "tree/app.db", string(data))
				snap, err := w.store(t, withSources(source(w))).Create(t.Context(), nil)
				if err != nil {
					t.Fatal(err)
				}
				if snap.Validated || len(snap.Problems) == 0 || snap.Problems[0].Code != backup.CodeDatabaseCorrupt {
					t.Errorf("validated: %v, problems: %v", snap.Validated, snap.Problems)
				}
			})
		})
	}
}

// A database in a tree that fails SQLite's checks is saved as it lies, with
// the rows in its log: its copy would pass for no snapshot to go back to.
func TestSafetySnapshotHasADamagedDatabaseInATree(t *testing.T) {
	for _, mode := range []string{"DELETE", "WAL"} {
		t.Run(mode, func(t *testing.T) {
			memoryAndOs(t, func(t *testing.T, w *world) {
				w.seed(t)
				const name = "chroma/chroma.sqlite3"
				w.exec(t, name, `CREATE TABLE memories (id INTEGER PRIMARY KEY, body TEXT); CREATE INDEX b ON memories (body);
					WITH RECURSIVE i (i) AS (SELECT 1 UNION ALL SELECT i+1 FROM i WHERE i < 2000)
					INSERT INTO memories SELECT i, 'row number ' || i FROM i; PRAGMA journal_mode=`+mode)
				s := w.store(t)
				stamp := w.create(t, s).Stamp
				if mode == "WAL" {
					w.leaveLog(t, name)
				}
				w.edit(t, name, func(data []byte) []byte {
					for i := len(data) - 3000; i < len(data)-2000; i++ {
						data[i] = 0xff
					}
					return data
				})
				before := w.tree(t, "chroma")
				r := w.restore(t, s, stamp)
				if diff := cmp.Diff([]string{"raw_copy chroma/chroma.sqlite3"}, problemsOf(w.listed(t, s, r.SafetyStamp))); diff != "" {
					t.Errorf("noted (-want +got):\n%s", diff)
				}
				w.restore(t, s, r.SafetyStamp)
				if diff := cmp.Diff(before, w.tree(t, "chroma")); diff != "" {
					t.Errorf("after undo (-want +got):\n%.1000s", diff)
				}
			})
		})
	}
}

// What is left of a database that is none any more is all that there is: it
// is kept, and does not pass for a backup.
func TestDatabaseThatIsNoneIsCopiedRaw(t *testing.T) {
	for name, content := range map[string]string{
		"empty": "", "text": strings.Repeat("no database", 1000), "header": "SQLite format 3\x00" + strings.Repeat("garbage", 1000),
	} {
		t.Run(name, func(t *testing.T) {
			eachFs(t, func(t *testing.T, w *world) {
				w.write(t, "data/app.db", content)
				w.write(t, "data/app.db-wal", "what may be in it")
				snap, err := w.store(t, withSources(w.database("data/app.db"))).Create(t.Context(), nil)
				if err != nil {
					t.Fatal(err)
				}
				if snap.Validated || len(snap.Problems) == 0 || snap.Problems[0].Code != backup.CodeRawCopy {
					t.Errorf("validated: %v, problems: %v, want raw_copy", snap.Validated, snap.Problems)
				}
				for suffix, want := range map[string]string{"": content, "-wal": "what may be in it"} {
					if got := w.read(t, "backups/snapshots/"+snap.Stamp+"/db/app.db"+suffix); got != want {
						t.Errorf("%q: copy of %d bytes, beginning with %.20q", suffix, len(got), got)
					}
					if got := w.read(t, "data/app.db"+suffix); got != want {
						t.Errorf("%q: the service's own has %d bytes now, beginning with %.20q", suffix, len(got), got)
					}
				}
			})
		})
	}
}

func TestSourceOfTheWrongKindIsRefused(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		w.write(t, "dir/f", "f")
		for _, source := range []backup.Source{w.database("dir"), w.file("dir"), w.treeSource("dir/f")} {
			_, err := w.store(t, withSources(source)).Create(t.Context(), nil)
			if err == nil || !strings.Contains(err.Error(), strconv.Quote(source.Name)) || !strings.Contains(err.Error(), "dir") {
				t.Errorf("%s: got %v, want an error that names source and path", source.Kind, err)
			}
			w.mustHaveNoSnapshots(t)
		}
	})
}

// An error names the path that is configured, also if what it is about has a
// name that begins like it.
func TestDanglingLinkIsNamed(t *testing.T) {
	eachNativeFs(t, func(t *testing.T, w *world) {
		w.symlink(t, "file.missing", "file")
		_, err := w.store(t, withSources(w.file("file"))).Create(t.Context(), nil)
		if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), w.path("file")+": ") {
			t.Errorf("got %v", err)
		}
	})
}

// A file that is copied without its WAL is no backup of a database.
func TestDatabaseAsAFileIsRefused(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		w.seed(t)
		source := backup.Source{Name: "db", Kind: backup.File, Path: w.path("data/atocore.db"), Optional: true}
		_, err := w.store(t, withSources(source)).Create(t.Context(), nil)
		if err == nil || !strings.Contains(err.Error(), "atocore.db") || !strings.Contains(err.Error(), `kind "database"`) {
			t.Errorf("got %v", err)
		}
		w.mustHaveNoSnapshots(t)
	})
}

// What has become a database since is no reason not to go back.
func TestDatabaseAsAFileIsTakenIntoASafetySnapshot(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		w.write(t, "f", "text")
		s := w.store(t, withSources(w.file("f")))
		stamp := mustCreate(t, s).Stamp
		w.remove(t, "f")
		w.exec(t, "f", "CREATE TABLE t (x)")
		r := w.restore(t, s, stamp)
		if got := w.read(t, "f"); got != "text" {
			t.Errorf("restored %.20q", got)
		}
		w.restore(t, s, r.SafetyStamp)
		if got := w.query(t, "f", "SELECT name FROM sqlite_schema"); got != "t" {
			t.Errorf("after undo: %q", got)
		}
	})
}

func TestDeepTreeIsCopied(t *testing.T) {
	eachKindOfFs(t, func(t *testing.T, w *world) {
		w.write(t, "tree/"+strings.Repeat("d/", 200)+"f", "f")
		w.exec(t, "tree/"+strings.Repeat("d/", 100)+"app.db", "CREATE TABLE t (x)")
		w.roundTrip(t, "tree")
	})
}

// A manifest that was written can be read again, whatever the paths.
func TestTreeWithEndlessPathsIsCopiedOrRefused(t *testing.T) {
	w := newWorld(t, afero.NewMemMapFs(), "/srv")
	element := strings.Repeat("\x01", 250) // each of which takes six bytes in JSON
	w.write(t, "tree/"+strings.Repeat(element+"/", 48)+"f", "f")
	s := w.store(t, withSources(w.treeSource("tree")))
	if snap, err := s.Create(t.Context(), nil); err == nil {
		mustBeValid(t, s, snap.Stamp)
	}
}

func TestWideTreeIsCopied(t *testing.T) {
	eachKindOfFs(t, func(t *testing.T, w *world) {
		if _, ok := w.fs.(*afero.OsFs); ok && testing.Short() {
			t.Skip("syncing as many files takes a while")
		}
		for i := range 5000 {
			w.write(t, fmt.Sprintf("tree/%02d/%d", i%50, i), strconv.Itoa(i))
		}
		snap := mustCreate(t, w.store(t, withSources(w.treeSource("tree"))))
		if state, _ := snap.Source("tree"); state.Files != 5000 || state.Bytes != 18890 {
			t.Errorf("got %+v, want 5000 files of 18890 bytes", state)
		}
	})
}

func TestTreeOfOddNamesIsCopied(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("Windows has no such names")
	}
	eachFs(t, func(t *testing.T, w *world) {
		for _, name := range append([]string{`back\slash`, "tab\t", " ", "bell\a", "nbsp\u00a0", "sep\u2028", `<&>"`, ".hidden", "~", "*"}, oddNames...) {
			w.write(t, "tree/"+name, name)
			w.write(t, "tree/in "+name+"/"+name, name)
		}
		for _, name := range []string{"manifest.jsonl", "backup-metadata.json", "tree", strings.Repeat("n", 255)} {
			w.write(t, "tree/"+name, name)
		}
		w.roundTrip(t, "tree")
	})
}

// Names that other systems take for one another, or for paths.
func TestTreeOfNamesThatOnlyLinuxHasIsCopied(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux takes any bytes for a name, and tells cases apart")
	}
	for name, names := range map[string][]string{
		"case":           {"README", "readme", "Dir/f", "dir/f"},
		"normal_forms":   {"\u00e9", "e\u0301"},
		"invalid_utf8":   {"\xff", "a\xfeb", "dir\xff/f", "\xff\xfe"},
		"windows":        {`a\b`, `..\x`, `C:\x`, "nul", "con.txt", "a.", "a "},
		"surrogate":      {"\xed\xa0\x80", "\xed\xa0\x81"},
		"case_of_no_utf": {"A\xff", "a\xff", "a\xfe"},
	} {
		t.Run(name, func(t *testing.T) {
			eachFs(t, func(t *testing.T, w *world) {
				for _, name := range names {
					w.write(t, "tree/"+name, name)
				}
				snap := w.roundTrip(t, "tree")
				types := w.types(t, snap.Stamp)
				for _, name := range names {
					if types["tree/"+name] != "file" {
						t.Errorf("%q is not in the manifest", name)
					}
				}
			})
		})
	}
}

// Problems are recorded for files of any name too.
func TestProblemWithANameThatIsNoTextIsRecorded(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux takes any bytes for a name")
	}
	eachFs(t, func(t *testing.T, w *world) {
		w.write(t, "tree/a", "a")
		w.write(t, "tree/b\xff", "b")
		s := w.store(t, withSources(w.treeSource("tree")), atFirst("tree", func() { w.remove(t, "tree/b\xff") }))
		snap, err := s.Create(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		report, err := s.Validate(t.Context(), snap.Stamp, nil)
		if err != nil || len(report.Problems) != 1 || report.Problems[0].Code != backup.CodeFileVanished {
			t.Errorf("got %v, %v, want file_vanished", report.Problems, err)
		}
	})
}

// The store may be reached through a link that New, which touches no file,
// cannot see through. A tree that has it would be copied into itself, for
// ever.
func TestTreeThatHoldsTheStoreThroughALinkIsNotCopiedIntoItself(t *testing.T) {
	eachNativeFs(t, func(t *testing.T, w *world) {
		w.write(t, "tree/a", "a")
		w.mkdir(t, "tree/backups")
		w.symlink(t, "tree", "link")
		ctx, cancel := context.WithCancel(t.Context())
		files := 0
		s := w.store(t, withSources(w.treeSource("tree")), func(cfg *backup.Config) {
			cfg.Dir = w.path("link/backups")
			cfg.Progress = func(backup.Progress) {
				if files++; files == 20 {
					cancel()
				}
			}
		})
		snap, err := s.Create(ctx, nil)
		if errors.Is(err, context.Canceled) {
			t.Errorf("there is no end to it")
		}
		if err == nil && snap.Files != 1 {
			t.Errorf("%d files, want the one that is not the store's", snap.Files)
		}
	})
}

// Metadata stay small, however much there is to note.
func TestManyProblemsAreAbridged(t *testing.T) {
	w := newWorld(t, afero.NewMemMapFs(), "/srv")
	const n = 6000
	for i := range n {
		w.write(t, fmt.Sprintf("tree/%04d-%s", i, strings.Repeat("n", 150)), "short")
	}
	s := w.store(t, withSources(w.treeSource("tree")), atFirst("tree", func() {
		for i := range n {
			if i > 0 {
				w.remove(t, fmt.Sprintf("tree/%04d-%s", i, strings.Repeat("n", 150)))
			}
		}
	}))
	snap, err := s.Create(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	last := snap.Problems[len(snap.Problems)-1]
	want := backup.Problem{Code: backup.CodeFileVanished, Detail: fmt.Sprintf("and %d more", n-1-(len(snap.Problems)-1))}
	if diff := cmp.Diff(last, want); diff != "" || len(snap.Problems) < 100 {
		t.Errorf("last of %d problems (-got +want):\n%s", len(snap.Problems), diff)
	}
	listed, err := s.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(listed, []backup.Snapshot{*snap}); diff != "" {
		t.Errorf("(-listed +created):\n%s", diff)
	}
}

// unreadable returns a store that cannot do op on a live file, until a restore
// puts others in the place of what is live.
func (w *world) unreadable(t *testing.T, op, live string, err error) *backup.Store {
	t.Helper()
	replaced := false
	return w.faulty(t, func(o, p string) error {
		replaced = replaced || o == "rename" && !strings.HasPrefix(p, w.path("backups"))
		if !replaced && o == op && p == w.path(live) {
			return err
		}
		return nil
	})
}

// Damage never stands in the way of a restore: what cannot be read is left
// out of the safety snapshot, and the rest is in it.
func TestWhatCannotBeReadIsLeftOutOfASafetySnapshot(t *testing.T) {
	for _, tc := range []struct {
		op, live string
		err      error
		noted    string
		captured bool // the source
	}{
		{"read", "data/atocore.db", syscall.EIO, "db/atocore.db", false},
		{"open", "data/atocore.db", syscall.EIO, "db/atocore.db", false},
		{"read", "config/project-registry.json", syscall.EIO, "config/project-registry.json", false},
		{"open", "config/project-registry.json", syscall.EIO, "config/project-registry.json", false},
		{"read", "chroma/a", syscall.EIO, "chroma/a", true},
		{"open", "chroma/a", syscall.EIO, "chroma/a", true},
		{"read", "chroma/c.db", syscall.EIO, "chroma/c.db", true},
		{"open", "chroma/c.db", syscall.EIO, "chroma/c.db", true},
		{"open", "chroma/dir", syscall.EIO, "chroma/dir", true},
	} {
		t.Run(tc.op+"_"+path.Base(tc.live)+"_"+tc.err.Error(), func(t *testing.T) {
			memoryAndOs(t, func(t *testing.T, w *world) {
				w.small(t)
				w.exec(t, "chroma/c.db", "CREATE TABLE t (x)")
				w.write(t, "chroma/dir/d", "d")
				stamp := w.create(t, w.store(t)).Stamp
				w.write(t, "chroma/b", "written since")
				s := w.unreadable(t, tc.op, tc.live, tc.err)
				if snap, err := s.Create(t.Context(), &backup.CreateOptions{Include: []string{"chroma"}}); !errors.Is(err, tc.err) {
					t.Errorf("an ordinary snapshot: %+v, %v", snap, err)
				}
				restored := w.restore(t, s, stamp)
				safety := restored.SafetyStamp
				snap := w.listed(t, w.store(t), safety)
				if diff := cmp.Diff(snap.Problems, restored.SafetyProblems); diff != "" {
					t.Errorf("told (-listed +told):\n%s", diff)
				}
				if diff := cmp.Diff([]string{"source_unreadable " + tc.noted}, problemsOf(snap)); diff != "" {
					t.Errorf("noted (-want +got):\n%s", diff)
				}
				source, _, _ := strings.Cut(tc.noted, "/")
				for _, state := range snap.Sources {
					if want := state.Name != source || tc.captured; state.Captured != want {
						t.Errorf("%s: captured %v", state.Name, state.Captured)
					}
				}
				w.restore(t, w.store(t), safety)
				if w.read(t, "chroma/b") != "written since" {
					t.Error("the undo has not brought back the rest")
				}
			})
		})
	}
}

// What another user may read is not damaged, and is not to be lost.
func TestWhatMayNotBeReadIsNotReplaced(t *testing.T) {
	for _, tc := range []struct {
		live string
		err  error
	}{
		{"data/atocore.db", syscall.EACCES},
		{"config/project-registry.json", syscall.EACCES},
		{"config/project-registry.json", syscall.EPERM},
		{"chroma/a", syscall.EACCES},
		{"chroma/c.db", syscall.EACCES},
		{"chroma/dir", syscall.EACCES},
	} {
		t.Run(path.Base(tc.live)+"_"+tc.err.Error(), func(t *testing.T) {
			memoryAndOs(t, func(t *testing.T, w *world) {
				w.small(t)
				w.exec(t, "chroma/c.db", "CREATE TABLE t (x)")
				w.write(t, "chroma/dir/d", "d")
				stamp := w.create(t, w.store(t)).Stamp
				w.mustNotRestoreUnread(t, w.unreadable(t, "open", tc.live, tc.err), stamp, tc.live)
			})
		})
	}
}

// mustNotRestoreUnread fails unless a restore is refused over what may not be
// read, and changes nothing.
func (w *world) mustNotRestoreUnread(t *testing.T, s *backup.Store, stamp, live string) {
	t.Helper()
	r, err := s.Restore(t.Context(), stamp, confirmed)
	if r != nil || !errors.Is(err, fs.ErrPermission) {
		t.Fatalf("got %+v, %v, want fs.ErrPermission", r, err)
	}
	for _, want := range []string{w.path(live), "a user who may read", "SkipSafetySnapshot"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %q is not in it", err, want)
		}
	}
	listed, err := w.store(t).List(t.Context())
	if err != nil || len(listed) != 1 || w.exists(t, "backups/restore-journal.json") {
		t.Errorf("something is left: %+v, %v", listed, err)
	}
}

// What is for another try to read, or cannot be written, is no damage.
func TestSafetySnapshotFailsForWantOfDescriptorsAndRoom(t *testing.T) {
	for _, tc := range []struct {
		op, path string
		err      error
	}{
		{"open", "config/project-registry.json", syscall.EMFILE},
		{"write", "config/project-registry.json", syscall.EIO},
		{"create", "config/project-registry.json", syscall.EACCES},
		{"sync", "db/atocore.db", syscall.EIO},
	} {
		t.Run(tc.op, func(t *testing.T) {
			w := newWorld(t, afero.NewMemMapFs(), "/srv")
			w.small(t)
			stamp := w.create(t, w.store(t)).Stamp
			before := w.liveState(t)
			s := w.faulty(t, func(op, p string) error {
				if op == tc.op && strings.HasSuffix(p, tc.path) && !strings.Contains(p, stamp) {
					return tc.err
				}
				return nil
			})
			if r, err := s.Restore(t.Context(), stamp, confirmed); !errors.Is(err, tc.err) || !strings.Contains(err.Error(), "safety snapshot") {
				t.Errorf("got %+v, %v", r, err)
			}
			if diff := cmp.Diff(before, w.liveState(t)); diff != "" {
				t.Errorf("(-before +after):\n%s", diff)
			}
		})
	}
}
