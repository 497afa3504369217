package aferovfs_test

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/ncruces/go-sqlite3"
	"github.com/ncruces/go-sqlite3/vfs"
	"github.com/spf13/afero"

	"github.com/atocore/backup/internal/aferovfs"
)

// Every failure of the file system surfaces as an error that still has its
// cause, and leaves a database that the next connection can use.
func TestFaults(t *testing.T) {
	const (
		write = "UPDATE t SET v=randomblob(200)"
		scan  = "SELECT sum(length(v)) FROM t NOT INDEXED"
	)
	for _, test := range []struct {
		name, mode string // journal mode
		begin      string // before the fault
		op, path   string
		err        error // nil: EIO
		sql        string
		code       sqlite3.ExtendedErrorCode
	}{
		{name: "read", op: "read", path: "/a.db", sql: scan, code: sqlite3.IOERR_READ},
		{name: "read_no_progress", op: "read", path: "/a.db", err: errNothing, sql: scan, code: sqlite3.IOERR_READ},
		{name: "read_early_eof", op: "read", path: "/a.db", err: io.EOF, sql: scan, code: sqlite3.IOERR_READ},
		{name: "read_early_unexpected_eof", op: "read", path: "/a.db", err: io.ErrUnexpectedEOF, sql: scan, code: sqlite3.IOERR_READ},
		{name: "read_log", mode: "wal", op: "read", path: "/a.db-wal", begin: write + "; PRAGMA cache_size=1", sql: scan, code: sqlite3.IOERR_READ},
		{name: "write", op: "write", path: "/a.db", sql: write, code: sqlite3.IOERR_WRITE},
		{name: "write_short", op: "write", path: "/a.db", err: errShort, sql: write, code: sqlite3.IOERR_WRITE},
		{name: "write_full", op: "write", path: "/a.db", err: syscall.ENOSPC, sql: write, code: sqlite3.IOERR_WRITE},
		{name: "write_journal", op: "write", path: "/a.db-journal", sql: write, code: sqlite3.IOERR_WRITE},
		{name: "write_journal_short", op: "write", path: "/a.db-journal", err: errShort, sql: write, code: sqlite3.IOERR_WRITE},
		{name: "write_log", mode: "wal", op: "write", path: "/a.db-wal", sql: write, code: sqlite3.IOERR_WRITE},
		{name: "write_log_short", mode: "wal", op: "write", path: "/a.db-wal", err: errShort, sql: write, code: sqlite3.IOERR_WRITE},
		{name: "sync", op: "sync", path: "/a.db", sql: write, code: sqlite3.IOERR_FSYNC},
		{name: "sync_journal", op: "sync", path: "/a.db-journal", sql: write, code: sqlite3.IOERR_FSYNC},
		{name: "sync_log", mode: "wal", op: "sync", path: "/a.db-wal", sql: write, code: sqlite3.IOERR_FSYNC},
		{name: "sync_directory", op: "sync", path: "/", sql: write, code: sqlite3.IOERR_DIR_FSYNC},
		{name: "open_directory", op: "open", path: "/", sql: write, code: sqlite3.IOERR_DIR_FSYNC},
		{name: "close_directory", op: "close", path: "/", sql: write, code: sqlite3.IOERR_DIR_FSYNC},
		{name: "truncate", op: "truncate", path: "/a.db", sql: "DELETE FROM t; VACUUM", code: sqlite3.IOERR_TRUNCATE},
		{name: "truncate_journal", mode: "truncate", op: "truncate", path: "/a.db-journal", sql: write, code: sqlite3.IOERR_TRUNCATE},
		{name: "remove_journal", op: "remove", path: "/a.db-journal", sql: write, code: sqlite3.IOERR_DELETE},
		{name: "open_journal", op: "open", path: "/a.db-journal", sql: write, code: sqlite3.ExtendedErrorCode(sqlite3.CANTOPEN)},
		{name: "look_for_journal", op: "stat", path: "/a.db-journal", sql: scan, code: sqlite3.IOERR_ACCESS},
		{name: "size", op: "fstat", path: "/a.db", sql: scan, code: sqlite3.IOERR_FSTAT},
	} {
		t.Run(test.name, func(t *testing.T) {
			eachFs(t, func(t *testing.T, fsys afero.Fs) {
				ffs := &faultFs{Fs: fsys}
				name, unregister := aferovfs.Register(ffs)
				mode := test.mode
				if mode == "" {
					mode = "delete"
				}
				params := []string{"_pragma", "journal_mode(" + mode + ")", "_pragma", "cache_size(5)"}
				if mode == "wal" {
					params = append([]string{"_pragma", exclusive}, params...)
				}
				c := open(t, uri(name, "/a.db", params...))
				exec(t, c, fillSQL)
				closeConn(t, c)
				c = open(t, uri(name, "/a.db", params...))
				if test.begin != "" {
					exec(t, c, test.begin)
				}

				cause, err := test.err, error(nil)
				if cause == nil {
					cause = eio(test.op, test.path)
				}
				ffs.set(failing(test.op, test.path, cause))
				err = c.Exec(test.sql)
				ffs.set(nil)
				checkFault(t, err, test.code, cause, test.path)
				closeConn(t, c)
				err = unregister()
				if test.op == "open" && test.path != "/" {
					if err != nil { // no file that was open has failed
						t.Errorf("unregister: %v", err)
					}
				} else if !isCause(err, cause) {
					t.Errorf("unregister: got %v, want %v", err, cause)
				}
				checkUsable(t, fsys)
			})
		})
	}
}

