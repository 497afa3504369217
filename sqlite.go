package backup

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"path/filepath"
	"runtime/debug"
	"slices"
	"sync/atomic"
	"time"

	"github.com/ncruces/go-sqlite3"
	"github.com/ncruces/go-sqlite3/vfs"

	"github.com/atocore/backup/internal/aferovfs"
)

// Every connection is opened in this file and in check.go.

// A conn is a connection to a database on any file system.
type conn struct {
	*sqlite3.Conn
	release func() error // gives up the VFS, if one was registered
}

func (c *conn) Close() error {
	for _, stmt := range slices.Collect(c.Stmts()) { // left open by a check
		_ = guard(stmt.Close) // which says again what its last step said
	}
	if err := guard(c.Conn.Close); err != nil {
		return err // it still is open, and needs its VFS
	}
	return c.release()
}

// sqliteHeader begins every database: https://sqlite.org/fileformat.html.
var sqliteHeader = []byte("SQLite format 3\x00")

// sidecars are what SQLite keeps beside a database:
// https://sqlite.org/tempfiles.html.
var sidecars = []string{"-wal", "-shm", "-journal"}

// suffixes are what the names of a source's files end in, its own first: it is no
// Tree.
func (src *Source) suffixes() []string {
	if src.Kind == Database {
		return append([]string{""}, sidecars...)
	}
	return []string{""}
}

var errPanicked = errors.New("sqlite: panic")

// guard calls fn and makes an error of a panic: the driver panics when
// SQLite runs out of memory, and a malformed database must not be able to
// take the host down. Nor must whoever truncates the index of a WAL, which the
// driver maps: see [debug.SetPanicOnFault].
func guard(fn func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: %v", errPanicked, r)
		}
	}()
	return fn()
}

// openGuarded opens a connection; a path that is too long makes the driver
// panic, too.
func openGuarded(open func() (*sqlite3.Conn, error)) (c *sqlite3.Conn, err error) {
	err = guard(func() error {
		c, err = open()
		return err
	})
	return c, err
}

// openConn opens the database at p: on the operating system's file
// system with SQLite's own locks and shared memory, elsewhere without.
func openConn(ctx context.Context, p place, flags sqlite3.OpenFlag) (*conn, error) {
	if p.dir.native {
		uri, err := nativeURI(p.full())
		if err != nil {
			return nil, err
		}
		return openURI(ctx, uri, flags, func() error { return nil })
	}
	vfsName, release := aferovfs.Register(p.dir.fs)
	return openURI(ctx, fileURI(p.full(), url.Values{"vfs": {vfsName}}), flags, release)
}

// nativeURI names a file of the operating system, whatever is in its name.
func nativeURI(path string) (string, error) {
	path, err := filepath.Abs(path)
	return fileURI(path, nil), err
}

// fileURI builds a name of the form that https://sqlite.org/uri.html asks
// for. (In one put together by hand, a file could be called
// "x?_pragma=…".)
func fileURI(path string, query url.Values) string {
	return (&url.URL{Scheme: "file", OmitHost: true, Path: filepath.ToSlash(path), RawQuery: query.Encode()}).String()
}

func openURI(ctx context.Context, uri string, flags sqlite3.OpenFlag, release func() error) (*conn, error) {
	c, err := openGuarded(func() (*sqlite3.Conn, error) { return sqlite3.OpenFlags(uri, flags|sqlite3.OPEN_URI) })
	if err != nil {
		_ = release() // which says the same again
		return nil, err
	}
	c.SetInterrupt(ctx)
	return &conn{c, release}, nil
}

// A live is a connection to the service's own database. SQLite opens that by
// its path, and so do we look for what it has opened: a directory on the way
// may have become a link to somewhere else, and be none again by now.
type live struct {
	*conn
	db      place
	info    fileInfo // of the database
	made    []place  // the sidecars that are there only since we read it
	keepLog bool     // the WAL is not ours to fold in
}

