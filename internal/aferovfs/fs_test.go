package aferovfs_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/ncruces/go-sqlite3"
	"github.com/ncruces/go-sqlite3/vfs"
	"github.com/spf13/afero"

	"github.com/atocore/backup/internal/aferovfs"
)

func TestJournalModes(t *testing.T) {
	for _, mode := range []string{"delete", "truncate", "persist", "memory", "off", "wal"} {
		t.Run(mode, func(t *testing.T) {
			eachFs(t, func(t *testing.T, fsys afero.Fs) {
				if err := fsys.Mkdir("/d", 0o700); err != nil {
					t.Fatal(err)
				}
				db := uri(register(t, fsys), "/d/app.db",
					"_pragma", "locking_mode(exclusive)", "_pragma", "journal_mode("+mode+")")

				c := open(t, db)
				exec(t, c, fillSQL)
				if got := value(t, c, "PRAGMA journal_mode"); got != mode {
					t.Fatalf("got journal mode %q, want %q", got, mode)
				}
				exec(t, c, "BEGIN; DELETE FROM t; ROLLBACK") // nothing comes of it with off
				if mode == "off" {
					exec(t, c, "DROP TABLE t;"+fillSQL)
				}
				exec(t, c, "DELETE FROM t WHERE id>100")
				closeConn(t, c)

				c = open(t, db)
				if got := value(t, c, "SELECT count(*) FROM t"); got != "100" {
					t.Errorf("got %s rows after reopening, want 100", got)
				}
				if got := value(t, c, "PRAGMA integrity_check"); got != "ok" {
					t.Errorf("integrity_check: %s", got)
				}
			})
		})
	}
}

