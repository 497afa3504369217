package backup

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"sync"
	"time"

	"github.com/ncruces/go-sqlite3"
	"github.com/spf13/afero"

	"github.com/atocore/backup/internal/aferovfs"
)

// A pin is a connection to a live database within a read transaction: what
// it reads is the database of one instant, whatever is written meanwhile.
//
// If the main file has all of it, as it has in rollback mode, it also stays
// as it is for as long as the transaction lasts, and can be copied like any
// file. In WAL mode it has all of it if the whole log was checkpointed when
// the transaction began. Later commits go to the log, and no checkpoint moves
// them into the main file, for the sake of this reader: see "Concurrency" in
// https://sqlite.org/wal.html.
type pin struct {
	*live
	pageSize int64 // bytes
	still    bool  // the main file has all that is pinned
}

// pinDatabase starts a read transaction on the live database at db. It waits for
// a writer that has it locked as long as wait says, and for a moment without one,
// which it can do without, as long as hold does.
func pinDatabase(ctx context.Context, db place, wait, hold *patience) (p *pin, err error) {
	l, err := openLive(ctx, db, wait)
	if err != nil {
		return nil, err
	}
	p = &pin{live: l}
	defer func() {
		if err != nil {
			p.close()
		}
	}()
	return p, guard(func() error {
		letGo, err := p.holdWriters(ctx, hold)
		if err != nil {
			return err
		}
		letGo = sync.OnceValue(letGo)
		defer letGo() // also in a panic
		// BEGIN alone takes no lock; the first read does. The schema's
		// version is read without parsing the schema, which may be damaged.
		err = p.begin("BEGIN; PRAGMA schema_version")
		err = errors.Join(err, letGo())
		if errors.Is(err, sqlite3.CANTOPEN) { // https://sqlite.org/wal.html#readonly is more than the driver does
			return fmt.Errorf("%w: a database in WAL mode can only be read where its directory, its -wal and its -shm can be written to", err)
		}
		if err != nil {
			return explain(err)
		}
		p.pageSize, err = queryInt(p.conn, "PRAGMA page_size")
		return err
	})
}

func (p *pin) close() {
	p.Close() // nothing was written through it
}

// holdPatience is how long to wait for moments without a writer, in all. If there
// is none, a database is copied page by page.
const holdPatience = time.Second

// longLog is the size from which a log is checkpointed before writers are
// held, and not only then.
const longLog = 1 << 20 // bytes

// mostHeld is how much of a log may be left to be checkpointed while writers are
// held. More than that is in use by older readers; when they end, it would be
// the writers who wait for all of it.
const mostHeld = 1000 // pages, as many as SQLite itself checkpoints in a commit

// foldLog checkpoints a long log while writers go on, so that they need not be
// held for long. What it cannot do is left to the page by page copy.
func foldLog(ctx context.Context, db place) {
	fi, err := db.beside("-wal").lstat()
	if err != nil || fi.size < longLog || !db.dir.native || locksForbid {
		return
	}
	l, err := openLive(ctx, db, nil)
	if err != nil {
		return
	}
	defer l.Close() // what it wrote is durable
	if l.keepLog {
		return
	}
	_ = guard(func() error {
		err := l.begin("PRAGMA schema_version")
		if err == nil {
			_, err = l.checkpoint()
		}
		return err
	})
}

// holdWriters holds off the writers of a database in WAL mode, and checkpoints
// the log, so that what is pinned next is all in the main file, until letGo is
// called. A log that a crashed service has left is not ours to checkpoint.
func (p *pin) holdWriters(ctx context.Context, wait *patience) (letGo func() error, err error) {
	letGo = func() error {
		wal, err := p.isWAL() // now that a hot journal is rolled back
		p.still = !wal
		return err
	}
	if !p.db.dir.native || locksForbid { // a look at the locks would be in the way, and the copy in theirs
		return func() error { return nil }, nil
	}
	wal, err := p.isWAL()
	if err != nil || !wal || p.keepLog {
		return letGo, err
	}
	writer, err := openLive(ctx, p.db, wait)
	if err != nil {
		return letGo, nil // to be told by who cannot do without
	}
	folder, err := openLive(ctx, p.db, nil) // its own: no connection checkpoints in a transaction
	if err != nil {
		writer.Close() // nothing was written through it
		return letGo, nil
	}
	complete, err := checkpointHeld(ctx, writer, folder)
	return func() error {
		p.still = complete && err == nil
		_, _ = folder.Close(), writer.Close() // which rolls back, and has written nothing
		return ctx.Err()
	}, nil
}

