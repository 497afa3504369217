package drivers

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/ncruces/go-sqlite3"

	"github.com/atocore/backup"
)

// A state is what a host is doing while a snapshot is taken.
type state struct {
	name string

	// begin puts the host in the state, and returns what ends it.
	begin func(t *testing.T, h *host) (end func())

	// try is SQL that another process runs before and after, and want what
	// it gets in each mode: "busy" where the host has a lock.
	try  string
	want map[string]string
}

// wholeDatabase wants to be alone, and changes nothing. In WAL mode an idle
// connection stands in its way, in rollback mode one within a transaction.
const wholeDatabase = "PRAGMA locking_mode=EXCLUSIVE; BEGIN EXCLUSIVE"

var states = []state{
	{
		name:  "idle",
		begin: func(*testing.T, *host) func() { return func() {} },
		try:   wholeDatabase,
		want:  map[string]string{wal: "busy", rollback: "done"},
	},
	{
		name: "reading",
		begin: func(t *testing.T, h *host) func() {
			conn := h.hold(t, "BEGIN; SELECT n FROM a")
			return func() { execConn(t, conn, "COMMIT") }
		},
		try:  wholeDatabase,
		want: map[string]string{wal: "busy", rollback: "busy"},
	},
	{
		name: "writing",
		begin: func(t *testing.T, h *host) func() {
			conn := h.hold(t, beginCommit)
			return func() {
				execConn(t, conn, endCommit)
				h.begun.Add(1)
				h.committed.Add(1)
			}
		},
		try:  "BEGIN IMMEDIATE",
		want: map[string]string{wal: "busy", rollback: "busy"},
	},
}

func eachState(t *testing.T, test func(t *testing.T, h *host, st state, mode string)) {
	for _, st := range states {
		t.Run(st.name, func(t *testing.T) {
			eachHost(t, func(t *testing.T, d driver, mode string) {
				h := startHost(t, d, mode, filepath.Join(t.TempDir(), "app.db"))
				test(t, h, st, mode)
			})
		})
	}
}

// A drill is a store with a host's database and a file in it, of which the
// file is copied last.
type drill struct {
	dir   string
	store *backup.Store

	whileCopying func() // called once the database is copied, and before the file is; may be nil
}

