// Package drivers tests hosts that reach SQLite through a driver other than
// the library's own, in the library's process: mattn/go-sqlite3, which is
// SQLite itself through cgo, and modernc.org/sqlite, which is SQLite made
// into Go. Both take POSIX locks, which belong to the process: any close of
// any handle on a file gives up all that the process has on it. See "POSIX
// advisory locks canceled" in https://sqlite.org/howtocorrupt.html, and
// TestDanger.
//
// It has no code of its own. It is a module apart so that who imports the
// library never sees those drivers.
package drivers