// checkpointHeld has folder checkpoint the log: most of it while the writers go
// on, and the rest while writer holds them off. It reports whether all of it is
// in the main file, which it stays until writer ends its transaction.
func checkpointHeld(ctx context.Context, writer, folder *live) (complete bool, err error) {
	err = guard(func() error { // or a panic would leave the writers held
		if err := folder.begin("PRAGMA schema_version"); err != nil {
			return err
		}
		done, err := folder.checkpointSoon(ctx)
		if err != nil || done.elsewhere || done.left > mostHeld {
			return err
		}
		if err := writer.begin("BEGIN IMMEDIATE"); err != nil {
			return err
		}
		done, err = folder.checkpointSoon(ctx)
		complete = done.complete
		return err
	})
	return complete, err
}

// logIsAbandoned reports whether there is a log, and nobody who has it open:
// who has, holds a lock on the 128th byte of its index, which SQLite calls the
// dead man's switch. See https://sqlite.org/walformat.html#the_wal_index_file_format.
func logIsAbandoned(ctx context.Context, db place) (bool, error) {
	fi, err := db.beside("-wal").lstat()
	if err != nil || fi.size == 0 {
		return false, ignoreNotExist(err)
	}
	if locksForbid { // a look at the locks would be in the way
		return true, nil
	}
	f, _, err := db.beside("-shm").open(ctx)
	if err != nil {
		return true, ignoreNotExist(err)
	}
	defer f.Close() // nothing was written
	file, ok := f.(*os.File)
	const deadMansSwitch = 128
	return !ok || !isLocked(file, deadMansSwitch), nil
}

// mainFile returns the database's main file, and how much of it to copy, if
// that is all that is pinned.
func (p *pin) mainFile() (f osFile, size int64, ok bool) {
	if !p.still {
		return nil, 0, false
	}
	err := guard(func() error {
		pages, err := queryInt(p.conn, "PRAGMA page_count")
		if err != nil {
			return err
		}
		if f, err = p.file(sqlite3.FCNTL_FILE_POINTER); err != nil {
			return err
		}
		fi, err := f.Stat()
		size = pages * p.pageSize
		ok = err == nil && size > 0 && fi.Size() >= size
		return err
	})
	return f, size, ok && err == nil
}

// checkpointSoon is checkpoint, and if somebody else is at it, as who commits may
// be, waits for a moment. Writers that are held meanwhile have to wait, too.
func (l *live) checkpointSoon(ctx context.Context) (checkpointed, error) {
	const attempts, pause = 10, time.Millisecond
	for attempt := 1; ; attempt++ {
		c, err := l.checkpoint()
		if err != nil || !c.elsewhere || attempt == attempts {
			return c, err
		}
		if err := sleep(ctx, pause); err != nil {
			return c, err
		}
	}
}

// A checkpointed says what came of a checkpoint.
type checkpointed struct {
	complete  bool  // all of the log is in the main file
	left      int64 // pages of it that are not
	elsewhere bool  // somebody else is at it; the rest is not known
}

// checkpoint moves what it can from the log to the main file:
// https://sqlite.org/pragma.html#pragma_wal_checkpoint.
func (l *live) checkpoint() (c checkpointed, err error) {
	stmt, _, err := l.Prepare("PRAGMA wal_checkpoint(PASSIVE)")
	if err != nil {
		return c, err
	}
	if stmt.Step() {
		busy, log, moved := stmt.ColumnInt64(0), stmt.ColumnInt64(1), stmt.ColumnInt64(2)
		c.elsewhere = busy != 0 && log < 0 // which says nothing of the log
		c.complete = busy == 0 && log >= 0 && log == moved
		c.left = log - moved
	}
	return c, errors.Join(stmt.Err(), stmt.Close())
}

// backupBatch is how many bytes one step of the online backup copies, and
// how far it runs past the end of its context.
const backupBatch = 4 << 20

// copyTo writes the pinned database to dst, a new file, by SQLite's online
// backup: https://sqlite.org/backup.html. As the source is pinned, no writer
// makes it start again. What is written is not yet synced.
func (p *pin) copyTo(ctx context.Context, dst afero.File, moved func(n int64)) (err error) {
	vfsName, release := aferovfs.RegisterWriter(ctx, dst)
	defer func() {
		if releaseErr := release(); err == nil {
			err = releaseErr // else the same again
		}
	}()
	// A failed copy is thrown away: it needs no journal.
	uri := fileURI(aferovfs.DB, url.Values{"vfs": {vfsName}, "_pragma": {"journal_mode(off)", "synchronous(off)"}})
	return guard(func() (err error) {
		backup, err := p.BackupInit("main", uri)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, backup.Close()) }()
		batch := max(1, int(backupBatch/p.pageSize))
		for copied := 0; ; {
			if err := ctx.Err(); err != nil {
				return err
			}
			done, err := backup.Step(batch)
			if err != nil {
				return explain(err)
			}
			now := backup.PageCount() - backup.Remaining()
			moved(int64(now-copied) * p.pageSize)
			copied = now
			if done {
				return nil
			}
		}
	})
}