// isCause reports whether err has the cause that a fault should have.
func isCause(err, fault error) bool {
	switch fault {
	case errShort:
		return errors.Is(err, io.ErrShortWrite)
	case errNothing:
		return errors.Is(err, io.ErrNoProgress)
	case io.EOF:
		return errors.Is(err, io.ErrUnexpectedEOF)
	}
	return errors.Is(err, fault)
}

func checkFault(t *testing.T, err error, code sqlite3.ExtendedErrorCode, fault error, path string) {
	t.Helper()
	if !errors.Is(err, code) && !errors.Is(err, code.Code()) || err == nil {
		t.Errorf("got %v, want code %d", err, code)
	}
	if e, ok := errors.AsType[*sqlite3.Error](err); !ok || e.ExtendedCode() != code {
		t.Errorf("got %#v, want code %d", err, code)
	}
	if !isCause(err, fault) {
		t.Errorf("the cause of %v is not %v", err, fault)
	}
	checkPathError(t, err, path)
}

// checkUsable checks the database after the fault is over.
func checkUsable(t *testing.T, fsys afero.Fs) {
	t.Helper()
	c := open(t, uri(register(t, fsys), "/a.db", "_pragma", exclusive))
	if got := value(t, c, "PRAGMA integrity_check"); got != "ok" {
		t.Errorf("integrity_check: %s", got)
	}
	exec(t, c, "INSERT INTO t VALUES(9999, 'x')")
}

// Some failures SQLite does not return: those are what unregister is for.
func TestSwallowedFaults(t *testing.T) {
	for _, test := range []struct {
		name, mode string
		op, path   string
		sql        string
	}{
		{"close", "delete", "close", "/a.db", "SELECT 1"},
		{"close_journal", "delete", "close", "/a.db-journal", "DELETE FROM t WHERE id=1"},
		{"read_journal", "delete", "read", "/a.db-journal", "ROLLBACK"},
		{"checkpoint_sync", "wal", "sync", "/a.db", "DELETE FROM t WHERE id=1"},
		{"checkpoint_write", "wal", "write", "/a.db", "DELETE FROM t WHERE id=1"},
		{"remove_log", "wal", "remove", "/a.db-wal", "DELETE FROM t WHERE id=1"},
	} {
		t.Run(test.name, func(t *testing.T) {
			eachFs(t, func(t *testing.T, fsys afero.Fs) {
				ffs := &faultFs{Fs: fsys}
				name, unregister := aferovfs.Register(ffs)
				c := open(t, uri(name, "/a.db", "_pragma", exclusive, "_pragma", "journal_mode("+test.mode+")"))
				exec(t, c, fillSQL)
				if test.sql == "ROLLBACK" {
					exec(t, c, spilled)
				}
				cause := eio(test.op, test.path)
				ffs.set(failing(test.op, test.path, cause))
				exec(t, c, test.sql)
				closeConn(t, c)
				if err := unregister(); !errors.Is(err, cause) {
					t.Errorf("unregister: got %v, want %v", err, cause)
				}
				checkUsable(t, fsys)
			})
		})
	}
}

