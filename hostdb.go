package backup

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"os"
	"reflect"
	"time"

	"github.com/ncruces/go-sqlite3"
)

// hostConn takes a connection from the host's pool, if one is free soon enough: the
// writers of other databases may have to wait for as long.
func hostConn(ctx context.Context, db *sql.DB, patience time.Duration) (*sql.Conn, error) {
	soon, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	conn, err := db.Conn(soon)
	if err != nil && soon.Err() != nil && ctx.Err() == nil {
		return nil, fmt.Errorf("%w: no connection of its DB is free: let the pool have one more than the service and Quiesce hold", ErrBusy)
	}
	return conn, err
}

// vacuumInto copies, through the host's own driver, the database whose file
// is want, and reports whether it is in WAL mode. It waits for a lock as long
// as we would, whatever the host's connections do: modernc's by default wait
// not at all, and any commit in rollback mode would fail the copy.
func vacuumInto(ctx context.Context, conn *sql.Conn, want fileInfo, native string, patience time.Duration) (wal bool, err error) {
	var before int64
	if err := conn.QueryRowContext(ctx, "PRAGMA busy_timeout").Scan(&before); err != nil {
		return false, err
	}
	if err := setBusyTimeout(ctx, conn, patience.Milliseconds()); err != nil {
		return false, err
	}
	defer func() {
		if setBusyTimeout(context.WithoutCancel(ctx), conn, before) != nil {
			conn.Raw(func(any) error { return driver.ErrBadConn }) // the pool makes another
		}
	}()
	if err := checkFile(ctx, conn, want); err != nil {
		return false, err
	}
	var mode string
	if err := conn.QueryRowContext(ctx, "PRAGMA journal_mode").Scan(&mode); err != nil {
		return false, err
	}
	_, err = conn.ExecContext(ctx, "VACUUM INTO ?", native)
	return mode == "wal", err
}

// checkFile refuses a DB that is open on another file than the source's.
func checkFile(ctx context.Context, conn *sql.Conn, want fileInfo) error {
	if !want.isNative {
		return nil // it has no identity
	}
	var name string
	err := conn.QueryRowContext(ctx, "SELECT file FROM pragma_database_list WHERE name = 'main'").Scan(&name)
	if err != nil {
		return err
	}
	got, err := os.Stat(name)
	if err != nil || !newFileInfo(got).sameFile(want) {
		return fmt.Errorf("its DB is open on %q, which is not its path", name)
	}
	return nil
}

func setBusyTimeout(ctx context.Context, conn *sql.Conn, ms int64) error {
	_, err := conn.ExecContext(ctx, fmt.Sprintf("PRAGMA busy_timeout = %d", ms))
	return err
}

// hostBusy is explain for the errors of any driver, each of which has its
// own way to carry SQLite's result code: modernc's a method Code, mattn's a
// field. See https://sqlite.org/rescode.html.
func hostBusy(err error) error {
	const primary = 0xff // the rest says more
	for e := err; e != nil; e = errors.Unwrap(e) {
		code := 0
		if coder, ok := e.(interface{ Code() int }); ok {
			code = coder.Code()
		} else if v := reflect.Indirect(reflect.ValueOf(e)); v.Kind() == reflect.Struct {
			if f := v.FieldByName("Code"); f.IsValid() && f.CanInt() {
				code = int(f.Int())
			}
		}
		if code &= primary; code == int(sqlite3.BUSY) || code == int(sqlite3.LOCKED) {
			return fmt.Errorf("%w: %w", ErrBusy, err)
		}
	}
	return explain(err)
}
