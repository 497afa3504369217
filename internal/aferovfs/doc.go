// Package aferovfs lets SQLite work on databases that are not native files:
// those of an [afero.Fs], any [io.ReaderAt], or a file that the caller has
// opened as the destination of an online backup.
//
// Each Register function registers an SQLite VFS under a name of its own and
// returns that name, for the vfs parameter of a URI, with the function that
// unregisters it:
//
//	name, unregister := aferovfs.Register(fsys)
//	db, err := sqlite3.Open("file:/data/app.db?vfs=" + name)
//
// Close every connection, then call unregister, and look at its error: SQLite
// does not report every failure of a file. It ignores those of close, and
// those of the checkpoint on close and of ROLLBACK, and integrity_check
// describes a page that could not be read as if it were damaged. Unregister
// returns the first failure of any open file, whether or not SQLite told of it
// or recovered from it. It refuses while a file is open, since go-sqlite3
// panics when a connection needs a VFS that is gone.
//
// # Promises
//
//   - A short write, a short read before the end of a file and a failed sync
//     are errors, never success. A handle whose sync has failed never syncs
//     again: whatever its file system says later, the data may be lost.
//   - Files that SQLite creates, and deletions that SQLite wants durable, have
//     their directory synced too.
//   - The cause of an I/O error or of a failure to open stays reachable with
//     [errors.As] through the [sqlite3.Error]. So a full disk is IOERR_WRITE
//     with its ENOSPC, not FULL: go-sqlite3 keeps no cause for the latter.
//   - Nothing outside of the given file system is touched. Temporary files
//     live in memory.
//   - Connections of this process exclude one another as SQLite requires, if
//     they use one file system value and one path, no matter through which
//     call of [Register]. File systems that are equal under == are one, as
//     are all values of [afero.OsFs]; a value of a type that Go cannot compare
//     is one only within a single call.
//
// # Not promised
//
//   - Other processes are not locked out, nor is anyone who reaches the same
//     files through another file system value, such as a wrapper or the native
//     VFS, or by another path: only the last element of a path is checked for
//     being a symbolic link (and refused), and case counts.
//   - There is no shared memory for the index of a write-ahead log. Set
//     locking_mode=EXCLUSIVE before the first access to a database in WAL mode,
//     for instance as the first _pragma of its URI (others, like cache_size,
//     read the database); without it, the access fails with CANTOPEN. Such a
//     database opened with mode=ro is read with its log and without a change
//     to any file.
//   - A path longer than 1016 bytes makes go-sqlite3 fail or, beyond 1024,
//     panic before this package sees it.
//   - Memory is not bounded: a VACUUM or a large sort holds its temporary file
//     there as a whole. Copies and integrity checks need none.
package aferovfs