func TestOpenFault(t *testing.T) {
	for _, op := range []string{"open", "stat"} {
		ffs := &faultFs{Fs: afero.NewMemMapFs()}
		name := register(t, ffs)
		cause := eio(op, "/a.db")
		ffs.set(failing(op, "/a.db", cause))
		_, err := sqlite3.Open(uri(name, "/a.db"))
		checkFault(t, err, sqlite3.ExtendedErrorCode(sqlite3.CANTOPEN), cause, "/a.db")
	}
}

// SQLite closes the file before it returns this error.
func TestAttachFault(t *testing.T) {
	ffs := &faultFs{Fs: afero.NewMemMapFs()}
	name, unregister := aferovfs.Register(ffs)
	c := open(t, uri(name, "/a.db"))
	writeFile(t, ffs, "/b.db", database(t))
	cause := eio("read", "/b.db")
	ffs.set(failing("read", "/b.db", cause))
	err := c.Exec("ATTACH '" + uri(name, "/b.db") + "' AS b")
	checkFault(t, err, sqlite3.IOERR_READ, cause, "/b.db")
	closeConn(t, c)
	if err := unregister(); !errors.Is(err, cause) {
		t.Errorf("unregister: got %v, want %v", err, cause)
	}
}

// A failure that is over is not given as the cause of another.
func TestCauseIsForgotten(t *testing.T) {
	for op, path := range map[string]string{"write": "/a.db", "remove": "/a.db-journal"} {
		t.Run(op, func(t *testing.T) {
			ffs := &faultFs{Fs: afero.NewMemMapFs()}
			name, unregister := aferovfs.Register(ffs)
			c := open(t, uri(name, "/a.db", "_pragma", "cache_size(1)"))
			exec(t, c, fillSQL)
			cause := eio(op, path)
			ffs.set(failing(op, path, cause))
			if err := c.Exec("DELETE FROM t"); !errors.Is(err, cause) {
				t.Errorf("got %v, want %v", err, cause)
			}
			ffs.set(nil)
			exec(t, c, "DELETE FROM t WHERE id=1")
			err := c.Exec("ATTACH '" + uri(name, "/missing.db", "mode", "ro") + "' AS x")
			if !errors.Is(err, sqlite3.CANTOPEN) || errors.Is(err, cause) || !errors.Is(err, os.ErrNotExist) {
				t.Errorf("got %v, want CANTOPEN, and its own cause", err)
			}
			// This one has no cause of its own.
			wal := open(t, uri(name, "/a.db", "_pragma", exclusive, "_pragma", "journal_mode(wal)"))
			closeConn(t, wal)
			err = c.Exec("SELECT * FROM t")
			if !errors.Is(err, sqlite3.CANTOPEN) || errors.Is(err, cause) {
				t.Errorf("got %v, want CANTOPEN without a cause", err)
			}
			closeConn(t, c)
			if err := unregister(); !errors.Is(err, cause) {
				t.Errorf("unregister: got %v, want %v", err, cause)
			}
		})
	}
}