// lookBeside sees which sidecars there are before the first read makes those
// that a WAL needs. If we are the last to close the database, SQLite folds its
// WAL into it and removes it, as a service that stops meanwhile would have done:
// whoever takes the database for whole then, and moves it, is right. But a WAL
// that was left behind is to stay as it is: it may be damaged, and in any case
// is not ours to change.
func (l *live) lookBeside(ctx context.Context) error {
	for _, suffix := range []string{"-wal", "-shm"} {
		at := l.db.beside(suffix)
		if there, err := at.dir.exists(at.name); err != nil {
			return err
		} else if !there {
			l.made = append(l.made, at)
		}
	}
	var err error
	if l.keepLog, err = logIsAbandoned(ctx, l.db); err == nil && !l.keepLog {
		l.keepLog, err = l.reservesForOthers()
	}
	if err == nil && l.keepLog {
		_, err = l.Config(sqlite3.DBCONFIG_NO_CKPT_ON_CLOSE, true)
	}
	return err
}

// reservesForOthers reports whether the driver would write its checksums over
// what others keep at the end of each page.
func (l *live) reservesForOthers() (bool, error) {
	if !l.db.dir.native {
		return false, nil
	}
	main, err := l.file(sqlite3.FCNTL_FILE_POINTER)
	if err != nil {
		return false, err
	}
	return aferovfs.ReservesForOthers(main)
}

// begin runs the SQL that reads the database for the first time, and so opens
// its WAL and the index of that by their paths. If another database has come
// to be at its place, they may be that one's, and are not to be folded into the
// file that we have open: what was committed to the other would be lost.
func (l *live) begin(sql string) error {
	err := l.Exec(sql)
	ownerErr := l.giveSidecarsToOwner()
	if err != nil {
		return err
	}
	if err = errors.Join(l.checkWAL(), l.checkPlace()); err != nil {
		_, configErr := l.Config(sqlite3.DBCONFIG_NO_CKPT_ON_CLOSE, true)
		err = errors.Join(err, configErr)
	}
	return errors.Join(ownerErr, err)
}

// giveSidecarsToOwner gives the sidecars that we have made the mode and the owner
// of the database, as SQLite's own code does and the driver's does not: else the
// service would be locked out of them if we are the superuser, and others let
// in if the database is not for them.
func (l *live) giveSidecarsToOwner() error {
	if !l.db.dir.native {
		return nil
	}
	for _, at := range l.made {
		fi, err := at.lstat()
		if err == nil && fi.isRegular() {
			const ownersOwn = 0o600 // also of a database that is read-only: the driver reads no WAL that it cannot write
			err = at.dir.fs.Chmod(at.dir.path(at.name), l.info.mode.Perm()|ownersOwn)
			err = errors.Join(err, at.dir.chown(at.name, l.info))
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrPermission) { // somebody else's, then
			return err
		}
	}
	return nil
}

// checkFile refuses a connection on another file than was found at its place.
// Nothing has been read yet: the first read may roll back a hot journal, and
// that of a stranger is not ours to touch.
func (l *live) checkFile() error {
	if !l.db.dir.native {
		return nil
	}
	f, err := l.file(sqlite3.FCNTL_FILE_POINTER)
	if err != nil {
		return err
	}
	return sameFile(f, l.info, l.db)
}

// checkWAL does the same for the WAL, which is opened by the first read.
func (l *live) checkWAL() error {
	if !l.db.dir.native {
		return nil
	}
	if is, err := l.isWAL(); err != nil || !is {
		return err // there is no WAL to be asked for
	}
	wal, err := l.file(sqlite3.FCNTL_JOURNAL_POINTER)
	if err != nil {
		return err
	}
	at := l.db.beside("-wal")
	info, err := at.lstat()
	if err == nil {
		err = sameFile(wal, info, at)
	}
	return err
}

// checkPlace refuses a database if another one is at its place by now.
func (l *live) checkPlace() error {
	if !l.db.dir.native {
		return nil
	}
	now, err := l.db.lstat()
	if err == nil && !now.sameFile(l.info) {
		err = &fs.PathError{Op: "open", Path: l.db.full(), Err: errReplaced}
	}
	return err
}

