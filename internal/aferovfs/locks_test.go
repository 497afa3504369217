package aferovfs_test

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ncruces/go-sqlite3"
	"github.com/ncruces/go-sqlite3/vfs"
	"github.com/spf13/afero"

	"github.com/atocore/backup/internal/aferovfs"
)

// Two connections through two registrations of one file system.
func pair(t *testing.T, fsys afero.Fs) (a, b *sqlite3.Conn) {
	t.Helper()
	a = open(t, uri(register(t, fsys), "/d.db"))
	exec(t, a, "CREATE TABLE t(x); INSERT INTO t VALUES(1)")
	b = open(t, uri(register(t, fsys), "/./d.db"))
	exec(t, b, "SELECT * FROM t")
	return a, b
}

func wantBusy(t *testing.T, c *sqlite3.Conn, sql string) {
	t.Helper()
	if err := c.Exec(sql); !errors.Is(err, sqlite3.BUSY) {
		t.Errorf("%s: got %v, want BUSY", sql, err)
	}
}

func TestReaderBlocksCommit(t *testing.T) {
	eachFs(t, func(t *testing.T, fsys afero.Fs) {
		reader, writer := pair(t, fsys)
		exec(t, reader, "BEGIN; SELECT * FROM t")
		exec(t, writer, "BEGIN; INSERT INTO t VALUES(2)") // RESERVED beside SHARED
		wantBusy(t, writer, "COMMIT")                     // left PENDING

		late := open(t, uri(register(t, fsys), "/d.db"))
		wantBusy(t, late, "SELECT * FROM t")
		if got := value(t, reader, "SELECT count(*) FROM t"); got != "1" {
			t.Errorf("the reader sees %s rows, want 1", got)
		}
		exec(t, reader, "COMMIT")
		exec(t, writer, "COMMIT")
		if got := value(t, late, "SELECT count(*) FROM t"); got != "2" {
			t.Errorf("got %s rows, want 2", got)
		}
	})
}

func TestExclusiveBlocksReader(t *testing.T) {
	eachFs(t, func(t *testing.T, fsys afero.Fs) {
		reader, writer := pair(t, fsys)
		exec(t, writer, "BEGIN EXCLUSIVE")
		wantBusy(t, reader, "SELECT * FROM t")
		exec(t, writer, "ROLLBACK")
		exec(t, reader, "SELECT * FROM t")
	})
}

func TestOneReserved(t *testing.T) {
	eachFs(t, func(t *testing.T, fsys afero.Fs) {
		a, b := pair(t, fsys)
		exec(t, a, "BEGIN IMMEDIATE")
		wantBusy(t, b, "BEGIN IMMEDIATE")
		exec(t, b, "SELECT * FROM t")
		exec(t, a, "ROLLBACK")
		exec(t, b, "BEGIN IMMEDIATE")
		wantBusy(t, a, "BEGIN IMMEDIATE")
	})
}

func TestCloseReleasesLocks(t *testing.T) {
	eachFs(t, func(t *testing.T, fsys afero.Fs) {
		a, b := pair(t, fsys)
		exec(t, a, "BEGIN EXCLUSIVE")
		closeConn(t, a)
		exec(t, b, "INSERT INTO t VALUES(2)")
	})
}

