package backup

import (
	"database/sql"
	"fmt"
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
// as far as that can be told.
var foreignDriverLinked = sync.OnceValue(func() bool {
	if slices.ContainsFunc(sql.Drivers(), isForeignDriver) {
		return true
	}
	info, ok := debug.ReadBuildInfo()
	return ok && slices.ContainsFunc(info.Deps, func(m *debug.Module) bool {
		return isForeignModule(m.Path)
	})
})

// isForeignDriver reports whether a driver of database/sql is of one of those
// modules. Opening it connects to nothing.
func isForeignDriver(name string) bool {
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

func isForeignModule(path string) bool {
	return slices.ContainsFunc(foreignDrivers, func(module string) bool {
		return path == module || strings.HasPrefix(path, module+"/")
	})
}

// A heldFiles knows the files of this process that must not be opened.
type heldFiles map[any]bool // by fileID

// check refuses to open a file that another driver has.
func (h heldFiles) check(d *dir, name string) error {
	if len(h) == 0 || !d.native {
		return nil
	}
	fi, err := d.lstat(name)
	if err != nil || fi.sys == nil {
		return nil // to be told by who opens it
	}
	if h[fileID(fi.sys, d.full(name))] {
		return fmt.Errorf("%s: %w", d.full(name), ErrForeignDriver)
	}
	return nil
}
