package aferovfs_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/ncruces/go-sqlite3"
	"github.com/ncruces/go-sqlite3/vfs"
	"github.com/spf13/afero"

	"github.com/atocore/backup/internal/aferovfs"
)

// registerReader registers b until the end of the test, when no read may have
// failed.
func registerReader(t *testing.T, r io.ReaderAt, size int64) string {
	t.Helper()
	name, unregister := aferovfs.RegisterReader(t.Context(), r, size)
	t.Cleanup(func() {
		if err := unregister(); err != nil {
			t.Errorf("unregister: %v", err)
		}
	})
	return name
}

// A readerFunc is an [io.ReaderAt].
type readerFunc func(p []byte, off int64) (int, error)

func (f readerFunc) ReadAt(p []byte, off int64) (int, error) { return f(p, off) }

// database returns a database as [fillSQL] makes it.
func database(t testing.TB) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "native.db")
	c, err := sqlite3.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(c.Exec(fillSQL), c.Close()); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// A database that says it is in WAL mode is read from a medium that allows
// neither a log nor an index.
func TestReaderIgnoresJournalMode(t *testing.T) {
	db, _ := walDatabase(t)
	if db[18] != 2 || db[19] != 2 {
		t.Fatal("the database is not marked as in WAL mode")
	}
	eachFs(t, func(t *testing.T, fsys afero.Fs) {
		writeFile(t, fsys, "/w.db", db)
		before := files(t, fsys)
		f, err := afero.NewReadOnlyFs(fsys).Open("/w.db")
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		c := open(t, "file:db?vfs="+registerReader(t, f, int64(len(db)))+"&mode=ro")
		if got := value(t, c, "PRAGMA integrity_check"); got != "ok" {
			t.Errorf("integrity_check: %s", got)
		}
		if got := value(t, c, "SELECT count(*) FROM t"); got != "200" {
			t.Errorf("got %s rows, want 200", got)
		}
		if err := c.Exec("DELETE FROM t"); !errors.Is(err, sqlite3.READONLY) {
			t.Errorf("got %v, want READONLY", err)
		}
		if diff := cmp.Diff(files(t, fsys), before); diff != "" {
			t.Errorf("the files changed (-got +want):\n%s", diff)
		}
	})
}

// Whatever mode a URI asks for, the database is read-only.
func TestReaderModes(t *testing.T) {
	db := database(t)
	name := registerReader(t, bytes.NewReader(db), int64(len(db)))
	for _, query := range []string{"", "&mode=ro", "&mode=rw", "&mode=rwc", "&immutable=1"} {
		c := open(t, "file:db?vfs="+name+query)
		if got := value(t, c, "SELECT count(*) FROM t"); got != "200" {
			t.Errorf("%s: got %s rows, want 200", query, got)
		}
		if err := c.Exec("DELETE FROM t"); !errors.Is(err, sqlite3.READONLY) {
			t.Errorf("%s: got %v, want READONLY", query, err)
		}
		exec(t, c, "CREATE TEMP TABLE tt AS SELECT * FROM t ORDER BY v")
	}
}

// A connection that may not write does not see what breaks a CHECK.
func TestReaderSeesBrokenConstraints(t *testing.T) {
	for _, mode := range []string{"DELETE", "WAL"} {
		path := filepath.Join(t.TempDir(), "native.db")
		w := open(t, path)
		exec(t, w, "PRAGMA journal_mode="+mode+"; PRAGMA ignore_check_constraints=ON; CREATE TABLE t (x CHECK (x > 9)); INSERT INTO t VALUES (1)")
		closeConn(t, w)
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		c := open(t, "file:db?vfs="+registerReader(t, bytes.NewReader(b), int64(len(b))))
		for _, check := range []string{"PRAGMA integrity_check", "PRAGMA quick_check"} {
			if got, want := value(t, c, check), "CHECK constraint failed in t"; got != want {
				t.Errorf("%s, %s: got %q, want %q", mode, check, got, want)
			}
		}
	}
}

func TestOtherNames(t *testing.T) {
	db := database(t)
	var w discard
	reader := registerReader(t, bytes.NewReader(db), int64(len(db)))
	writer, unregister := aferovfs.RegisterWriter(t.Context(), w)
	defer unregister()
	for _, vfs := range []string{reader, writer} {
		for _, name := range []string{"other", "/db", "db-wal", "db.db"} {
			if _, err := sqlite3.Open("file:" + name + "?vfs=" + vfs); !errors.Is(err, sqlite3.CANTOPEN) {
				t.Errorf("%s: got %v, want CANTOPEN", name, err)
			}
		}
	}
}