// The same rules at the level of files, with what SQLite never does.
func TestLockLevels(t *testing.T) {
	fsys := afero.NewMemMapFs()
	name := register(t, fsys)
	var files [3]vfs.FileLockState
	for i := range files {
		f, _, err := vfs.Find(name).Open("/a.db", vfs.OPEN_MAIN_DB|vfs.OPEN_READWRITE|vfs.OPEN_CREATE)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		files[i] = f.(vfs.FileLockState)
	}
	lock := func(i int, to vfs.LockLevel, want error, state vfs.LockLevel) {
		t.Helper()
		if err := files[i].Lock(to); err != want {
			t.Errorf("file %d to %d: got %v, want %v", i, to, err, want)
		}
		if got := files[i].LockState(); got != state {
			t.Errorf("file %d is at %d, want %d", i, got, state)
		}
	}
	unlock := func(i int, to vfs.LockLevel) {
		t.Helper()
		if err := files[i].Unlock(to); err != nil {
			t.Errorf("file %d down to %d: %v", i, to, err)
		}
	}
	reserved := func(want bool) {
		t.Helper()
		for i, f := range files {
			if got, err := f.CheckReservedLock(); got != want || err != nil {
				t.Errorf("file %d: reserved %v, %v, want %v", i, got, err, want)
			}
		}
	}
	const none, shared, res, pending, exclusive = vfs.LOCK_NONE, vfs.LOCK_SHARED,
		vfs.LOCK_RESERVED, vfs.LOCK_PENDING, vfs.LOCK_EXCLUSIVE

	lock(0, res, sqlite3.IOERR_LOCK, none)
	lock(0, exclusive, sqlite3.IOERR_LOCK, none)
	lock(0, shared, nil, shared)
	lock(0, pending, sqlite3.IOERR_LOCK, shared)
	lock(1, shared, nil, shared)
	reserved(false)
	lock(0, res, nil, res)
	reserved(true)
	lock(1, res, sqlite3.BUSY, shared)
	lock(1, exclusive, sqlite3.BUSY, shared)
	lock(2, shared, nil, shared) // RESERVED lets readers in
	lock(0, exclusive, sqlite3.BUSY, pending)
	reserved(true)
	unlock(2, none)
	lock(2, shared, sqlite3.BUSY, none) // PENDING does not
	lock(0, shared, nil, pending)       // already more
	unlock(1, none)
	lock(0, exclusive, nil, exclusive)
	lock(1, shared, sqlite3.BUSY, none)
	reserved(true)
	unlock(0, shared)
	reserved(false)
	lock(1, shared, nil, shared)
	lock(1, exclusive, sqlite3.BUSY, shared) // straight from SHARED
	lock(2, shared, nil, shared)             // which keeps nobody out
	unlock(2, none)
	unlock(0, none)
	unlock(0, none)
	lock(1, exclusive, nil, exclusive)
	reserved(true)
	lock(0, shared, sqlite3.BUSY, none)
	if err := files[1].Close(); err != nil {
		t.Error(err)
	}
	lock(0, shared, nil, shared)
	lock(0, exclusive, nil, exclusive)
}