// A sync that has failed is not believed when it later succeeds.
func TestFailedSyncIsSticky(t *testing.T) {
	for _, path := range []string{"/a.db", "/a.db-journal", "/"} {
		t.Run(path, func(t *testing.T) {
			eachFs(t, func(t *testing.T, fsys afero.Fs) {
				ffs := &faultFs{Fs: fsys}
				name, unregister := aferovfs.Register(ffs)
				// In this mode, the handle of the journal stays open.
				c := open(t, uri(name, "/a.db", "_pragma", exclusive, "_pragma", "journal_mode(persist)"))
				cause := eio("sync", path)
				if path == "/" {
					ffs.set(failing("sync", path, cause)) // synced once, by the first commit
				} else {
					exec(t, c, fillSQL)
					ffs.set(failing("sync", path, cause))
				}
				if err := c.Exec("CREATE TABLE u(x)"); !errors.Is(err, cause) {
					t.Fatalf("got %v, want %v", err, cause)
				}
				ffs.set(nil)
				for range 3 {
					if err := c.Exec("CREATE TABLE u(x)"); !errors.Is(err, cause) {
						t.Errorf("later: got %v, want %v", err, cause)
					}
				}
				if slices.Contains(ffs.ops, "sync "+filepath.FromSlash(path)) {
					t.Error("the sync was tried again")
				}
				closeConn(t, c)
				if err := unregister(); !errors.Is(err, cause) {
					t.Errorf("unregister: got %v, want %v", err, cause)
				}
				c = open(t, uri(register(t, fsys), "/a.db"))
				exec(t, c, "CREATE TABLE u(x)") // it never was committed
			})
		})
	}
}

// A directory that has failed to sync fails for new files in it, too.
func TestFailedDirectorySyncIsSticky(t *testing.T) {
	ffs := &faultFs{Fs: afero.NewMemMapFs()}
	name, unregister := aferovfs.Register(ffs)
	cause := eio("sync", "/")
	for i, fault := range []func(string, string) error{failing("sync", "/", cause), nil} {
		ffs.set(fault)
		c := open(t, uri(name, fmt.Sprintf("/%d.db", i)))
		if err := c.Exec("CREATE TABLE u(x)"); !errors.Is(err, cause) {
			t.Errorf("got %v, want %v", err, cause)
		}
		closeConn(t, c)
	}
	if err := unregister(); !errors.Is(err, cause) {
		t.Errorf("unregister: got %v, want %v", err, cause)
	}
}

// Where a directory cannot be synced, SQLite works all the same.
func TestDirectorySyncUnsupported(t *testing.T) {
	for _, err := range []error{syscall.EINVAL, syscall.ENOTSUP, syscall.ENOSYS, errors.ErrUnsupported} {
		ffs := &faultFs{Fs: afero.NewMemMapFs()}
		ffs.set(failing("sync", "/", &os.PathError{Op: "sync", Path: "/", Err: err}))
		exec(t, open(t, uri(register(t, ffs), "/a.db")), fillSQL)
	}
}

// When a commit returns, the entries of new files were synced after the files
// and before anything relies on them, and so was the end of the journal.
func TestDirectorySyncs(t *testing.T) {
	for _, test := range []struct {
		mode string
		want []string
	}{
		{"delete", []string{
			"sync /d/a.db-journal", "sync /d", // the journal can be found,
			"write /d/a.db", "sync /d/a.db", "sync /d", // so can the new database,
			"remove /d/a.db-journal", "sync /d", // and the commit stays
		}},
		{"wal", []string{"write /d/a.db-wal", "sync /d/a.db-wal", "sync /d"}},
		{"off", []string{"write /d/a.db", "sync /d/a.db", "sync /d"}},
	} {
		t.Run(test.mode, func(t *testing.T) {
			eachFs(t, func(t *testing.T, fsys afero.Fs) {
				if err := fsys.Mkdir("/d", 0o700); err != nil {
					t.Fatal(err)
				}
				ffs := &faultFs{Fs: fsys}
				c := open(t, uri(register(t, ffs), "/d/a.db", "_pragma", "synchronous(extra)",
					"_pragma", exclusive, "_pragma", "journal_mode("+test.mode+")"))
				if test.mode == "delete" {
					exec(t, c, "PRAGMA locking_mode=normal")
				}
				if test.mode != "wal" {
					ffs.set(nil)
				}
				exec(t, c, "CREATE TABLE t(x)")
				got := ffs.ops
				for _, want := range test.want {
					i := slices.Index(got, filepath.FromSlash(want))
					if i < 0 {
						t.Fatalf("no %q in %q, or not in this order", want, ffs.ops)
					}
					got = got[i+1:]
				}
				ffs.set(nil)
				exec(t, c, "INSERT INTO t VALUES(1)")
				for _, op := range ffs.ops {
					if test.mode != "delete" && strings.HasPrefix(op, "open ") {
						t.Errorf("the directory is synced again: %q", ffs.ops)
						break
					}
				}
			})
		})
	}
}