// A failure is the query's, or at the latest unregister's.
func TestReaderFaults(t *testing.T) {
	db := database(t)
	for _, test := range []struct {
		name  string
		fault func(p []byte) (int, error)
		want  error
	}{
		{"error", func([]byte) (int, error) { return 0, syscall.EIO }, syscall.EIO},
		{"nothing", func([]byte) (int, error) { return 0, nil }, io.ErrNoProgress},
		{"early_eof", func(p []byte) (int, error) { return len(p) / 2, io.EOF }, nil}, // of the rest is heard later
		{"early_eof_at_once", func([]byte) (int, error) { return 0, io.EOF }, io.ErrUnexpectedEOF},
		{"early_unexpected_eof", func([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }, io.ErrUnexpectedEOF},
		{"short_error", func(p []byte) (int, error) { return len(p) / 2, syscall.EIO }, syscall.EIO},
	} {
		t.Run(test.name, func(t *testing.T) {
			broken := false
			name, unregister := aferovfs.RegisterReader(t.Context(), readerFunc(func(p []byte, off int64) (int, error) {
				n, err := bytes.NewReader(db).ReadAt(p, off)
				if broken && off%1024 == 0 {
					if n, err := test.fault(p); n < len(p) {
						return n, err
					}
				}
				return n, err
			}), int64(len(db)))
			c := open(t, "file:db?vfs="+name+"&_pragma=cache_size(1)")
			exec(t, c, "SELECT 1 FROM t")
			broken = true
			err := c.Exec("SELECT sum(length(v)) FROM t NOT INDEXED")
			if !errors.Is(err, test.want) {
				t.Errorf("got %v, want %v", err, test.want)
			}
			rows, err := query(c, "PRAGMA integrity_check")
			closeConn(t, c)
			uerr := unregister()
			if !errors.Is(uerr, test.want) {
				t.Errorf("unregister: got %v, want %v", uerr, test.want)
			}
			if ok := err == nil && len(rows) == 1 && rows[0] == "ok"; ok != (test.want == nil) {
				t.Errorf("integrity_check: %q, %v", rows, err)
			}
		})
	}
}

// A file that is shorter than announced is an error, not the end.
func TestReaderSize(t *testing.T) {
	db := database(t)
	for _, missing := range []int{1, 1024, len(db) / 2} {
		name, unregister := aferovfs.RegisterReader(t.Context(), bytes.NewReader(db[:len(db)-missing]), int64(len(db)))
		c := open(t, "file:db?vfs="+name)
		rows, err := query(c, "PRAGMA integrity_check")
		closeConn(t, c)
		if uerr := unregister(); !errors.Is(uerr, io.ErrUnexpectedEOF) {
			t.Errorf("%d missing: got %q, %v, and from unregister %v", missing, rows, err, uerr)
		}
	}
	// What lies behind the announced size is not there.
	name := registerReader(t, bytes.NewReader(db), 10)
	f, _, err := vfs.Find(name).Open(aferovfs.DB, vfs.OPEN_MAIN_DB|vfs.OPEN_READONLY)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for off, want := range map[int64]int{0: 8, 2: 8, 6: 4, 10: 0, 11: 0} {
		n, err := f.ReadAt(make([]byte, 8), off)
		if n != want || (err == io.EOF) != (n < 8) || err != nil && err != io.EOF {
			t.Errorf("ReadAt(8, %d) = %d, %v; want %d", off, n, err, want)
		}
	}
	c := open(t, "file:db?vfs="+registerReader(t, bytes.NewReader(db), 0))
	if got := value(t, c, "SELECT count(*) FROM sqlite_schema"); got != "0" {
		t.Errorf("got %s tables in an empty file", got)
	}
}

// Nothing is read once the context is done.
func TestReaderContext(t *testing.T) {
	db := database(t)
	for _, sql := range []string{"PRAGMA integrity_check", "SELECT sum(length(v)) FROM t NOT INDEXED"} {
		for after := range 30 {
			ctx, cancel := context.WithCancel(t.Context())
			reads := 0
			name, unregister := aferovfs.RegisterReader(ctx, readerFunc(func(p []byte, off int64) (int, error) {
				if ctx.Err() != nil {
					t.Error("a read after the end")
				}
				if reads++; reads == after {
					cancel()
				}
				return bytes.NewReader(db).ReadAt(p, off)
			}), int64(len(db)))
			if after == 0 {
				cancel()
			}
			c, err := sqlite3.Open("file:db?vfs=" + name)
			var rows []string
			if err == nil {
				rows, err = query(c, sql)
			}
			if err != nil && !errors.Is(err, context.Canceled) {
				t.Errorf("%s, %d reads: got %v, want context.Canceled", sql, after, err)
			}
			if err == nil && (len(rows) == 0 || rows[0] == "ok") || err == nil && sql[0] == 'S' {
				t.Errorf("%s, %d reads: got %q", sql, after, rows)
			}
			closeConn(t, c)
			if err := unregister(); after > 0 && !errors.Is(err, context.Canceled) {
				t.Errorf("unregister after %d reads: got %v, want context.Canceled", after, err)
			}
			cancel()
		}
	}
}

// Connections side by side read from one handle of a MemMapFs, which cannot
// do that by itself.
func TestReaderConcurrent(t *testing.T) {
	db := database(t)
	eachFs(t, func(t *testing.T, fsys afero.Fs) {
		writeFile(t, fsys, "/a.db", db)
		f, err := fsys.Open("/a.db")
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		uri := "file:db?vfs=" + registerReader(t, f, int64(len(db))) + "&_pragma=cache_size(1)"
		var ok atomic.Int32
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				c, err := sqlite3.Open(uri)
				if err != nil {
					t.Error(err)
					return
				}
				defer closeConn(t, c)
				for range 5 {
					rows, err := query(c, "PRAGMA integrity_check")
					if err == nil && len(rows) == 1 && rows[0] == "ok" {
						ok.Add(1)
					} else {
						t.Errorf("integrity_check: %q, %v", rows, err)
					}
				}
			})
		}
		wg.Wait()
		if ok.Load() != 20 {
			t.Errorf("%d of 20 checks were ok", ok.Load())
		}
	})
}