// isWAL reports whether the database is in WAL mode, without reading it through
// SQLite: see https://sqlite.org/fileformat.html#file_format_version_numbers.
func (l *live) isWAL() (bool, error) {
	main, err := l.file(sqlite3.FCNTL_FILE_POINTER)
	if err != nil {
		return false, err
	}
	version := make([]byte, 1)
	_, err = main.ReadAt(version, 19)
	return version[0] == 2, err
}

// An osFile is a file of the operating system that SQLite has open.
type osFile interface {
	vfs.File
	Stat() (fs.FileInfo, error)
}

// file returns one of the files that the connection has open.
func (l *live) file(which sqlite3.FcntlOpcode) (osFile, error) {
	f, err := l.FileControl("main", which)
	for err == nil {
		if f, ok := f.(osFile); ok {
			return f, nil
		}
		wrapped, ok := f.(vfs.FileUnwrap)
		if !ok {
			return nil, fmt.Errorf("%s: SQLite does not tell which file it has open", l.db.full())
		}
		f = wrapped.Unwrap()
	}
	return nil, err
}

// sameFile returns errReplaced unless f is the file that was found at a place.
func sameFile(f osFile, info fileInfo, at place) error {
	fi, err := f.Stat()
	if err == nil && !newFileInfo(fi).sameFile(info) {
		err = &fs.PathError{Op: "open", Path: at.full(), Err: errReplaced}
	}
	return err
}

// errNotDatabase: a file is empty, cut short or something else, and is not to
// be opened as a database: SQLite would take it for a new one, and delete its
// WAL, which may hold all that was ever committed.
var errNotDatabase = errors.New("not a SQLite database")

// checkLive refuses to have SQLite open what is no database, or one with a
// pipe beside it: SQLite would wait for who writes to that. It returns what
// it has found to be one.
func checkLive(ctx context.Context, db place) (fileInfo, error) {
	for _, suffix := range sidecars {
		fi, err := db.beside(suffix).lstat()
		if err == nil && !fi.isRegular() {
			return fileInfo{}, &fs.PathError{Op: "open", Path: db.beside(suffix).full(), Err: errNotRegular}
		}
	}
	f, info, err := db.open(ctx)
	if err != nil {
		return fileInfo{}, err
	}
	problems, err := checkHeader(f, info.size)
	if err = errors.Join(err, f.Close()); err != nil {
		return fileInfo{}, err
	}
	if len(problems) > 0 {
		return fileInfo{}, fmt.Errorf("%w: %w", errNotDatabase, joinProblems(problems))
	}
	return info, nil
}

// isDamage reports whether an error says that a database is damaged, as
// opposed to not to be had at the moment.
func isDamage(err error) bool {
	return errors.Is(err, errNotDatabase) || errors.Is(err, sqlite3.CORRUPT) || errors.Is(err, sqlite3.NOTADB)
}

// openLive opens the service's own database for reading. It asks to write
// all the same, as SQLite must roll back a hot journal before anything can
// be read, and make the WAL's index; where that is not permitted, it reads
// as best it can.
func openLive(ctx context.Context, db place, wait *patience) (*live, error) {
	info, err := checkLive(ctx, db)
	if err != nil {
		return nil, err
	}
	c, err := openConn(ctx, db, sqlite3.OPEN_READWRITE)
	if errors.Is(err, sqlite3.CANTOPEN) {
		if ro, roErr := openConn(ctx, db, sqlite3.OPEN_READONLY); roErr == nil {
			c, err = ro, nil
		}
	}
	if err != nil {
		return nil, err
	}
	l := &live{conn: c, db: db, info: info}
	err = guard(func() error {
		if err := l.checkFile(); err != nil {
			return err
		}
		if err := l.lookBeside(ctx); err != nil {
			return err
		}
		if err := c.BusyHandler(wait.busy); err != nil {
			return err
		}
		if !db.dir.native {
			return c.Exec("PRAGMA locking_mode=EXCLUSIVE")
		}
		return nil
	})
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return l, nil
}

// A patience is how long may still be waited for databases that are locked. nil
// is none.
type patience struct{ left atomic.Int64 } // nanoseconds

func newPatience(d time.Duration) *patience {
	p := new(patience)
	p.left.Store(int64(d))
	return p
}

