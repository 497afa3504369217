package aferovfs_test

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/ncruces/go-sqlite3"
	"github.com/spf13/afero"

	"github.com/atocore/backup/internal/aferovfs"
)

// discard is a [aferovfs.File] that is empty.
type discard struct{ aferovfs.File }

func (discard) ReadAt([]byte, int64) (int, error) { return 0, io.EOF }
func (discard) Stat() (fs.FileInfo, error)        { return os.Stat(os.DevNull) }

// pinned makes a database and leaves a read transaction open. Without that,
// SQLite unlocks the source after each step, and go-sqlite3 forgets the cause
// of a failure at the destination: unregister alone still knows it.
const pinned = fillSQL + "; BEGIN; SELECT * FROM t"

const unjournaled = "&_pragma=journal_mode(off)&_pragma=synchronous(off)"

func create(t *testing.T, fsys afero.Fs, path string) afero.File {
	t.Helper()
	f, err := fsys.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// copyTo copies the main database of c, in steps of some pages.
func copyTo(c *sqlite3.Conn, uri string, step func()) error {
	b, err := c.BackupInit("main", uri)
	if err != nil {
		return err
	}
	for done := false; !done && err == nil; {
		done, err = b.Step(10)
		if step != nil {
			step()
		}
	}
	// A failed backup fails again when it is closed.
	if cerr := b.Close(); err == nil {
		err = cerr
	}
	return err
}

func TestOnlineBackup(t *testing.T) {
	for _, mode := range []string{"delete", "wal"} {
		t.Run(mode, func(t *testing.T) {
			eachFs(t, func(t *testing.T, fsys afero.Fs) {
				path := filepath.Join(t.TempDir(), "source.db")
				src := open(t, path)
				exec(t, src, "PRAGMA journal_mode="+mode+";"+fillSQL+"; BEGIN; SELECT * FROM t")

				f := create(t, fsys, "/copy.db")
				name, unregister := aferovfs.RegisterWriter(t.Context(), f)
				other := open(t, path)
				err := copyTo(src, "file:db?vfs="+name+unjournaled, func() {
					if mode == "wal" {
						exec(t, other, "INSERT INTO t(v) VALUES('later')")
					}
				})
				if err := errors.Join(err, unregister(), f.Sync(), f.Close()); err != nil {
					t.Fatal(err)
				}
				copied := readFile(t, fsys, "/copy.db")
				if want := map[string]byte{"delete": 1, "wal": 2}[mode]; copied[18] != want || copied[19] != want {
					t.Errorf("the copy is marked %v, want %d", copied[18:20], want)
				}
				if got := files(t, fsys); len(got) != 1 {
					t.Errorf("there is more than the copy: %q", got)
				}

				f, err = fsys.Open("/copy.db")
				if err != nil {
					t.Fatal(err)
				}
				defer f.Close()
				c := open(t, "file:db?mode=ro&vfs="+registerReader(t, f, int64(len(copied))))
				if got := value(t, c, "PRAGMA integrity_check"); got != "ok" {
					t.Errorf("integrity_check: %s", got)
				}
				want, err := query(src, "SELECT hex(v) FROM t ORDER BY id")
				if err != nil {
					t.Fatal(err)
				}
				got, err := query(c, "SELECT hex(v) FROM t ORDER BY id")
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(got, want); diff != "" {
					t.Errorf("rows (-got +want):\n%s", diff)
				}
			})
		})
	}
}

// A copy from one of these file systems to another.
func TestOnlineBackupOfAfero(t *testing.T) {
	db, wal := walDatabase(t)
	eachFs(t, func(t *testing.T, fsys afero.Fs) {
		writeFile(t, fsys, "/w.db", db)
		writeFile(t, fsys, "/w.db-wal", wal)
		src := open(t, uri(register(t, fsys), "/w.db", "mode", "ro", "_pragma", exclusive))
		exec(t, src, "BEGIN; SELECT * FROM t")
		f := create(t, fsys, "/copy.db")
		name, unregister := aferovfs.RegisterWriter(t.Context(), f)
		if err := errors.Join(copyTo(src, "file:db?vfs="+name+unjournaled, nil), unregister()); err != nil {
			t.Fatal(err)
		}
		copied := readFile(t, fsys, "/copy.db")
		c := open(t, "file:db?vfs="+registerReader(t, f, int64(len(copied))))
		if got := value(t, c, "SELECT count(*) FROM t"); got != "300" {
			t.Errorf("got %s rows, want 300", got)
		}
		if copied[18] != 2 {
			t.Error("the copy is not marked as in WAL mode")
		}
	})
}

func TestWriterContext(t *testing.T) {
	eachFs(t, func(t *testing.T, fsys afero.Fs) {
		src := open(t, filepath.Join(t.TempDir(), "source.db"))
		exec(t, src, pinned)
		ffs := &faultFs{Fs: fsys}
		f := create(t, ffs, "/copy.db")
		ctx, cancel := context.WithCancel(t.Context())
		name, unregister := aferovfs.RegisterWriter(ctx, f)
		steps := 0
		err := copyTo(src, "file:db?vfs="+name+unjournaled+"&_pragma=cache_size(1)", func() {
			if steps++; steps == 2 {
				cancel()
				ffs.set(nil)
			}
		})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, want context.Canceled", err)
		}
		if err := unregister(); !errors.Is(err, context.Canceled) {
			t.Errorf("unregister: got %v, want context.Canceled", err)
		}
		if slices.ContainsFunc(ffs.ops, func(op string) bool { return op[0] == 'w' || op[0] == 't' || op[0] == 'r' }) {
			t.Errorf("the file was used after the end: %q", ffs.ops)
		}
		name, unregister = aferovfs.RegisterWriter(ctx, f)
		if _, err := sqlite3.Open("file:db?vfs=" + name); !errors.Is(err, context.Canceled) || !errors.Is(err, sqlite3.CANTOPEN) {
			t.Errorf("open: got %v, want CANTOPEN and context.Canceled", err)
		}
		if err := unregister(); err != nil {
			t.Error(err)
		}
	})
}