// A file whose reads behave as afero's may.
func TestReadAtEnd(t *testing.T) {
	for _, test := range []struct {
		name string
		err  error // at the end
	}{
		{"plain", nil},
		{"wrapped", fmt.Errorf("the end: %w", io.EOF)},
		{"unexpected", io.ErrUnexpectedEOF},
	} {
		t.Run(test.name, func(t *testing.T) {
			eachFs(t, func(t *testing.T, fsys afero.Fs) {
				ffs := &faultFs{Fs: fsys}
				writeFile(t, fsys, "/a", []byte("0123456789"))
				f, _, err := vfs.Find(register(t, ffs)).Open("/a", vfs.OPEN_MAIN_DB|vfs.OPEN_READONLY)
				if err != nil {
					t.Fatal(err)
				}
				defer f.Close()
				for _, read := range []struct {
					off  int64
					len  int
					want string
				}{{0, 10, "0123456789"}, {4, 3, "456"}, {4, 10, "456789"}, {10, 4, ""}, {11, 4, ""}, {1 << 40, 1, ""}} {
					ffs.set(nil)
					if test.err != nil && read.want == "" {
						ffs.set(failing("read", "/a", test.err))
					}
					p := make([]byte, read.len)
					n, err := f.ReadAt(p, read.off)
					var want error
					if n < read.len {
						want = io.EOF
					}
					if got := string(p[:n]); got != read.want || err != want {
						t.Errorf("ReadAt(%d, %d) = %q, %v; want %q, %v", read.len, read.off, got, err, read.want, want)
					}
				}
			})
		})
	}
}

// SQLite looks at the header of a database before it takes a lock. What it
// finds at the end may be no longer the end.
func TestReadWhileGrowing(t *testing.T) {
	ffs := &faultFs{Fs: afero.NewMemMapFs()}
	writeFile(t, ffs, "/a", []byte("0123"))
	f, _, err := vfs.Find(register(t, ffs)).Open("/a", vfs.OPEN_MAIN_DB|vfs.OPEN_READONLY)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	first := true
	ffs.set(func(op, path string) error {
		if op != "read" || !first {
			return nil
		}
		first = false
		if err := afero.WriteFile(ffs.Fs, path, []byte("0123456789"), 0o600); err != nil {
			t.Error(err)
		}
		return io.EOF // as it was
	})
	p := make([]byte, 8)
	if n, err := f.ReadAt(p, 4); string(p[:n]) != "456789" || err != io.EOF {
		t.Errorf("got %q, %v, want the end of the longer file", p[:n], err)
	}
}

// Reads that give less than was asked for are continued.
func TestShortReads(t *testing.T) {
	eachFs(t, func(t *testing.T, fsys afero.Fs) {
		ffs := &faultFs{Fs: fsys}
		c := open(t, uri(register(t, ffs), "/a.db", "_pragma", "cache_size(1)"))
		exec(t, c, fillSQL)
		ffs.set(failing("read", "/a.db", errShort))
		if got := value(t, c, "PRAGMA integrity_check"); got != "ok" {
			t.Errorf("integrity_check: %s", got)
		}
		exec(t, c, "UPDATE t SET v=randomblob(200)")
	})
}
