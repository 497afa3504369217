// Package backup takes snapshots of a running service's state, proves that
// they are good, puts them back, and thins old ones out. The state is what
// the host names: live SQLite databases, files such as a JSON registry, and
// directory trees such as a vector store. The host imports the package, or
// an operator runs the command atobackup, which is built on it.
//
// A snapshot is one directory of plain files, named by the second at which
// it was taken. Any tool can read it, copy it, or put it back, without this
// package. It reads and checks the snapshots of the ATOCore service's Python
// module too, and writes the keys that the module reads, so that both can
// share one directory.
//
//	func backUp(ctx context.Context) error {
//		store, err := backup.New(backup.Config{
//			Dir: "/srv/backups",
//			Sources: []backup.Source{
//				{Name: "db", Kind: backup.Database, Path: "/srv/data/app.db"},
//				{Name: "config", Kind: backup.File, Path: "/srv/config/registry.json", Optional: true},
//				{Name: "chroma", Kind: backup.Tree, Path: "/srv/chroma", OnRequest: true},
//			},
//		})
//		if err != nil {
//			return err
//		}
//		if _, err := store.Recover(ctx); err != nil {
//			return err // do not open the databases
//		}
//		// Here the service opens its databases and begins to work.
//		snap, err := store.Create(ctx, nil)
//		if err != nil {
//			return err // there is no new snapshot
//		}
//		return snap.Err() // there is one: nil if it passed validation
//	}
//
// [Store.Recover] belongs at every start, before a database is opened.
// [Store.Create] runs beside the service. [Store.Restore] is for when it is
// stopped. [Store.Cleanup] deletes nothing unless it is told to. Options may
// be nil everywhere, and their zero value is the safe choice. Hosts on a
// driver other than ncruces/go-sqlite3 read "Other SQLite drivers" first.
//
// # Promises
//
// Create:
//
//   - A database is copied as of one instant, whatever is written meanwhile.
//     In WAL mode no writer waits for more than a moment: most of its log is
//     checkpointed while it writes; the rest is checkpointed, and our read
//     transaction begun, under the write lock. (A writer without PRAGMA busy_timeout does not
//     wait, but fails with SQLITE_BUSY, as it would beside any other.) The read transactions of the
//     databases begin before the first page is copied. (Those with a DB,
//     those in a Tree with Quiesce, and all but the first 64 in a Tree, wait
//     for their turn.)
//   - A database within a Tree is known by its header and copied in the same
//     way, without its -wal, -shm and -journal. (Whatever has such a name is
//     taken for one. Those in a snapshot, of another store, are not opened:
//     what lies in snapshots/STAMP/ is copied like any other file, with what
//     is beside it.) One that is configured as a File is refused.
//   - Nothing is torn in silence: a file that changes or vanishes under the
//     copy, and a database so damaged that its files were copied as they
//     lay, is a [Problem].
//   - The copy is read back and validated. (At level [ValidateStructure], no
//     more than names, types, sizes and headers are.) One that fails is kept
//     and returned with Validated false: it is no error, and takes no slot of
//     a good one.
//   - When Create returns nil, the snapshot survives a power cut. Until then
//     it does not exist: its metadata are written last, and at once. What
//     was written is removed when Create fails or is cancelled. What a
//     killed one leaves is listed as incomplete and never restored.
//   - [ErrNoSpace] comes before anything of the snapshot is written, where the file system
//     tells how much is free. (What should be a clone is taken to need none,
//     and a file no more than its bytes. Where that is too little, as where
//     there are very many files, the full disk's own error comes later.)
//
// Validate:
//
//   - Not a byte of the snapshot changes, and no sidecar appears beside its
//     databases. It may lie on a read-only medium.
//   - A flipped bit in any file of a snapshot is found, at levels
//     [ValidateFull] and [ValidateQuick], those in its metadata and manifest
//     included. So are files that are missing and files that do not belong.
//     (Snapshots of the Python module have no checksums; SQLite's checks and
//     the recorded sizes are all there is.)
//   - Damage is in the [Report], and is never an error.
//
// Restore:
//
//   - It is refused without confirmation ([ErrNotConfirmed]), if a database
//     is seen to be open ([ErrServiceRunning]), and if the snapshot fails
//     full validation ([ErrInvalidSnapshot]). Problems that were noted when
//     the copy was taken, and no others, may be accepted by name: see
//     [RestoreOptions].
//   - A safety snapshot of all that is about to be replaced comes first,
//     unless it is declined. To restore that one is to undo the restore. A
//     live database that is damaged does not stop it: its files are copied
//     as they lie, sidecars included. Nor does what a damaged medium does
//     not give back: it is left out, which is a [Problem] that Restore
//     returns. What this process may not read does stop it, as does a
//     directory where a Database or a File should be, and one with files in it
//     that is named like a sidecar.
//   - All sources are replaced or none, whatever fails and whenever the
//     power goes. After a crash, [Store.Recover] finishes or undoes what was
//     begun, and reads back what it put in place; until then, every operation
//     that changes anything answers [ErrRecoveryPending]. Recover may be
//     interrupted and called again. ErrRecoveryPending may also mean that the
//     new state is in place, and the old files could not be removed: then
//     Restore returns the [Restoration] too. Recover touches nothing, and says
//     so, while a file system that it needs is not mounted, the service runs,
//     or somebody has worked with the files since.
//   - What is written between the safety snapshot and the exchange is
//     noticed, and stops the restore: by size, time of modification and, where
//     the file system has one, that of the last change in any way (ctime). So
//     is, by size and time of modification, what is written to the old files
//     until the new ones are in place and verified, and what comes to be at the
//     top of a Tree meanwhile: then all is undone. (A mount point is looked at
//     for the last time when it has been copied.)
//   - A -wal, -shm or -journal of the old database never meets the new one.
//     The old files move together. A log that comes to be in the meantime stops
//     the restore, and goes back with them. One that a restore finds beside the
//     new database may belong to either: Recover touches nothing until it has
//     been moved away, and then puts the old state back.
//   - What is staged is synced, read back and compared with the manifest
//     before anything is exchanged. What is in place in the end has to be
//     those very files: the same inode, size, time of modification and mode,
//     as a rename leaves them; and no log lies beside a database. Where a
//     file system gives files no identity, and where a mount point was
//     overwritten, the bytes in place are read. Bytes with the SHA-256 of a
//     database that passed integrity_check when the snapshot was validated,
//     moments before, are not checked again; those of the Python module's
//     databases, which have no checksum, are, where they were staged.
//   - Where bytes go is decided by [Config], never by a snapshot. A source
//     that the snapshot has not captured is left alone.
//   - A Tree's own directory stays, as do mount points in it: only what they
//     hold is exchanged. A File or Database that is itself a mount point, as
//     a bind mount in a container is, is overwritten in place, and can be
//     recovered too. If it may not be written to, as with -v x:/y:ro, the
//     restore is refused before anything is touched (on Linux; elsewhere it
//     is undone).
//
// Cleanup:
//
//   - It is a dry run unless confirmed, and gives the reasons of every
//     decision.
//   - Before anything is deleted, the newest good snapshots are looked at
//     again: whether all files are there, and of the right size. (That does
//     not find a flipped bit. Validate them from time to time.)
//   - The newest good snapshot is never deleted, nor the newest good one of
//     each source, nor the newest [Retention].MinKeep, nor one that is
//     pinned, in use, dated in the future, or could not be read, nor a
//     safety snapshot younger than 7 days. (These take no slot of others, and
//     are not counted as the newest of anything.) Nobody else can delete the
//     first three while a Cleanup removes others for their sake.
//     One whose metadata are damaged may be pinned: only [Store.Delete]
//     removes it.
//   - An unfinished or invalid snapshot takes no slot of a good one, and goes
//     only when a newer one is good, and newer good ones have all that it
//     captured.
//   - What is not named like a snapshot is reported and never touched.
//   - A deletion removes the metadata first: what a crash leaves never looks
//     whole.
//
// All of them:
//
//   - Methods may run side by side, in goroutines and in processes of one
//     machine. Waiting for a lock ends with the context.
//   - A stamp is checked before it becomes part of a path. Metadata and
//     manifests are capped in size and refused unless they are, byte for
//     byte, what this package writes. No symbolic link is followed out of a
//     snapshot or a tree; pipes and devices are never read, nor waited for.
//   - A malformed database does not take the host down, and does not keep it
//     past the end of the context (but for one made for that purpose: see
//     below). Nor does whoever truncates the -shm of one; but
//     that database may then be out of reach for as long as the process lasts.
//   - Memory is bounded by the number of files, not by their bytes.
//   - Errors name paths and codes, and never quote files. (What SQLite finds
//     names tables and indexes.) They match the variables and the [Code]
//     constants of this package, and what the file system said, through
//     [errors.Is] and [errors.As].
//
// # Not promised
//
//   - A Restore waits until no other operation changes the store. While these
//     overlap without end, it has no turn before its context ends.
//   - Two databases are not of exactly one instant: their read transactions
//     begin one after the other. Files and trees are copied later still.
//   - The files of a Tree are not of one instant with one another, unless
//     its [Source].Quiesce holds the writers off. One that is moved to
//     another directory of the tree meanwhile may be in the snapshot twice,
//     or not at all, and the snapshot be called good.
//   - A file is seen to change by its size and times, in the end. A write(2)
//     sets them when it begins: one that takes longer than the copy of its
//     file, and began two seconds before that, may be torn in it. Who writes
//     through a memory mapping may leave the times as they are for as long as
//     it lasts, and on tmpfs for ever: such a file may be torn, and called
//     good, and, elsewhere than on tmpfs, not be read again for the next
//     snapshot (see "Sharing"). Have Quiesce flush it (msync(2)) and hold its
//     writers off.
//   - In rollback mode (any journal_mode but WAL) a writer cannot commit
//     from the beginning of Create until its database has been copied. All
//     read transactions begin first, so that it waits for the databases that
//     are copied before its own, too: those that are Sources in their order,
//     then those in Trees. It waits as long as its own busy timeout says.
//   - A context ends a check between the steps of SQLite. One call of a
//     function in a schema made for the purpose, such as instr of two huge
//     values in a CHECK, is not ended by it. Nor is the checkpoint of a log,
//     which takes a second or two where that has grown to a gigabyte.
//   - Who overwrites a database in its place and past SQLite's locks, as cp
//     does, is seen by its size and times at the beginning of the copy and
//     at its end, and noted, where the database is copied like a file. What
//     was overwritten before that, or is copied page by page, is not seen.
//   - A database with 8 reserved bytes per page that are not the checksums of
//     https://sqlite.org/cksumvfs.html cannot be copied.
//   - A database in WAL mode cannot be copied from a read-only mount, nor from
//     a full disk if nobody has it open: whoever reads it writes to its -shm.
//   - A database in a Tree whose name is longer than 247 bytes is copied as it
//     lies, as SQLite has no name for its journal: see [CodeRawCopy].
//   - Indexes and constraints of a table that needs a function or a collation
//     of the host's are not checked, unless the host registers those for all
//     connections, by sqlite3.AutoExtension. Those of other tables in its
//     database are, but of ones whose name begins with a digit or a sign.
//   - SQLite's checks are those of the release in go.mod. An index on an
//     expression, or on a generated column, that computes with floating-point
//     numbers (round(x*1.19, 2), CAST(x AS TEXT)) may hold others than that
//     release gets: "row 1 missing from index", which is [CodeDatabaseCorrupt] of a
//     sound database. [ValidateQuick] compares no index with its table, and
//     so finds none of it there; but a restore does, and accepts what was
//     found at [ValidateFull] when the snapshot was taken, and nothing else.
//     Better make the number an integer, or the index one on a plain column.
//   - [CodeCheckFailed] may be said of a sound database, too: the checks run
//     out of memory where an index holds a value of 100 MB or more, and out of
//     the driver's stack where an expression nests hundreds of levels deep.
//   - The live database is opened as any client would open it. If the
//     service is stopped, that may roll back a hot journal. A WAL that is in
//     use is checkpointed, and is gone if we are the last to close the
//     database. One that was left behind is read, and stays, but while
//     another backup reads it, too; then the database is copied page by page,
//     and not like a file, as it is where older readers keep the WAL from
//     being checkpointed, or writers leave no moment for it. A -wal and -shm
//     that come of it have the mode and, if we may say so, the owner of the
//     database: a moment after they are made, as with any client of the
//     superuser's.
//   - As for any client, a database must not be replaced by a rename while
//     Create has it open, nor be written to by two of its names: its WAL is
//     known by its name. See https://sqlite.org/howtocorrupt.html. A database
//     in a Tree that is a hard link to a live one elsewhere may be torn.
//   - [ErrServiceRunning] sees a connection in WAL mode once it has read
//     anything, and any connection within a transaction. It does not see an
//     idle connection in rollback mode, nor a program that has files of a
//     tree open. Stop the service.
//   - The locks are advisory, and of one machine. Do not share a Dir between
//     machines; what NFS does with locks and renames is not known here.
//   - Stores that have a source in common do not wait for each other. Of two
//     restores of the same files at the same time one is refused, or both are,
//     with [ErrBusy] or [ErrServiceRunning].
//   - Renames are taken to be atomic, and a successful fsync to be true.
//     Windows cannot sync directories: there a power cut may undo what was
//     reported as done.
//   - The tests are run on Linux. For macOS, FreeBSD and Windows the package is
//     built and vetted, no more: run its tests on yours before you rely on it.
//   - What is shared is damaged together: see "Sharing".
//   - A Tree that holds hundreds of thousands of names in its own directory
//     (and not in those below it) may be refused by Restore: its journal, with
//     those of before and after, has to fit into 64 MiB.
//   - The sockets, pipes and device nodes in a Tree are removed by its restore,
//     with all else that the snapshot does not have, and the safety snapshot
//     does not have them either: it lists them as [SourceState].Skipped.
//   - To restore a safety snapshot does not remove what the restore brought
//     where nothing had been.
//   - Owners, access control lists, extended attributes, hard links, holes
//     in files, and setuid, setgid and sticky bits are not recorded. What is
//     restored belongs to the owner of the file, or of the tree's directory,
//     that was there; if none was, to that of the directory it is put in.
//     That takes a process that may say so. (A clone on APFS has the extended
//     attributes all the same.)
//   - What another machine writes to a file on a network's file system while
//     the file is copied may not be seen to have changed it.
//   - Snapshots are neither compressed nor encrypted, each is whole, and
//     nothing is copied off the machine: see docs/runbook.md for how.
//
// # Sharing
//
// Where the file system can (XFS and Btrfs on Linux, APFS on macOS), the copy of
// a file or of a database is a clone of it: until one of the two is written to,
// they share their blocks. It takes next to no time and space.
//
// A file of a Tree that has not changed since the newest good snapshot of that
// Tree is not read again. The new snapshot has a clone of that one's copy or,
// if [Source].LinkUnchanged asks for it, the same copy by another name, a hard
// link. A file has not changed if its inode, its size, its mode, its time of
// modification and that of its last change in any way (ctime) are those that
// the earlier manifest has. Databases are always read.
//
// That is done on Linux, for trees on ext4, XFS, Btrfs and F2FS: on other file
// systems, those of a network among them, anybody may be able to set these
// times, or another machine's clock does; and on tmpfs, who writes through a
// mapping sets none. Nor is it done for a file that had changed within the
// minute before it was copied, as who wrote to it may still be at it; nor across
// a start of the system, as a power cut can take back the times of a file and
// not what was written (fdatasync(2)); nor once another file system has been
// mounted there, or the same one anew. (Where that cannot be told from a bind
// mount, as on Btrfs, that counts, too: whoever runs each time in a new mount
// namespace shares nothing.) Such files are read again. (A disk that
// is pulled out while it is written to is not noticed.)
//
// Snapshots that share can each be deleted, validated and restored without
// regard to the others; the space is free when the last of them is gone. What
// is restored shares nothing that writing to it would change. A full validation
// reads every byte, shared or not. If Create finds that what it shares has come
// to be damaged, it takes the snapshot once more, and copies that: [Source].Quiesce
// is then called a second time.
//
// But a block that goes bad is bad in all that share it, the live file included
// if it is a clone, and a program that writes to a hard link in one snapshot
// changes it in all. [ValidateStructure] does not find that. Validate in full
// from time to time, and keep copies on another disk. Who may write to Dir can
// write into snapshots that are yet to come.
//
// # Evidence
//
// Nothing good is lost, and nothing damaged is called good: each of these
// claims is shown by the tests beside it, which enumerate and do not sample
// where that can be done.
//
//   - Pull the plug at any instant of any operation: TestPowerCuts,
//     TestPowerCutsDuringRecover, TestPowerCutsDuringUndo, with every subset of
//     what was not yet synced, as far as there are few; really killed
//     processes: TestStoreSurvivesKilledProcesses.
//   - Fail any call of the file system, once or from then on, with an error,
//     short, or after it took effect: TestFaults. What is said of a sync that
//     fails last: TestCreateWhoseLastSyncFailsIsOfUnknownDurability.
//   - Flip any bit of a snapshot, and cut, extend, swap, delete or add any
//     byte or file: TestEveryFlippedBitIsFound, TestEveryChangedByteIsFound,
//     TestFileOfAnotherSnapshotIsFound.
//   - Run any operations side by side: TestStoreServesManyGoroutines,
//     TestNothingIsRemovedThatAnotherProcessUses,
//     TestProcessesThatRaceForAStampGetOneEach.
//   - Hand us any bytes: TestNoDamagedDatabaseIsCalledValid,
//     TestForgedManifestIsRefused, TestForgedMetadataIsRefused,
//     TestSpecialFileInASnapshotBlocksNobody, FuzzMetadata, FuzzManifest,
//     FuzzJournal, FuzzParseStamp.
//   - Write all the while: TestLoadEachPageIsCopiedOnce,
//     TestLoadDatabasesAreNotTorn, TestCloneUnderWritersIsConsistent,
//     TestCloneEqualsTheOnlineBackup, BenchmarkCommit.
//   - Change a tree all the while: TestTreeThatChangesIsNotTorn,
//     TestWhatIsSwappedInIsNotFollowed, TestFileThatIsReplacedAllTheTimeIsCopied.
//   - Share with an earlier snapshot: TestOnlyUnchangedFilesAreLinked,
//     TestFileThatIsTooNewIsReadAgain,
//     TestFileChangedByAClockThatWasSetBackIsReadAgain,
//     TestUnchangedFileIsClonedFromTheSnapshot, TestSnapshotOfClonesStaysAsItIs.
//   - Do without Recover after a crash, or call it too early:
//     TestRecoverKeepsWhatAServiceMade,
//     TestRecoverWaitsForFileSystemsToBeMounted,
//     TestRecoverRefusesUnderARunningService.
//   - Use another SQLite driver: the module in drivers.
//
// go test samples the first two in seconds; go test -crash.full tries all.
// docs/safety.md lists what was left out of the code on purpose, and the test
// that failed then.
//
// # Layout of a snapshot
//
//	Dir/lock                           advisory locks; never removed
//	Dir/restore-journal.json           while a restore is pending
//	Dir/snapshots/20260406T180000Z/
//	    db/app.db                      a Database source named "db"
//	    config/registry.json           a File source named "config"
//	    chroma/…                       a Tree source named "chroma"
//	    manifest.jsonl                 one line for each of the above
//	    backup-metadata.json           written last
//
// A stamp is a second of UTC. If it is taken, the next one that is free
// names the snapshot, and created_at keeps the true time. A source's name is
// its directory; a Database or File keeps its base name. What this package
// makes has mode 0700 or 0600; what is in a tree has the modes it had there,
// and its owner may always read and write it.
//
// backup-metadata.json is one JSON object, as [encoding/json.MarshalIndent]
// writes it with an indent of two spaces: with the keys below, in this order,
// and with <, > and & in strings escaped.
//
//	format            "atocore-backup/1"
//	stamp             the directory's name
//	origin            "manual", "scheduled" or "pre_restore"
//	pinned            kept by Cleanup, whatever the retention says
//	labels            the host's, sorted; absent if there are none
//	level             of the validation when it was taken
//	sources           of each: name, kind, captured, path, files, bytes, and
//	                  skipped: the sockets, pipes and devices, if any, and
//	                  skipped_more: how many there were beyond some thousands
//	files, bytes      sums over the sources
//	problems          of each: code, and source, path, detail unless empty;
//	                  beyond some thousands, how many more of each code
//	manifest_sha256   of manifest.jsonl, in lower-case hexadecimal
//	manifest_bytes    its size
//	posix_names       see below
//	boot              of Linux, when it was taken (see "Sharing"), or absent
//	volumes           of trees: the file system, as it was mounted; absent if unknown
//
// Then come the keys of the Python module. Its paths are absolute and no more
// than hints: the directory may have been moved since.
//
//	created_at                when it was taken, RFC 3339
//	backup_root               the snapshot's directory
//	db_snapshot_path          of the first Database
//	db_size_bytes             its size
//	registry_snapshot_path    of the File named "config", or ""
//	chroma_snapshot_path      of the Tree named "chroma", or ""
//	chroma_snapshot_bytes     its size, summed
//	chroma_snapshot_files     the number of its files
//	chroma_snapshot_included  whether it was captured
//	vector_store_note         how it was
//	validated                 true if and only if there are no problems
//	validation_errors         their codes; absent if there are none
//
// The object ends with a comma, a line feed, two spaces and
//
//	"checksum": "…"
//	}
//
// and a line feed. The checksum is the SHA-256 of all bytes before that
// comma. Objects that say the same in other bytes, have other keys, or are
// larger than 1 MiB are refused. A file with none of the keys format, stamp,
// sources, manifest_sha256 and checksum is taken for the Python module's, if
// there is no manifest beside it.
//
// manifest.jsonl has a line for each directory, file and link of the sources,
// sorted by the bytes of their paths, each ended by a line feed:
//
//	{"path":"chroma","type":"dir","mode":"0755","mtime":"2026-04-06T17:59:58.25Z"}
//	{"path":"chroma/current","type":"link","target":"v1"}
//	{"path":"chroma/v1.bin","type":"file","mode":"0644","mtime":"2026-04-06T17:59:58Z","size":4096,"sha256":"1f0a…93c7","inode":131075,"ctime":"2026-04-06T17:59:58Z"}
//	{"path":"db/app.db","type":"db","mode":"0644","mtime":"2026-04-06T17:59:59Z","size":8192,"sha256":"c65a…5716"}
//
// A line is one object as [encoding/json.Marshal] writes it, with its keys in
// this order, and less than 1 MiB long; the file is at most 512 MiB. Type is
// "dir", "file", "link", "db" for a database that was copied hot, or "raw"
// for one whose files were copied as they lay. Mode has the permission bits
// in octal; mode, mtime, inode and ctime are the source's. What is zero or empty is absent.
// A path or target that is not UTF-8 is {"base64":"…"}.
//
// Names with a backslash, and names that are alike but for case (as
// [strings.EqualFold] has it), are other names, or one name, on other systems. If
// there are any, posix_names is true. Where it is false, a manifest with such
// names is refused. Nothing rests on that being true: a path that leads out of the
// snapshot on the system that reads it is refused in any case, and two names that
// are one there cannot both be staged. (Names that are alike but for their Unicode
// normalization are not told from others.)
//
// Metadata and manifest have to agree: on what was captured, on files and
// bytes, and on what a problem has to say, that a File or Database has no
// file in the snapshot, or that one was copied as it lay.
//
// # Other SQLite drivers
//
// POSIX locks belong to a process, and closing any handle on a file drops
// all of them: see "POSIX advisory locks" in
// https://sqlite.org/howtocorrupt.html. If the host has a database open
// through mattn/go-sqlite3 or modernc.org/sqlite, which use such locks, then
// to open and close the file beside it in the same process would unlock it,
// and committed rows would be lost. (ncruces/go-sqlite3, which this package
// uses, takes locks on Linux and macOS that do not interfere: a host on that
// driver has nothing to do. Nor has one whose service is another process.)
//
// Such a host sets [Source].DB to its own [database/sql.DB]. Create then has
// the host's driver write the copy, by VACUUM INTO, and does not open the
// file. The copy is a database with the same content, not the same pages; in
// tables without an INTEGER PRIMARY KEY, VACUUM may change the rowids. A
// database in a Tree is named as a source of its own, with its DB: the Tree
// leaves it out.
//
// On Linux, Create answers [ErrForeignDriver] for a database without DB on
// which this process has POSIX locks, or which it has open while such a
// driver is linked in. On other systems nothing is seen of that.
//
// Restore opens the files itself, first of all to see whether they are in
// use: close the DB before you call it, and open it again after.
//
// This package does not import go-sqlite3/driver, and so leaves the name
// "sqlite3" in database/sql to the host.
//
// # File systems
//
// With [Config].Fs nil, an afero.OsFs, or an afero.BasePathFs over one, the
// package works on the operating system: through [os.Root], so that a link
// swapped in while it works leads nowhere, and with SQLite's own locks.
//
// Any other [afero.Fs] serves as well, such as afero.MemMapFs in tests. Then
// locks hold within this process alone, among stores that have the same Fs
// value. Databases on it are opened through [OpenDB], by the host too, and
// those in WAL mode by one connection at a time, Create's included. Its
// Rename has to be atomic and its Sync to be true. Symbolic links need an
// afero.Symlinker; a method Free(path string) (int64, error), if there is
// one, tells the free space, and a method SyncFS() error is called once instead
// of each file's Sync. Files are shared by hard links if
// it has methods LinkIfPossible(oldname, newname string) error and BootID()
// string, of which the latter names the time since its system was started, and
// a FileInfo.Sys that is a *syscall.Stat_t.
//
// Do not wrap the operating system's file system in anything but a BasePathFs
// where a service is running: the locks of other processes are not seen through
// a wrapper. Nothing can be restored on an afero.CopyOnWriteFs, whose Rename
// leaves the base's file where it was.
//
// # Restoring by hand
//
// Stop the service; move the database aside together with its -wal, -shm and
// -journal; copy the one in the snapshot to its place. README.md has the
// commands, and how to check a manifest with jq and sha256sum;
// docs/runbook.md has the rest.
package backup