func TestWriterFaults(t *testing.T) {
	for _, test := range []struct {
		op         string
		err, cause error
		code       sqlite3.ExtendedErrorCode
	}{
		{"write", syscall.EIO, syscall.EIO, sqlite3.IOERR_WRITE},
		{"write", syscall.ENOSPC, syscall.ENOSPC, sqlite3.IOERR_WRITE},
		{"write", errShort, io.ErrShortWrite, sqlite3.IOERR_WRITE},
		{"sync", syscall.EIO, syscall.EIO, sqlite3.IOERR_FSYNC},
		{"fstat", syscall.EIO, syscall.EIO, sqlite3.IOERR_READ}, // where is the end of the empty file?
		{"read", syscall.EIO, syscall.EIO, sqlite3.IOERR_READ},
	} {
		t.Run(test.op+"_"+test.err.Error(), func(t *testing.T) {
			eachFs(t, func(t *testing.T, fsys afero.Fs) {
				src := open(t, filepath.Join(t.TempDir(), "source.db"))
				exec(t, src, pinned)
				ffs := &faultFs{Fs: fsys}
				f := create(t, ffs, "/copy.db")
				ffs.set(failing(test.op, "/copy.db", test.err))
				name, unregister := aferovfs.RegisterWriter(t.Context(), f)
				err := copyTo(src, "file:db?vfs="+name+"&_pragma=journal_mode(off)", nil)
				if !errors.Is(err, test.code) || !errors.Is(err, test.cause) {
					t.Errorf("got %v, want code %d and %v", err, test.code, test.cause)
				}
				if err := unregister(); !errors.Is(err, test.cause) {
					t.Errorf("unregister: got %v, want %v", err, test.cause)
				}
			})
		})
	}
}

func TestWriterTruncateFault(t *testing.T) {
	ffs := &faultFs{Fs: afero.NewMemMapFs()}
	name, unregister := aferovfs.RegisterWriter(t.Context(), create(t, ffs, "/copy.db"))
	c := open(t, "file:db?vfs="+name+unjournaled)
	exec(t, c, fillSQL)
	ffs.set(failing("truncate", "/copy.db", syscall.EIO))
	if err := c.Exec("DELETE FROM t; VACUUM"); !errors.Is(err, sqlite3.IOERR_TRUNCATE) || !errors.Is(err, syscall.EIO) {
		t.Errorf("got %v, want IOERR_TRUNCATE and EIO", err)
	}
	closeConn(t, c)
	if err := unregister(); !errors.Is(err, syscall.EIO) {
		t.Errorf("unregister: got %v, want EIO", err)
	}
}

func TestWriterFailedSyncIsSticky(t *testing.T) {
	ffs := &faultFs{Fs: afero.NewMemMapFs()}
	name, unregister := aferovfs.RegisterWriter(t.Context(), create(t, ffs, "/copy.db"))
	ffs.set(failing("sync", "/copy.db", syscall.EIO))
	for range 3 {
		c := open(t, "file:db?vfs="+name+"&_pragma=journal_mode(memory)")
		if err := c.Exec("CREATE TABLE t(x)"); !errors.Is(err, syscall.EIO) {
			t.Errorf("got %v, want EIO", err)
		}
		ffs.set(nil)
		closeConn(t, c)
	}
	if slices.Contains(ffs.ops, "sync /copy.db") {
		t.Error("the sync was tried again")
	}
	if err := unregister(); !errors.Is(err, syscall.EIO) {
		t.Errorf("unregister: got %v, want EIO", err)
	}
}

func TestWriterRefuses(t *testing.T) {
	name, unregister := aferovfs.RegisterWriter(t.Context(), create(t, afero.NewMemMapFs(), "/copy.db"))
	uri := "file:db?vfs=" + name
	c := open(t, uri)
	if _, err := sqlite3.Open(uri); !errors.Is(err, sqlite3.CANTOPEN) {
		t.Errorf("a second connection: got %v, want CANTOPEN", err)
	}
	if err := c.Exec("CREATE TABLE t(x)"); !errors.Is(err, sqlite3.CANTOPEN) {
		t.Errorf("with a journal: got %v, want CANTOPEN", err)
	}
	if err := unregister(); err == nil {
		t.Error("a VFS in use was unregistered")
	}
	closeConn(t, c)
	c = open(t, uri+unjournaled)
	exec(t, c, "CREATE TABLE t(x)")
	closeConn(t, c)
	if err := unregister(); err != nil {
		t.Error(err)
	}
}