// Writers that race must neither lose an update nor, at the start, create a
// database each.
func TestConcurrentWriters(t *testing.T) {
	eachFs(t, func(t *testing.T, fsys afero.Fs) {
		const writers, transfers = 6, 15
		var wg sync.WaitGroup
		for range writers {
			db := uri(register(t, fsys), "/d.db", "_pragma", "busy_timeout(60000)")
			wg.Go(func() {
				c, err := sqlite3.Open(db)
				if err != nil {
					t.Error(err)
					return
				}
				defer closeConn(t, c)
				err = c.Exec("BEGIN IMMEDIATE; CREATE TABLE IF NOT EXISTS t(id INTEGER PRIMARY KEY, n INT);" +
					"INSERT OR IGNORE INTO t VALUES(1, 1000), (2, 0); COMMIT")
				for i := 0; i < transfers && err == nil; i++ {
					err = c.Exec("BEGIN IMMEDIATE; UPDATE t SET n=n-1 WHERE id=1; UPDATE t SET n=n+1 WHERE id=2; COMMIT")
					if err == nil {
						var sum []string
						if sum, err = query(c, "SELECT sum(n) FROM t"); err == nil && sum[0] != "1000" {
							err = fmt.Errorf("the sum is %s, want 1000", sum[0])
						}
					}
				}
				if err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		c := open(t, uri(register(t, fsys), "/d.db"))
		if got, want := value(t, c, "SELECT n FROM t WHERE id=2"), fmt.Sprint(writers*transfers); got != want {
			t.Errorf("got %s transfers, want %s", got, want)
		}
		if got := value(t, c, "PRAGMA integrity_check"); got != "ok" {
			t.Errorf("integrity_check: %s", got)
		}
	})
}

// In a MemMapFs, two that create one file at a time get a file each.
func TestCreateTakesTurns(t *testing.T) {
	ffs := &faultFs{Fs: afero.NewMemMapFs()}
	names := []string{register(t, ffs), register(t, ffs)}
	var active, together atomic.Int32
	hook := func(op, _ string) error {
		if op == "open" {
			if active.Add(1) > 1 {
				together.Add(1)
			}
			for range 1000 {
				runtime.Gosched()
			}
			active.Add(-1)
		}
		return nil
	}
	ffs.hook = hook
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			f, _, err := vfs.Find(names[i%2]).Open("/a.db", vfs.OPEN_MAIN_DB|vfs.OPEN_READWRITE|vfs.OPEN_CREATE)
			if err != nil {
				t.Error(err)
				return
			}
			if err := f.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := together.Load(); n > 0 {
		t.Errorf("%d files were opened while another was", n)
	}
}

// "a" and "/a" may be one file, or may not.
func TestRelativePathsShareLocks(t *testing.T) {
	eachFs(t, func(t *testing.T, fsys afero.Fs) {
		name := register(t, fsys)
		exec(t, open(t, uri(name, "a.db")), "BEGIN EXCLUSIVE")
		wantBusy(t, open(t, uri(name, "/a.db")), "BEGIN EXCLUSIVE")
	})
}

// Values of a type that cannot be compared must not make the lock table
// panic.
func TestFileSystemIdentity(t *testing.T) {
	type uncomparable struct {
		afero.Fs
		_ []int
	}
	type hidesUncomparable struct {
		afero.Fs
		x any
	}
	mem := afero.NewMemMapFs()
	for _, test := range []struct {
		name   string
		a, b   afero.Fs
		shared bool
	}{
		{"same_pointer", mem, mem, true},
		{"equal_structs", hidesUncomparable{mem, 1}, hidesUncomparable{mem, 1}, true},
		{"different_structs", hidesUncomparable{mem, 1}, hidesUncomparable{mem, 2}, false},
		{"uncomparable", uncomparable{Fs: mem}, uncomparable{Fs: mem}, false},
		{"uncomparable_inside", hidesUncomparable{mem, []int{}}, hidesUncomparable{mem, []int{}}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			a := open(t, uri(register(t, test.a), "/d.db"))
			exec(t, a, "CREATE TABLE IF NOT EXISTS t(x); BEGIN IMMEDIATE")
			b := open(t, uri(register(t, test.b), "/d.db"))
			if err := b.Exec("BEGIN IMMEDIATE"); errors.Is(err, sqlite3.BUSY) != test.shared {
				t.Errorf("got %v; locks should be shared: %v", err, test.shared)
			}
			// However that may be, one registration shares its locks.
			name := register(t, test.b)
			exec(t, open(t, uri(name, "/e.db")), "BEGIN EXCLUSIVE")
			wantBusy(t, open(t, uri(name, "/e.db")), "BEGIN EXCLUSIVE")
		})
	}
}

func TestAllOsFsAreOne(t *testing.T) {
	path := t.TempDir() + "/d.db"
	exec(t, open(t, uri(register(t, afero.NewOsFs()), path)), "BEGIN EXCLUSIVE")
	wantBusy(t, open(t, uri(register(t, afero.NewOsFs()), path)), "BEGIN EXCLUSIVE")
	wantBusy(t, open(t, uri(register(t, afero.OsFs{}), path)), "BEGIN EXCLUSIVE")
}

func TestLockTableDoesNotGrow(t *testing.T) {
	fsys := &faultFs{Fs: afero.NewMemMapFs()}
	name := register(t, fsys)
	c := open(t, uri(name, "/a.db"))
	exec(t, c, "CREATE TABLE t(x)")
	c2 := open(t, uri(name, "/a.db"))
	exec(t, c2, "SELECT * FROM t")
	if n := aferovfs.LockedFiles(); n != 1 {
		t.Errorf("got %d files in the table, want 1", n)
	}
	closeConn(t, c)
	closeConn(t, c2)
	fsys.set(failing("open", "/a.db", eio("open", "/a.db")))
	if _, err := sqlite3.Open(uri(name, "/a.db")); err == nil {
		t.Error("open succeeded")
	}
	if n := aferovfs.LockedFiles(); n != 0 {
		t.Errorf("got %d files in the table, want none", n)
	}
}

// A busy handler gives up in the end, and keeps nothing.
func TestBusyTimeout(t *testing.T) {
	a, b := pair(t, afero.NewMemMapFs())
	exec(t, a, "BEGIN EXCLUSIVE")
	if err := b.BusyTimeout(5 * time.Millisecond); err != nil {
		t.Fatal(err)
	}
	wantBusy(t, b, "BEGIN IMMEDIATE")
	exec(t, a, "COMMIT")
	exec(t, b, "BEGIN IMMEDIATE; COMMIT")
	exec(t, a, "BEGIN EXCLUSIVE")
}
