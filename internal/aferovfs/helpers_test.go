package aferovfs_test

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/ncruces/go-sqlite3"
	"github.com/spf13/afero"

	"github.com/atocore/backup/internal/aferovfs"
)

// eachFs runs a test on a file system in memory and on one of the operating
// system.
func eachFs(t *testing.T, test func(t *testing.T, fsys afero.Fs)) {
	t.Run("mem", func(t *testing.T) { test(t, afero.NewMemMapFs()) })
	t.Run("os", func(t *testing.T) { test(t, afero.NewBasePathFs(afero.NewOsFs(), t.TempDir())) })
}

// No test may leave a lock behind.
func TestMain(m *testing.M) {
	code := m.Run()
	if n := aferovfs.LockedFiles(); n != 0 {
		fmt.Fprintf(os.Stderr, "%d files are left in the lock table\n", n)
		code = 1
	}
	os.Exit(code)
}

// register registers fsys until the end of the test, when no failure may have
// gone unnoticed.
func register(t *testing.T, fsys afero.Fs) string {
	t.Helper()
	name, unregister := aferovfs.Register(fsys)
	t.Cleanup(func() {
		if err := unregister(); err != nil {
			t.Errorf("unregister: %v", err)
		}
	})
	return name
}

// uri names the database at path of the VFS. Params are pairs.
func uri(vfs, path string, params ...string) string {
	q := url.Values{"vfs": {vfs}}
	for i := 0; i < len(params); i += 2 {
		q.Add(params[i], params[i+1])
	}
	u := url.URL{Scheme: "file", Path: path, RawQuery: q.Encode()}
	if !strings.HasPrefix(path, "/") {
		u.Path, u.Opaque = "", url.PathEscape(path)
	}
	return u.String()
}

func open(t *testing.T, uri string) *sqlite3.Conn {
	t.Helper()
	c, err := sqlite3.Open(uri)
	if err != nil {
		t.Fatalf("open %s: %v", uri, err)
	}
	t.Cleanup(func() { closeConn(t, c) })
	return c
}

func closeConn(t *testing.T, c *sqlite3.Conn) {
	t.Helper()
	if err := c.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
}

func exec(t *testing.T, c *sqlite3.Conn, sql string) {
	t.Helper()
	if err := c.Exec(sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// query returns the first column of the rows, as text.
func query(c *sqlite3.Conn, sql string) (rows []string, err error) {
	s, _, err := c.Prepare(sql)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	for s.Step() {
		rows = append(rows, s.ColumnText(0))
	}
	return rows, s.Err()
}

// value is the single value of a query.
func value(t *testing.T, c *sqlite3.Conn, sql string) string {
	t.Helper()
	rows, err := query(c, sql)
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	if len(rows) != 1 {
		t.Fatalf("%s: got rows %q, want one", sql, rows)
	}
	return rows[0]
}

func readFile(t *testing.T, fsys afero.Fs, path string) []byte {
	t.Helper()
	b, err := afero.ReadFile(fsys, path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func writeFile(t *testing.T, fsys afero.Fs, path string, b []byte) {
	t.Helper()
	if err := afero.WriteFile(fsys, path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func exists(t *testing.T, fsys afero.Fs, path string) bool {
	t.Helper()
	ok, err := afero.Exists(fsys, path)
	if err != nil {
		t.Fatal(err)
	}
	return ok
}

// fillSQL makes a table of about 100 kB and leaves the cache small, so that
// reading it means reading the file.
const fillSQL = `
	PRAGMA page_size=1024;
	CREATE TABLE t(id INTEGER PRIMARY KEY, v BLOB);
	CREATE INDEX i ON t(v);
	WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<200)
	INSERT INTO t SELECT i, randomblob(200) FROM n;`

// A faultFs asks fault before each operation; its error is what the operation
// fails with, if it is none of those that say otherwise. A faultFs can be
// compared to others only by address.
type faultFs struct {
	afero.Fs

	hook func(op, path string) error // the same, side by side

	mu    sync.Mutex
	fault func(op, path string) error
	ops   []string
}

var (
	errShort   = errors.New("do half of it, and call that success")
	errNothing = errors.New("do nothing, and call that success")
)

// eio is what the operating system returns from a broken disk.
func eio(op, path string) error { return &fs.PathError{Op: op, Path: path, Err: syscall.EIO} }

func (f *faultFs) check(op, path string) error {
	if f.hook != nil {
		if err := f.hook(op, path); err != nil {
			return err
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ops = append(f.ops, op+" "+path)
	if f.fault == nil {
		return nil
	}
	return f.fault(op, path)
}

// set replaces the fault and forgets the operations so far.
func (f *faultFs) set(fault func(op, path string) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fault, f.ops = fault, nil
}

// failing fails one kind of operation on one path.
func failing(op, path string, err error) func(op, path string) error {
	return func(o, p string) error {
		if o == op && filepath.ToSlash(p) == path {
			return err
		}
		return nil
	}
}

func (f *faultFs) Open(name string) (afero.File, error) { return f.OpenFile(name, os.O_RDONLY, 0) }

func (f *faultFs) OpenFile(name string, flag int, perm os.FileMode) (afero.File, error) {
	if err := f.check("open", name); err != nil {
		return nil, err
	}
	file, err := f.Fs.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return &faultFile{File: file, fs: f, path: name}, nil
}

func (f *faultFs) Remove(name string) error {
	if err := f.check("remove", name); err != nil {
		return err
	}
	return f.Fs.Remove(name)
}

func (f *faultFs) Stat(name string) (os.FileInfo, error) {
	if err := f.check("stat", name); err != nil {
		return nil, err
	}
	return f.Fs.Stat(name)
}

type faultFile struct {
	afero.File
	fs   *faultFs
	path string
}

func (f *faultFile) ReadAt(p []byte, off int64) (int, error) {
	switch err := f.fs.check("read", f.path); err {
	case nil:
		return f.File.ReadAt(p, off)
	case errShort:
		n, err := f.File.ReadAt(p[:(len(p)+1)/2], off)
		if errors.Is(err, io.EOF) && n > 0 {
			err = nil
		}
		return n, err
	case errNothing:
		return 0, nil
	default:
		return 0, err
	}
}

func (f *faultFile) WriteAt(p []byte, off int64) (int, error) {
	switch err := f.fs.check("write", f.path); err {
	case nil:
		return f.File.WriteAt(p, off)
	case errShort:
		return f.File.WriteAt(p[:len(p)/2], off)
	default:
		return 0, err
	}
}

func (f *faultFile) Truncate(size int64) error {
	if err := f.fs.check("truncate", f.path); err != nil {
		return err
	}
	return f.File.Truncate(size)
}

func (f *faultFile) Sync() error {
	if err := f.fs.check("sync", f.path); err != nil {
		return err
	}
	return f.File.Sync()
}

func (f *faultFile) Stat() (os.FileInfo, error) {
	if err := f.fs.check("fstat", f.path); err != nil {
		return nil, err
	}
	return f.File.Stat()
}

func (f *faultFile) Close() error {
	return errors.Join(f.fs.check("close", f.path), f.File.Close())
}
