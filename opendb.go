package backup

import (
	"github.com/ncruces/go-sqlite3"
	"github.com/spf13/afero"

	"github.com/atocore/backup/internal/aferovfs"
)

// OpenDB opens, or creates, the SQLite database at path on fsys. It is for
// the tests of services whose state lies on an in-memory file system: what a
// [Store] does with it there is what it does with a file of the operating
// system. Close the connection when done.
//
// On the operating system's own file system, and an afero.BasePathFs over
// it, that is sqlite3.Open. On others, connections are locked against each
// other within this process alone; and there is no shared memory, so that a
// database in WAL mode wants "PRAGMA locking_mode=EXCLUSIVE" before its
// first use, and has one connection at a time, Create's included. See
// https://sqlite.org/wal.html#noshm.
func OpenDB(fsys afero.Fs, path string) (*sqlite3.Conn, error) {
	const flags = sqlite3.OPEN_READWRITE | sqlite3.OPEN_CREATE
	native, ok := nativePath(fsys, path)
	if !ok {
		return openGuarded(func() (*sqlite3.Conn, error) { return aferovfs.Open(fsys, path, flags) })
	}
	uri, err := nativeURI(native)
	if err != nil {
		return nil, err
	}
	return openGuarded(func() (*sqlite3.Conn, error) { return sqlite3.OpenFlags(uri, flags|sqlite3.OPEN_URI) })
}