func TestSidecarsBesideDatabase(t *testing.T) {
	eachFs(t, func(t *testing.T, fsys afero.Fs) {
		name := register(t, fsys)
		for _, mode := range []string{"delete", "wal"} {
			c := open(t, uri(name, "/"+mode,
				"_pragma", "locking_mode(exclusive)", "_pragma", "journal_mode("+mode+")"))
			exec(t, c, fillSQL+"; BEGIN; PRAGMA cache_size=1; PRAGMA cache_spill=1; DELETE FROM t")
		}
		got := map[string]fs.FileMode{}
		err := afero.Walk(fsys, "/", func(path string, fi fs.FileInfo, err error) error {
			if err == nil && !fi.IsDir() {
				got[filepath.ToSlash(path)] = fi.Mode().Perm()
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		want := map[string]fs.FileMode{
			"/delete": 0o600, "/delete-journal": 0o600, "/wal": 0o600, "/wal-wal": 0o600,
		}
		if runtime.GOOS == "windows" {
			t.Skip("no permission bits")
		}
		if diff := cmp.Diff(got, want); diff != "" {
			t.Errorf("files (-got +want):\n%s", diff)
		}
	})
}

// A commit to two databases goes by a super-journal.
func TestSuperJournal(t *testing.T) {
	eachFs(t, func(t *testing.T, fsys afero.Fs) {
		ffs := &faultFs{Fs: fsys}
		name := register(t, ffs)
		c := open(t, uri(name, "/a.db"))
		exec(t, c, "CREATE TABLE t(x); ATTACH '"+uri(name, "/b.db")+"' AS b; CREATE TABLE b.t(x)")
		ffs.set(nil)
		exec(t, c, "BEGIN; INSERT INTO main.t VALUES(1); INSERT INTO b.t VALUES(2); COMMIT")
		if !strings.Contains(strings.Join(ffs.ops, "\n"), "sync "+filepath.FromSlash("/a.db-mj")) {
			t.Errorf("no super-journal was synced: %q", ffs.ops)
		}
		if got := value(t, c, "SELECT (SELECT x FROM main.t) + (SELECT x FROM b.t)"); got != "3" {
			t.Errorf("got %s, want 3", got)
		}
	})
}

func TestOddNames(t *testing.T) {
	names := []string{"/a b?.db", "/%41.db", "/#x", "/é/日本.db", "/a&b=c;d.db", "/it's.db", "/a-b.db-journal"}
	if runtime.GOOS == "windows" {
		names = names[1:] // no question marks
	}
	eachFs(t, func(t *testing.T, fsys afero.Fs) {
		name := register(t, fsys)
		if err := fsys.Mkdir("/é", 0o700); err != nil {
			t.Fatal(err)
		}
		for _, path := range names {
			c := open(t, uri(name, path))
			exec(t, c, fmt.Sprintf("CREATE TABLE t AS SELECT %d AS x", len(path)))
			closeConn(t, c)
			if !exists(t, fsys, path) {
				t.Errorf("%s is not where it should be", path)
			}
			c = open(t, uri(name, path, "mode", "ro"))
			if got, want := value(t, c, "SELECT x FROM t"), fmt.Sprint(len(path)); got != want {
				t.Errorf("%s: got %s, want %s", path, got, want)
			}
		}
	})
}

func TestFullPathname(t *testing.T) {
	name := register(t, afero.NewMemMapFs())
	for in, want := range map[string]string{
		"a.db":            "a.db",
		"./d/../a.db":     "a.db",
		"/a/b.db":         "/a/b.db",
		"/a//../b/./c.db": "/b/c.db",
		"/../../a.db":     "/a.db",
	} {
		got, err := vfs.Find(name).FullPathname(in)
		if err != nil || filepath.ToSlash(got) != want {
			t.Errorf("FullPathname(%q) = %q, %v; want %q", in, got, err, want)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	eachFs(t, func(t *testing.T, fsys afero.Fs) {
		name := register(t, fsys)
		if err := fsys.Mkdir("/dir", 0o700); err != nil {
			t.Fatal(err)
		}
		for _, mode := range []string{"ro", "rw", "rwc"} {
			_, err := sqlite3.Open(uri(name, "/dir", "mode", mode))
			if !errors.Is(err, sqlite3.CANTOPEN_ISDIR) {
				t.Errorf("directory, mode %s: got %v, want CANTOPEN_ISDIR", mode, err)
			}
			checkPathError(t, err, "/dir")
		}
		_, err := sqlite3.Open(uri(name, "/missing.db", "mode", "ro"))
		if !errors.Is(err, sqlite3.CANTOPEN) || !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("missing: got %v, want CANTOPEN and fs.ErrNotExist", err)
		}
		const super = vfs.OPEN_SUPER_JOURNAL | vfs.OPEN_READWRITE | vfs.OPEN_CREATE | vfs.OPEN_EXCLUSIVE
		writeFile(t, fsys, "/a.db-mj1", nil)
		if f, _, err := vfs.Find(name).Open("/a.db-mj1", super); err == nil {
			t.Error("a super-journal that was there was opened as a new one")
			f.Close()
		}
		if exists(t, fsys, "/missing.db") {
			t.Error("a database opened for reading was created")
		}
	})
}

// checkPathError checks that a failure still says what failed.
func checkPathError(t *testing.T, err error, path string) {
	t.Helper()
	if e, ok := errors.AsType[*fs.PathError](err); !ok || !strings.HasSuffix(filepath.ToSlash(e.Path), path) {
		t.Errorf("no *fs.PathError about %s in %v", path, err)
	}
}

func TestOpenRefusesLink(t *testing.T) {
	eachFs(t, func(t *testing.T, fsys afero.Fs) {
		linker, ok := fsys.(afero.Linker)
		if !ok {
			t.Skip("the file system has no symbolic links")
		}
		name := register(t, fsys)
		exec(t, open(t, uri(name, "/real.db")), fillSQL)
		for _, link := range []string{"/link.db", "/real.db-journal"} {
			if err := linker.SymlinkIfPossible("/real.db", link); err != nil {
				t.Skipf("symlink: %v", err)
			}
		}
		_, err := sqlite3.Open(uri(name, "/link.db"))
		if !errors.Is(err, sqlite3.CANTOPEN_SYMLINK) {
			t.Errorf("database: got %v, want CANTOPEN_SYMLINK", err)
		}
		checkPathError(t, err, "/link.db")
		err = open(t, uri(name, "/real.db")).Exec("DELETE FROM t")
		if !errors.Is(err, sqlite3.CANTOPEN) {
			t.Errorf("journal: got %v, want CANTOPEN", err)
		}
		checkPathError(t, err, "/real.db-journal")
	})
}

func TestReadOnlyWritesNothing(t *testing.T) {
	eachFs(t, func(t *testing.T, fsys afero.Fs) {
		c := open(t, uri(register(t, fsys), "/a.db"))
		exec(t, c, fillSQL)
		closeConn(t, c)

		c = open(t, uri(register(t, afero.NewReadOnlyFs(fsys)), "/a.db", "mode", "ro"))
		if got := value(t, c, "PRAGMA integrity_check"); got != "ok" {
			t.Errorf("integrity_check: %s", got)
		}
		if err := c.Exec("DELETE FROM t"); !errors.Is(err, sqlite3.READONLY) {
			t.Errorf("got %v, want READONLY", err)
		}
	})
}

// Temporary files touch neither the file system nor that of the operating
// system.
func TestTemporaryFilesInMemory(t *testing.T) {
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	t.Setenv("SQLITE_TMPDIR", tmp)
	ffs := &faultFs{Fs: afero.NewMemMapFs()}
	c := open(t, uri(register(t, ffs), "/a.db", "_pragma", "temp_store(file)"))
	exec(t, c, `CREATE TABLE t(id INTEGER PRIMARY KEY, v BLOB);
		WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<8000)
		INSERT INTO t SELECT i, randomblob(200) FROM n;
		CREATE TEMP TABLE tt(id INTEGER PRIMARY KEY, v BLOB); PRAGMA temp.cache_size=5`)
	ffs.set(nil)
	exec(t, c, "INSERT INTO tt SELECT * FROM t ORDER BY v") // a table, a journal and a sorter
	for _, table := range []string{"t", "tt"} {
		// A statement that fails late undoes itself with a journal of its own.
		err := c.Exec("BEGIN; UPDATE " + table + " SET v=randomblob(200), id=iif(id=8000, 1, id)")
		if !errors.Is(err, sqlite3.CONSTRAINT) {
			t.Errorf("%s: got %v, want CONSTRAINT", table, err)
		}
		exec(t, c, "COMMIT; PRAGMA shrink_memory")
	}
	const differ = "SELECT count(*) FROM t LEFT JOIN tt USING (id) WHERE t.v IS NOT tt.v"
	if got := value(t, c, differ); got != "0" {
		t.Errorf("%s of 8000 rows differ", got)
	}
	exec(t, c, "DELETE FROM t WHERE id%2; VACUUM")
	if got := value(t, c, differ); got != "0" {
		t.Errorf("%s of 4000 rows differ after VACUUM", got)
	}
	for _, op := range ffs.ops {
		op, path, _ := strings.Cut(filepath.ToSlash(op), " ")
		if path != "/" && path != "/a.db" && path != "/a.db-journal" && path != "/a.db-wal" {
			t.Errorf("%s %s", op, path)
		}
	}
	if got := value(t, c, "PRAGMA integrity_check"); got != "ok" {
		t.Errorf("integrity_check: %s", got)
	}
	if entries, err := os.ReadDir(tmp); err != nil || len(entries) > 0 {
		t.Errorf("the temporary directory has %v, %v", entries, err)
	}
}

func TestOpen(t *testing.T) {
	const flags = sqlite3.OPEN_READWRITE | sqlite3.OPEN_CREATE
	eachFs(t, func(t *testing.T, fsys afero.Fs) {
		for _, path := range []string{"/a?b.db", "rel.db"} {
			c, err := aferovfs.Open(fsys, path, flags)
			if err != nil {
				t.Fatal(err)
			}
			exec(t, c, fillSQL+"; PRAGMA journal_mode=persist; DELETE FROM t WHERE id=1")
			exec(t, c, "ATTACH '"+uri(c.Filename("main").URIParameter("vfs"), "/b.db")+"' AS b; CREATE TABLE b.u(x)")
			name := c.Filename("main").URIParameter("vfs")
			closeConn(t, c)
			if vfs.Find(name) != nil {
				t.Error("the VFS is still registered")
			}
			c, err = aferovfs.Open(fsys, path, sqlite3.OPEN_READONLY)
			if err != nil {
				t.Fatal(err)
			}
			if got := value(t, c, "SELECT count(*) FROM t"); got != "199" {
				t.Errorf("got %s rows, want 199", got)
			}
			closeConn(t, c)
			if err := fsys.Remove("/b.db"); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := aferovfs.Open(fsys, "/missing.db", sqlite3.OPEN_READONLY); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("got %v, want fs.ErrNotExist", err)
		}
	})
}

func TestUnregister(t *testing.T) {
	name, unregister := aferovfs.Register(afero.NewMemMapFs())
	c, err := sqlite3.Open(uri(name, "/a.db"))
	if err != nil {
		t.Fatal(err)
	}
	exec(t, c, "CREATE TABLE t(x)")
	if err := unregister(); err == nil {
		t.Error("a VFS in use was unregistered")
	}
	exec(t, c, "INSERT INTO t VALUES(1)")
	closeConn(t, c)
	for range 2 {
		if err := unregister(); err != nil {
			t.Errorf("unregister: %v", err)
		}
		if vfs.Find(name) != nil {
			t.Error("the VFS is still registered")
		}
	}
	if _, err := sqlite3.Open(uri(name, "/a.db")); err == nil {
		t.Error("a database was opened through a VFS that is gone")
	}
}

func TestNamesAreUnique(t *testing.T) {
	fsys := afero.NewMemMapFs()
	seen := map[string]bool{}
	for range 100 {
		name := register(t, fsys)
		if seen[name] {
			t.Fatalf("%s was given twice", name)
		}
		seen[name] = true
	}
}
