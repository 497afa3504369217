package backup

import (
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"reflect"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
)

// POSIX locks belong to the process, and closing any handle on a file drops
// all that the process has on it: see "POSIX advisory locks" in
// https://sqlite.org/howtocorrupt.html. If the host has a database open
// through a driver that uses them, our opening and closing it would unlock
// it, and committed rows would be lost. The driver that this library uses
// takes open file description locks instead, which do not interfere.

// foreignDrivers are modules that bring SQLite's own locking.
var foreignDrivers = []string{
	"crawshaw.io/sqlite",
	"github.com/glebarez/go-sqlite",
	"github.com/mattn/go-sqlite3",
	"gitlab.com/cznic/sqlite",
	"modernc.org/sqlite",
	"zombiezen.com/go/sqlite",
}

// foreignDriverLinked reports whether this program has such a driver in it,
// as far as that can be told: by the modules that it was built of, which go
// test does not record, or by what is registered with database/sql.
var foreignDriverLinked = sync.OnceValue(func() bool {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, module := range info.Deps {
			if isForeignModule(module.Path) {
				return true
			}
		}
	}
	return slices.ContainsFunc(sql.Drivers(), isForeignDriver)
})

// isForeignDriver reports whether a driver of database/sql is of one of those
// modules. Opening it connects to nothing, but others are not ours to wake.
func isForeignDriver(name string) bool {
	if !strings.Contains(name, "sqlite") {
		return false
	}
	db, err := sql.Open(name, "")
	if err != nil {
		return false
	}
	defer db.Close() // nothing was connected
	t := reflect.TypeOf(db.Driver())
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	return isForeignModule(t.PkgPath())
}

// isForeignModule reports whether the path of a module, or of a package, is
// that of such a driver.
func isForeignModule(path string) bool {
	return slices.ContainsFunc(foreignDrivers, func(module string) bool {
		return path == module || strings.HasPrefix(path, module+"/")
	})
}

// A heldFiles knows the files of this process that must not be opened.
type heldFiles struct {
	files map[any]bool // by fileID
	short error        // the shortage for which not all are known
}

// none reports whether there are none, as far as can be told.
func (h heldFiles) none() bool { return len(h.files) == 0 && h.short == nil }

// check refuses to open a file that another driver has, or may have.
func (h heldFiles) check(p place) error {
	if h.none() {
		return nil
	}
	if h.short != nil {
		return fmt.Errorf("find out which files this process has locked: %w", h.short)
	}
	fi, err := p.lstat()
	if err != nil || !fi.isNative {
		return nil // to be told by who opens it
	}
	if h.files[fileID(fi, p.full())] {
		return &fs.PathError{Op: "open", Path: p.full(), Err: ErrForeignDriver}
	}
	return nil
}

// unseen returns what is known of a file that is about to be opened: where a
// wrong one must not be, that is nothing, lest a link is followed that has taken
// its place since.
func (h heldFiles) unseen(fi fileInfo) fileInfo {
	if !h.none() {
		fi.isNative = false
	}
	return fi
}

// checkDatabase refuses to open a database that another driver has, or the
// index of whose WAL it has locked: opening the one opens the other. No other
// sidecar is ever locked.
func (h heldFiles) checkDatabase(p place) error {
	return errors.Join(h.check(p), h.check(p.beside("-shm")))
}
