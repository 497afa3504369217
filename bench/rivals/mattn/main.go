//go:build cgo

// Command mattn copies a database by the online backup of mattn/go-sqlite3,
// as a process that the command bench measures. Without cgo that driver is a
// stub.
package main

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/atocore/backup/bench/internal/measured"
	"github.com/mattn/go-sqlite3"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 3 {
		return errors.New("want FROM, TO, and copy or validate")
	}
	from, to, validate := args[0], args[1], args[2] == "validate"
	return measured.Run(os.Stdout, func(*measured.Report) error {
		if err := onlineBackup(context.Background(), from, to); err != nil {
			return err
		}
		if validate {
			if err := check(to); err != nil {
				return err
			}
			if err := digest(to); err != nil {
				return err
			}
		}
		return measured.SyncFile(to)
	})
}

// onlineBackup copies a database in one step, as one that is written to
// meanwhile has to be: after a commit of another process, the next step would
// begin anew.
func onlineBackup(ctx context.Context, from, to string) error {
	return withConn(ctx, from, func(source *sqlite3.SQLiteConn) error {
		return withConn(ctx, to, func(target *sqlite3.SQLiteConn) error {
			b, err := target.Backup("main", source, "main")
			if err != nil {
				return err
			}
			done, err := b.Step(-1)
			if err == nil && !done {
				err = errors.New("backup: not done after all pages")
			}
			return errors.Join(err, b.Finish())
		})
	})
}

// withConn opens a database and passes on the driver's own connection.
func withConn(ctx context.Context, path string, do func(*sqlite3.SQLiteConn) error) (err error) {
	db, err := sql.Open("sqlite3", "file:"+path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	conn, err := db.Conn(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	return conn.Raw(func(driverConn any) error { return do(driverConn.(*sqlite3.SQLiteConn)) })
}

func check(path string) (err error) {
	db, err := sql.Open("sqlite3", "file:"+path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	var verdict string
	if err := db.QueryRow(`PRAGMA integrity_check`).Scan(&verdict); err != nil {
		return err
	}
	if verdict != "ok" {
		return fmt.Errorf("integrity_check: %s", verdict)
	}
	return nil
}

func digest(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close() // only read
	_, err = io.Copy(sha256.New(), f)
	return err
}
