package drivers

import (
	"context"
	"database/sql"
	"fmt"
	"net/url"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	_ "modernc.org/sqlite"
)

// A driver is one that a host may have linked in.
type driver struct {
	name string // of database/sql
	dsn  func(patience int) string
}

// drivers are those that this build has: modernc's and, with cgo, mattn's.
var drivers = append([]driver{{"sqlite", func(patience int) string {
	return fmt.Sprintf("_pragma=busy_timeout(%d)", patience)
}}}, mattn...)

// open opens a database, which it makes if there is none. A connection waits
// for patience milliseconds where another has it locked.
func (d driver) open(path string, patience int) (*sql.DB, error) {
	uri := url.URL{Scheme: "file", OmitHost: true, Path: filepath.ToSlash(path), RawQuery: d.dsn(patience)}
	return sql.Open(d.name, uri.String())
}

func driverCalled(name string) (driver, error) {
	for _, d := range drivers {
		if d.name == name {
			return d, nil
		}
	}
	return driver{}, fmt.Errorf("no driver %q", name)
}

// The ways in which SQLite keeps a transaction atomic:
// https://sqlite.org/pragma.html#pragma_journal_mode.
const (
	wal      = "wal"
	rollback = "delete"
)

// eachHost runs a test with every driver, in both modes.
func eachHost(t *testing.T, test func(t *testing.T, d driver, mode string)) {
	for _, d := range drivers {
		for _, mode := range []string{wal, rollback} {
			t.Run(d.name+"/"+mode, func(t *testing.T) { test(t, d, mode) })
		}
	}
}

// sidecars are what is appended to the name of a database for those of its
// files that outlive a transaction, itself first.
var sidecars = []string{"", "-wal", "-shm"}

// A host is a service with a live database. Each of its transactions adds
// one to the only row of each of two tables and leaves a row in a third:
// a copy that is torn shows it.
type host struct {
	driver
	path string
	db   *sql.DB

	begun     atomic.Int64 // commits that were tried
	committed atomic.Int64 // commits that have returned
}

const hostSchema = `
	CREATE TABLE a (n INTEGER);
	CREATE TABLE b (n INTEGER);
	CREATE TABLE log (id INTEGER PRIMARY KEY, pad BLOB);
	CREATE TABLE filler (x BLOB);
	INSERT INTO a VALUES (0);
	INSERT INTO b VALUES (0);
	WITH RECURSIVE c (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < 500)
		INSERT INTO filler SELECT randomblob(2000) FROM c;`

// A commit, in two halves.
const (
	beginCommit = `BEGIN IMMEDIATE; UPDATE a SET n = n + 1; INSERT INTO log (pad) VALUES (randomblob(3000))`
	endCommit   = `UPDATE b SET n = n + 1; COMMIT`
)

// A commit that reads first, and takes its time.
const (
	beginReading = `BEGIN; SELECT n FROM a; SELECT n FROM b; SELECT id FROM log`
	endReading   = `UPDATE a SET n = n + 1; INSERT INTO log (pad) VALUES (randomblob(3000)); ` + endCommit
)

// patience is what a host waits for a lock, in milliseconds: on a machine
// that has much else to do, too.
const patience = 60_000

// startHost makes a database and connects to it.
func startHost(t *testing.T, d driver, mode, path string) *host {
	t.Helper()
	h, err := newHost(t.Context(), d, mode, path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.db.Close() }) // again, in most tests
	return h
}

func newHost(ctx context.Context, d driver, mode, path string) (*host, error) {
	db, err := d.open(path, patience)
	if err != nil {
		return nil, err
	}
	h := &host{driver: d, path: path, db: db}
	if _, err := db.ExecContext(ctx, "PRAGMA journal_mode="+mode+";"+hostSchema); err != nil {
		return nil, err
	}
	return h, h.warm(ctx)
}

// reopen connects to the database again, once it was closed.
func (h *host) reopen(t *testing.T) {
	t.Helper()
	db, err := h.open(h.path, patience)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	h.db = db
	if err := h.warm(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// pool is how many connections a host keeps.
const pool = 4

// warm opens all connections that the host will ever have. They stay open,
// idle, so that whatever opens the database from then on is somebody else.
func (h *host) warm(ctx context.Context) error {
	h.db.SetMaxOpenConns(pool)
	h.db.SetMaxIdleConns(pool)
	for range pool {
		conn, err := h.db.Conn(ctx)
		if err != nil {
			return err
		}
		defer conn.Close() // back into the pool
		var n int
		if err := conn.QueryRowContext(ctx, "SELECT n FROM a").Scan(&n); err != nil {
			return err
		}
	}
	return nil
}

// commit makes one transaction.
func (h *host) commit(ctx context.Context) error {
	h.begun.Add(1)
	conn, err := h.db.Conn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := conn.ExecContext(ctx, beginCommit+";"+endCommit); err != nil {
		conn.ExecContext(ctx, "ROLLBACK") // the first error is the one to tell
		return err
	}
	h.committed.Add(1)
	return nil
}

// write commits until it is stopped. It returns when there is a first
// commit.
func (h *host) write(t *testing.T) (stop func()) {
	t.Helper()
	if err := h.commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
			}
			if err := h.commit(context.WithoutCancel(t.Context())); err != nil {
				t.Errorf("commit: %v", err)
				return
			}
		}
	})
	return sync.OnceFunc(func() {
		close(done)
		wg.Wait()
	})
}

// hold begins a transaction on a connection of its own and leaves it open.
func (h *host) hold(t *testing.T, sql string) *sql.Conn {
	t.Helper()
	conn, err := h.db.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	execConn(t, conn, sql)
	return conn
}

func execConn(t *testing.T, conn *sql.Conn, sql string) {
	t.Helper()
	if _, err := conn.ExecContext(t.Context(), sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// An account is what the tables say of a host's commits.
type account struct {
	A, B, Log int64
	Check     string // integrity_check
}

const accountQuery = `SELECT (SELECT n FROM a), (SELECT n FROM b), (SELECT count(*) FROM log)`

// sound is the account of a database with n commits.
func sound(n int64) account { return account{n, n, n, "ok"} }

// account reads what there is through the host's driver.
func (h *host) account(t *testing.T) account {
	t.Helper()
	a, err := readAccount(t.Context(), h.db)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func readAccount(ctx context.Context, db *sql.DB) (a account, err error) {
	if err := db.QueryRowContext(ctx, accountQuery).Scan(&a.A, &a.B, &a.Log); err != nil {
		return a, err
	}
	err = db.QueryRowContext(ctx, "PRAGMA integrity_check").Scan(&a.Check)
	return a, err
}

// reopened closes the host's connections and reads the database anew.
func (h *host) reopened(t *testing.T) account {
	t.Helper()
	if err := h.db.Close(); err != nil {
		t.Fatal(err)
	}
	return accountOf(t, h.driver, h.path)
}

// accountOf reads a database that nobody in this process has open.
func accountOf(t *testing.T, d driver, path string) account {
	t.Helper()
	db, err := d.open(path, patience)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	a, err := readAccount(t.Context(), db)
	if err != nil {
		t.Fatal(err)
	}
	return a
}