// busy is a busy handler that gives up at the end of a patience, or with its
// context. See https://sqlite.org/c3ref/busy_handler.html.
func (p *patience) busy(ctx context.Context, _ int) bool {
	const pause = 5 * time.Millisecond
	return p != nil && p.left.Add(-int64(pause)) >= 0 && sleep(ctx, pause) == nil
}

// explain makes SQLite's word for a lock that was not to be had ours too, and
// says what the driver means by an error of the disk that may be none: it
// takes 8 reserved bytes per page for checksums.
func explain(err error) error {
	switch {
	case errors.Is(err, sqlite3.BUSY), errors.Is(err, sqlite3.LOCKED):
		return fmt.Errorf("%w: %w", ErrBusy, err)
	case errors.Is(err, sqlite3.IOERR_DATA):
		return fmt.Errorf("%w: the database has 8 reserved bytes per page, and in one they are not the checksum of https://sqlite.org/cksumvfs.html: either that page is damaged, or they serve another purpose; then write the database anew without them, as sqlite3 OLD .dump | sqlite3 NEW does", err)
	}
	return err
}

// leastDatabase is the size of the smallest page, and so of the smallest
// database.
const leastDatabase = 512 // bytes

// checkHeader finds what SQLite lets pass: to it an empty file is a sound,
// empty database. The error is for a shortage.
func checkHeader(r io.ReaderAt, size int64) ([]Problem, error) {
	if size < leastDatabase {
		return []Problem{{Code: CodeDatabaseCorrupt, Detail: fmt.Sprintf("%d bytes are no SQLite database", size)}}, nil
	}
	is, err := startsDatabase(r)
	if err != nil {
		return unreadOr(err)
	}
	if !is {
		return []Problem{{Code: CodeDatabaseCorrupt, Detail: "no SQLite header"}}, nil
	}
	return nil, nil
}

// startsDatabase reports whether r begins as a SQLite database does.
func startsDatabase(r io.ReaderAt) (bool, error) {
	header := make([]byte, len(sqliteHeader))
	n, err := r.ReadAt(header, 0)
	if n == len(header) {
		err = nil // see io.ReaderAt: it may have been the end
	}
	return bytes.Equal(header[:n], sqliteHeader), err
}

// problemOf tells damage from a check that could not be run.
func problemOf(op string, err error) []Problem {
	p := Problem{Code: CodeCheckFailed, Detail: op + ": " + explain(err).Error()}
	switch {
	case errors.Is(err, sqlite3.CORRUPT), errors.Is(err, sqlite3.NOTADB):
		p.Code = CodeDatabaseCorrupt
	case errors.Is(err, sqlite3.IOERR):
		p.Code = CodeUnreadable
	}
	return []Problem{p}
}

// probeRunning returns ErrServiceRunning if anybody is seen to have the
// database open: a connection in WAL mode that has read anything, or one
// within a transaction. It leaves the database and its WAL as they are.
func probeRunning(ctx context.Context, db place) error {
	l, err := openLive(ctx, db, nil)
	if errors.Is(err, errReplaced) {
		return err // who swaps files here has not been stopped
	}
	if err != nil {
		return cmp.Or(ctx.Err(), onlyShortage(err)) // else there is nothing to have open, or nothing that tells
	}
	err = guard(func() error { return l.begin("PRAGMA locking_mode=EXCLUSIVE; BEGIN EXCLUSIVE") })
	running := errors.Is(err, sqlite3.BUSY) || errors.Is(err, sqlite3.LOCKED)
	if closeErr := l.Close(); closeErr != nil && !running {
		return closeErr
	}
	switch {
	case running:
		return fmt.Errorf("%w: somebody has %s open, in this process or another", ErrServiceRunning, db.full())
	case errors.Is(err, errReplaced):
		return err
	}
	return cmp.Or(ctx.Err(), onlyShortage(err)) // else it is damaged, which is what restores are for
}

func queryInt(c *conn, sql string) (int64, error) {
	stmt, _, err := c.Prepare(sql)
	if err != nil {
		return 0, err
	}
	var n int64
	if stmt.Step() {
		n = stmt.ColumnInt64(0)
	}
	return n, errors.Join(stmt.Err(), stmt.Close())
}
