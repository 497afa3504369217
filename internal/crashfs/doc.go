// Package crashfs is an in-memory file system for tests that fails on demand
// and can be cut off from power at any operation.
//
// An [FS] is an [afero.Fs] with inodes of its own and the semantics and errors
// of POSIX as package os shows them on Linux: [*fs.PathError] and
// [*os.LinkError] around a [syscall.Errno]. Every call that reaches the file
// system is one numbered operation of its log ([FS.Log]); [FS.Inject] and
// [FS.SetHook] make operations fail. [FS.CrashKeeping] and [FS.CrashStates]
// give the file systems that a machine might find after its power went. Inode,
// number of names and change time are in the *[syscall.Stat_t] that Sys of a
// [fs.FileInfo] returns, where the system has that type: on Unix.
//
// # What a power cut may lose
//
// A file system is its durable state and a list of pending effects, each
// caused by one operation, each of them lost or kept at a power cut
// independently of the others, but for the dependencies named below.
//
//   - Write, Truncate, O_TRUNC: pending until the file is synced. Any subset
//     may persist, applied in order: a kept write behind a lost one leaves a
//     hole of zeros. A write may also be torn: some of the 512-byte sectors that
//     it touches persist (counted from the start of the file), or only the
//     size that it gave the file ([Torn], [TornTail], [Zeroed]).
//   - Chmod, Chown, Chtimes: pending until the file or directory is synced.
//   - Create, Mkdir, Symlink, Link, Remove, Rename: pending until the directory
//     is synced; of Link, that of the new name. Syncing a file makes its
//     content durable and not its names (fsync(2): "an explicit fsync() on a
//     file descriptor for the directory is also needed"). Syncing a directory
//     makes durable the names in it, and neither the content of its files nor
//     its own name.
//   - The change time of what is left is that of its last change that is left,
//     or a later one that it had when it was synced.
//
// A name whose file was never synced may so be kept with no content, or with
// parts of it; a file replaced by a rename may come back, or be replaced by
// an empty one; a file linked to a new name and removed from its old one may
// be gone, as the removal may persist and the link not. (ext4 mends some of
// that, with auto_da_alloc and data=ordered; POSIX does not ask for it, and
// other file systems do not do it.)
//
// # What is assumed
//
// The metadata of the file system is journaled: whatever is lost, what
// remains is a tree in which every inode is whole and knows its names, and
// every directory has one place.
//
//   - A rename is atomic: both names change, or neither. It is durable when
//     the directory of the new name is synced; syncing that of the old name
//     is not enough.
//   - Operations on one name persist in order: keeping one keeps the earlier
//     ones on that name. So do the removal of a directory, after the
//     operations in it; a link, after the creation of the file and so of its
//     first name; and renames that move directories to other parents, after
//     each other (or else two of them could make a loop). A synced operation
//     takes with it what it so depends on.
//   - An entry is lost with the directory that it was made in, though that
//     directory was synced, if nothing made the directory's own name durable.
//   - One sector is written or not, and writing it does no harm to its
//     neighbours: SQLite calls that powersafe overwrite, and assumes it too.
//   - What a successful sync covers stays. After a sync that failed and
//     dropped its data ([DropSync]), reads show the new content, later syncs
//     succeed, and the content is lost all the same, as on Linux.
//
// # What is not modelled
//
// Permissions (everything may be opened, and linked), a limit to the names of
// a file, access times, umask, special files, locks, O_SYNC, and the times of
// modification of directories: these are after a power cut what they were
// before it. The bits that a disk flips by itself are for the test to flip.
//
// # Sources
//
//   - POSIX.1-2024, fsync and rename.
//   - Linux: fsync(2), rename(2), link(2), path_resolution(7),
//     Documentation/admin-guide/ext4.rst (auto_da_alloc, data=).
//   - Pillai and others, "All File Systems Are Not Created Equal: On the
//     Complexity of Crafting Crash-Consistent Applications", OSDI 2014: the
//     persistence properties that file systems differ in. This package grants
//     the atomicity of directory operations and, but for the above, no order.
//   - Rebello and others, "Can Applications Recover from fsync Failures?",
//     USENIX ATC 2020: what is left after a failed fsync.
//   - https://sqlite.org/atomiccommit.html and https://sqlite.org/psow.html.
package crashfs