// The same without a race detector.
func TestReadsTakeTurns(t *testing.T) {
	var active, together atomic.Int32
	name := registerReader(t, readerFunc(func(p []byte, off int64) (int, error) {
		if active.Add(1) > 1 {
			together.Add(1)
		}
		for range 1000 {
			runtime.Gosched()
		}
		active.Add(-1)
		return len(p), nil
	}), 1<<20)
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			f, _, err := vfs.Find(name).Open(aferovfs.DB, vfs.OPEN_MAIN_DB|vfs.OPEN_READONLY)
			if err != nil {
				t.Error(err)
				return
			}
			defer f.Close()
			if _, err := f.ReadAt(make([]byte, 10), 0); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := together.Load(); n > 0 {
		t.Errorf("%d reads began during another", n)
	}
}

func TestReadsDoNotAllocate(t *testing.T) {
	db := database(t)
	fsys := afero.NewMemMapFs()
	writeFile(t, fsys, "/a.db", db)
	p := make([]byte, 4096)
	for name, path := range map[string]string{
		register(t, fsys): "/a.db",
		registerReader(t, bytes.NewReader(db), int64(len(db))): aferovfs.DB,
	} {
		f, _, err := vfs.Find(name).Open(path, vfs.OPEN_MAIN_DB|vfs.OPEN_READONLY)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if n := testing.AllocsPerRun(100, func() {
			if n, err := f.ReadAt(p, 4096); n != len(p) || err != nil {
				t.Fatal(n, err)
			}
		}); n > 0 {
			t.Errorf("%T: %v allocations per read", f, n)
		}
	}
}

func BenchmarkIntegrityCheck(b *testing.B) {
	path := filepath.Join(b.TempDir(), "big.db")
	c, err := sqlite3.Open(path)
	if err != nil {
		b.Fatal(err)
	}
	err = c.Exec(`PRAGMA journal_mode=off; PRAGMA synchronous=off;
		CREATE TABLE t(id INTEGER PRIMARY KEY, a TEXT, v BLOB);
		WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<160000)
		INSERT INTO t SELECT i, hex(randomblob(16)), randomblob(200) FROM n;
		CREATE INDEX i ON t(a)`)
	if err := errors.Join(err, c.Close()); err != nil {
		b.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		b.Fatal(err)
	}
	name, unregister := aferovfs.RegisterReader(b.Context(), f, fi.Size())
	defer func() {
		if err := unregister(); err != nil {
			b.Error(err)
		}
	}()
	for _, bench := range []struct{ name, uri string }{
		{"native", "file:" + filepath.ToSlash(path) + "?mode=ro&immutable=1"},
		{"reader", "file:db?mode=ro&vfs=" + name},
	} {
		b.Run(bench.name, func(b *testing.B) {
			b.SetBytes(fi.Size())
			b.ReportAllocs()
			for b.Loop() {
				c, err := sqlite3.Open(bench.uri)
				if err != nil {
					b.Fatal(err)
				}
				rows, err := query(c, "PRAGMA integrity_check")
				if err := errors.Join(err, c.Close()); err != nil || fmt.Sprint(rows) != "[ok]" {
					b.Fatal(rows, err)
				}
			}
		})
	}
}