func newDrill(t *testing.T, sources ...backup.Source) *drill {
	t.Helper()
	file := filepath.Join(t.TempDir(), "registry.json")
	if err := os.WriteFile(file, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	d := &drill{dir: filepath.Join(t.TempDir(), "backups")}
	sources = append(sources, backup.Source{Name: "registry", Kind: backup.File, Path: file})
	once := sync.OnceFunc(func() {
		if d.whileCopying != nil {
			d.whileCopying()
		}
	})
	var err error
	d.store, err = backup.New(backup.Config{
		Dir: d.dir, Sources: sources, BusyTimeout: time.Minute,
		Progress: func(p backup.Progress) {
			if p.Source == "registry" {
				once()
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// create takes a snapshot, which must be good.
func (d *drill) create(t *testing.T) *backup.Snapshot {
	t.Helper()
	snap, err := d.store.Create(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if !snap.Validated {
		t.Fatalf("not validated: %v", snap.Problems)
	}
	report, err := d.store.Validate(t.Context(), snap.Stamp, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := report.Err(); err != nil {
		t.Fatal(err)
	}
	return snap
}

// refused asserts that Create is refused as a danger to another driver's
// locks, and that it leaves nothing behind.
func (d *drill) refused(t *testing.T) {
	t.Helper()
	snap, err := d.store.Create(t.Context(), nil)
	if !errors.Is(err, backup.ErrForeignDriver) {
		t.Fatalf("Create: got %v, %v, want %v", snap, err, backup.ErrForeignDriver)
	}
	if _, err := os.Stat(d.dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a refused Create has left %s: %v", d.dir, err)
	}
}

// TestCreate: with Source.DB, a snapshot of a live database of another
// driver is good, and the host's locks are what they were.
func TestCreate(t *testing.T) {
	eachState(t, func(t *testing.T, h *host, st state, mode string) {
		commit(t, h)
		d := newDrill(t, h.source())
		end := st.begin(t, h)
		before := heldLocks(t, h.path)
		if got := h.try(t, st.try); got != st.want[mode] {
			t.Fatalf("%s in another process: %s, want %s", st.try, got, st.want[mode])
		}

		w := newWatch(t, h.path)
		d.whileCopying = func() { checkLocks(t, "during Create", h, before) }
		snap := d.create(t)
		if events := w.seen(); len(events) > 0 {
			t.Errorf("during Create: %q, want the host's files left alone", events)
		}
		checkLocks(t, "after Create", h, before)
		if got := h.try(t, st.try); got != st.want[mode] {
			t.Errorf("after Create: %s in another process: %s, want %s", st.try, got, st.want[mode])
		}

		checkCopy(t, snapshotFile(d.dir, snap, "db/app.db"), mode, 1, 1)
		end()
		commit(t, h)
		if diff := cmp.Diff(h.reopened(t), sound(h.committed.Load())); diff != "" {
			t.Errorf("the host's database (-got +want):\n%s", diff)
		}
	})
}

// TestCreateWhileWriting: the host commits all the while.
func TestCreateWhileWriting(t *testing.T) {
	eachHost(t, func(t *testing.T, driver driver, mode string) {
		h := startHost(t, driver, mode, filepath.Join(t.TempDir(), "app.db"))
		d := newDrill(t, h.source())
		stop := h.write(t)
		defer stop()
		for range 3 {
			least := h.committed.Load()
			w := newWatch(t, h.path)
			snap := d.create(t)
			if events := w.seen(); len(events) > 0 {
				t.Errorf("during Create: %q, want the host's files left alone", events)
			}
			checkCopy(t, snapshotFile(d.dir, snap, "db/app.db"), mode, least, h.begun.Load())
		}
		stop()
		if diff := cmp.Diff(h.reopened(t), sound(h.committed.Load())); diff != "" {
			t.Errorf("the host's database (-got +want):\n%s", diff)
		}
	})
}

// TestCreateUnderExclusiveLock: what holds readers off holds Create off too,
// in rollback mode, and it says so; there is no way around the lock. In WAL
// mode nothing holds readers off.
func TestCreateUnderExclusiveLock(t *testing.T) {
	eachHost(t, func(t *testing.T, driver driver, mode string) {
		h := startHost(t, driver, mode, filepath.Join(t.TempDir(), "app.db"))
		impatient := h.impatient(t)
		conn := h.hold(t, "BEGIN EXCLUSIVE")
		src := h.source()
		src.DB = impatient
		s, err := backup.New(backup.Config{
			Dir: filepath.Join(t.TempDir(), "backups"), Sources: []backup.Source{src}, BusyTimeout: time.Millisecond,
		})
		if err != nil {
			t.Fatal(err)
		}
		_, err = s.Create(t.Context(), nil)
		if want := map[string]error{rollback: backup.ErrBusy}[mode]; !errors.Is(err, want) {
			t.Errorf("got %v, want %v", err, want)
		}
		execConn(t, conn, "ROLLBACK")
		if _, err := s.Create(t.Context(), nil); err != nil {
			t.Errorf("after it: %v", err)
		}
	})
}

// TestCreateWaitsForWriter: a host whose connections wait for no lock, as
// modernc's do by default, has Create wait all the same.
func TestCreateWaitsForWriter(t *testing.T) {
	eachHost(t, func(t *testing.T, driver driver, mode string) {
		h := startHost(t, driver, mode, filepath.Join(t.TempDir(), "app.db"))
		impatient := h.impatient(t)
		src := h.source()
		src.DB = impatient
		d := newDrill(t, src)
		stop := h.write(t)
		defer stop()
		for range 4 {
			least := h.committed.Load()
			snap := d.create(t)
			checkCopy(t, snapshotFile(d.dir, snap, "db/app.db"), mode, least, h.begun.Load())
		}
		var timeout int
		if err := impatient.QueryRowContext(t.Context(), "PRAGMA busy_timeout").Scan(&timeout); err != nil {
			t.Fatal(err)
		}
		if timeout != 0 {
			t.Errorf("the host's connection waits %d ms for a lock now, want 0", timeout)
		}
	})
}

// impatient returns a pool of one connection that waits for no lock.
func (h *host) impatient(t *testing.T) *sql.DB {
	t.Helper()
	db, err := h.open(h.path, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	db.SetMaxOpenConns(1)
	if err := db.PingContext(t.Context()); err != nil { // mattn's needs a lock to connect
		t.Fatal(err)
	}
	return db
}

// TestCreateWithoutFreeConnection: a host that has none to spare keeps
// Create waiting until its context is done.
func TestCreateWithoutFreeConnection(t *testing.T) {
	eachHost(t, func(t *testing.T, driver driver, mode string) {
		h := startHost(t, driver, mode, filepath.Join(t.TempDir(), "app.db"))
		h.db.SetMaxOpenConns(1)
		h.hold(t, "BEGIN")
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		d := newDrill(t, h.source())
		if _, err := d.store.Create(ctx, nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want %v", err, context.DeadlineExceeded)
		}
		checkEmpty(t, d)
	})
}

// TestCreateCancelled: VACUUM INTO ends when Create's context does.
func TestCreateCancelled(t *testing.T) {
	eachHost(t, func(t *testing.T, driver driver, mode string) {
		h := startHost(t, driver, mode, filepath.Join(t.TempDir(), "app.db"))
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		before := heldLocks(t, h.path)
		src := h.source()
		src.Quiesce = func(context.Context) (func(), error) {
			go cancel() // at some moment of what follows
			return nil, nil
		}
		d := newDrill(t, src)
		_, err := d.store.Create(ctx, nil)
		if err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, want %v", err, context.Canceled)
		}
		if err != nil {
			checkEmpty(t, d)
		}
		checkLocks(t, "after Create", h, before)
		commit(t, h)
		if diff := cmp.Diff(h.account(t), sound(1)); diff != "" {
			t.Errorf("the host's database (-got +want):\n%s", diff)
		}
	})
}

// TestCreateOddNames: SQL and URIs have characters of their own, and so do
// the names of directories.
func TestCreateOddNames(t *testing.T) {
	for _, name := range []string{"it's", `"x"`, "a?b=c&d", "50%20off#", "file:x", ":memory:", "-n", "ü"} {
		t.Run(url.PathEscape(name), func(t *testing.T) {
			eachHost(t, func(t *testing.T, driver driver, mode string) {
				parent := filepath.Join(t.TempDir(), name)
				if err := os.Mkdir(parent, 0o700); err != nil {
					t.Skip(err)
				}
				h := startHost(t, driver, mode, filepath.Join(parent, "app.db"))
				commit(t, h)
				s, err := backup.New(backup.Config{Dir: filepath.Join(parent, "backups"), Sources: []backup.Source{h.source()}})
				if err != nil {
					t.Fatal(err)
				}
				d := &drill{dir: filepath.Join(parent, "backups"), store: s}
				snap := d.create(t)
				checkCopy(t, snapshotFile(d.dir, snap, "db/app.db"), mode, 1, 1)
			})
		})
	}
}

// TestCreateWrongDB: a DB that is on another file than Path is a mistake
// that must not wait for a restore to be found.
func TestCreateWrongDB(t *testing.T) {
	eachHost(t, func(t *testing.T, driver driver, mode string) {
		h := startHost(t, driver, mode, filepath.Join(t.TempDir(), "app.db"))
		other := startHost(t, driver, mode, filepath.Join(t.TempDir(), "other.db"))
		src := h.source()
		src.DB = other.db
		d := newDrill(t, src)
		if snap, err := d.store.Create(t.Context(), nil); err == nil {
			t.Errorf("got snapshot %s of another database than %s", snap.Stamp, h.path)
		}
	})
}

func commit(t *testing.T, h *host) {
	t.Helper()
	if err := h.commit(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func checkLocks(t *testing.T, when string, h *host, want []string) {
	t.Helper()
	if diff := cmp.Diff(heldLocks(t, h.path), want); diff != "" {
		t.Errorf("%s, the host's locks (-got +want):\n%s", when, diff)
	}
}

func checkEmpty(t *testing.T, d *drill) {
	t.Helper()
	found, err := d.store.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(found) > 0 {
		t.Errorf("left behind: %+v", found)
	}
}

// checkCopy asserts that a copy is of one instant, between so many commits
// and so many, and that it is of the mode of its source. Nobody else has it
// open.
func checkCopy(t *testing.T, path, mode string, least, most int64) {
	t.Helper()
	versions := make([]byte, 2)
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.ReadAt(versions, 18); err != nil && err != io.EOF {
		t.Fatal(err)
	}
	// https://sqlite.org/fileformat.html#file_format_version_numbers
	if diff := cmp.Diff(versions, map[string][]byte{wal: {2, 2}, rollback: {1, 1}}[mode]); diff != "" {
		t.Errorf("versions in the header of a copy (-got +want):\n%s", diff)
	}
	got, err := copyAccount(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(got, sound(got.A)); diff != "" {
		t.Errorf("copy (-got +want):\n%s", diff)
	}
	if got.A < least || got.A > most {
		t.Errorf("copy has %d commits, want %d to %d", got.A, least, most)
	}
}

// copyAccount reads a copy, without a lock or a sidecar.
func copyAccount(path string) (a account, err error) {
	c, err := sqlite3.Open((&url.URL{Scheme: "file", OmitHost: true, Path: path, RawQuery: "immutable=1"}).String())
	if err != nil {
		return a, err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	err = scanRow(c, accountQuery, func(s *sqlite3.Stmt) {
		a.A, a.B, a.Log = s.ColumnInt64(0), s.ColumnInt64(1), s.ColumnInt64(2)
	})
	if err != nil {
		return a, err
	}
	err = scanRow(c, "PRAGMA integrity_check", func(s *sqlite3.Stmt) { a.Check = s.ColumnText(0) })
	return a, err
}

func scanRow(c *sqlite3.Conn, query string, scan func(*sqlite3.Stmt)) error {
	stmt, _, err := c.Prepare(query)
	if err != nil {
		return err
	}
	if stmt.Step() {
		scan(stmt)
	}
	if err := errors.Join(stmt.Err(), stmt.Close()); err != nil {
		return fmt.Errorf("%s: %w", query, err)
	}
	return nil
}
