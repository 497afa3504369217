package backup_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/afero"
	"golang.org/x/sys/unix"

	"github.com/atocore/backup"
)

// Where the file system can, a copy shares its blocks with what it is a copy
// of. These tests bring such a file system along, an XFS in a file. That takes
// root, mkfs.xfs and a loop device.

// reflinks returns a directory on a file system that can clone files, which is
// there until the test ends, or skips the test.
func reflinks(t testing.TB) string {
	t.Helper()
	mkfs, err := exec.LookPath("mkfs.xfs")
	if err != nil {
		t.Skip("mkfs.xfs is not here: install xfsprogs")
	}
	disk, dir := filepath.Join(t.TempDir(), "disk"), t.TempDir()
	// It is sparse, and XFS wants 300 MB at the least.
	if err := errors.Join(os.WriteFile(disk, nil, 0o600), os.Truncate(disk, 2<<30)); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(mkfs, "-q", "-m", "reflink=1", disk).CombinedOutput(); err != nil {
		t.Skipf("no XFS with reflinks here: %v: %s", err, out)
	}
	mount(t, dir, "-o", "loop", disk)
	return dir
}

func xfsWorld(t *testing.T) *world {
	t.Helper()
	return newWorld(t, afero.NewOsFs(), filepath.Join(reflinks(t), "srv"))
}

// An extent says where a part of a file lies on the disk. It is struct
// fiemap_extent of https://docs.kernel.org/filesystems/fiemap.html.
type extent struct {
	logical, physical, length uint64 // bytes
	_                         [2]uint64
	flags                     uint32
	_                         [3]uint32
}

const (
	extentIsLast   = 0x1
	extentIsShared = 0x2000
)

// extents returns where a file lies, once it has been written to the disk.
func extents(t *testing.T, path string) (all []extent) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for start := uint64(0); ; {
		request := struct { // struct fiemap
			start, length                uint64
			flags, mapped, count, unused uint32
			extents                      [128]extent
		}{start: start, length: ^uint64(0) - start, flags: 1, count: 128} // FIEMAP_FLAG_SYNC
		const fiemap = 0xc020660b // FS_IOC_FIEMAP
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), fiemap, uintptr(unsafe.Pointer(&request))); errno != 0 {
			t.Fatalf("%s: %v", path, errno)
		}
		got := request.extents[:request.mapped]
		all = append(all, got...)
		if len(got) == 0 || got[len(got)-1].flags&extentIsLast != 0 {
			return all
		}
		start = got[len(got)-1].logical + got[len(got)-1].length
	}
}

// shared returns of how many blocks a copy is, and how many of them are those
// of the original.
func shared(t *testing.T, original, copied string) (shared, blocks int) {
	t.Helper()
	const block = 4096 // mkfs.xfs's default
	of := func(path string, also uint32) map[uint64]bool {
		found := make(map[uint64]bool)
		for _, e := range extents(t, path) {
			for at := uint64(0); e.flags&also == also && at < e.length; at += block {
				found[e.physical+at] = true
			}
		}
		return found
	}
	theirs := of(original, extentIsShared)
	for at := range of(copied, extentIsShared) {
		if theirs[at] {
			shared++
		}
	}
	return shared, len(of(copied, 0))
}

// mustBeClone fails unless a file of a snapshot has all of its blocks in
// common with the live one, or none if it was to be copied.
func (w *world) mustBeClone(t *testing.T, snap *backup.Snapshot, copied, live string, want bool) {
	t.Helper()
	n, blocks := shared(t, w.path(live), w.snapshot(snap.Stamp, copied))
	if want && n != blocks || !want && n != 0 || blocks == 0 {
		t.Errorf("%s: %d of %d blocks are those of the live file; to be a clone: %v", copied, n, blocks, want)
	}
}

func TestCopyIsACloneWhereItCanBe(t *testing.T) {
	large := strings.Repeat("0123456789abcdef", 1<<16)
	for _, tc := range []struct {
		name   string
		source func(t *testing.T, w *world) backup.Source
		live   string
		clone  bool
		rows   string // of the books in it
	}{
		{"wal_database_that_is_idle", func(t *testing.T, w *world) backup.Source {
			w.bookkeeping(t, "app.db", "wal", 3)
			mustExec(t, w.connect(t, "app.db"), bookEntry) // which is in the log alone
			return w.database("app.db")
		}, "app.db", true, "1"},
		{"wal_database_of_a_stopped_service", func(t *testing.T, w *world) backup.Source {
			w.bookkeeping(t, "app.db", "wal", 3)
			w.exec(t, "app.db", bookEntry)
			return w.database("app.db")
		}, "app.db", true, "1"},
		{"wal_database_with_a_reader_of_what_is_now", func(t *testing.T, w *world) backup.Source {
			w.bookkeeping(t, "app.db", "wal", 3)
			mustExec(t, w.connect(t, "app.db"), bookEntry)
			mustExec(t, w.connect(t, "app.db"), "BEGIN; "+bookCount)
			return w.database("app.db")
		}, "app.db", true, "1"},
		// What is committed after such a reader began cannot be checkpointed.
		{"wal_database_with_a_reader_of_what_was", func(t *testing.T, w *world) backup.Source {
			w.bookkeeping(t, "app.db", "wal", 3)
			service := w.connect(t, "app.db")
			mustExec(t, service, bookEntry)
			mustExec(t, w.connect(t, "app.db"), "BEGIN; "+bookCount)
			mustExec(t, service, bookEntry)
			return w.database("app.db")
		}, "app.db", false, "2"},
		{"wal_database_with_a_writer_in_a_transaction", func(t *testing.T, w *world) backup.Source {
			w.bookkeeping(t, "app.db", "wal", 3)
			service := w.connect(t, "app.db")
			mustExec(t, service, bookEntry)
			mustExec(t, service, "BEGIN IMMEDIATE; INSERT INTO debits VALUES (1)")
			return w.database("app.db")
		}, "app.db", false, "1"},
		{"wal_database_of_a_service_that_crashed", func(t *testing.T, w *world) backup.Source {
			w.bookkeeping(t, "app.db", "wal", 3)
			service := w.connect(t, "app.db")
			mustExec(t, service, bookEntry)
			for _, suffix := range []string{"", "-wal"} {
				w.write(t, "crashed/app.db"+suffix, w.read(t, "app.db"+suffix))
			}
			return w.database("crashed/app.db")
		}, "crashed/app.db", false, "1"},
		{"rollback_database", func(t *testing.T, w *world) backup.Source {
			w.bookkeeping(t, "app.db", "delete", 3)
			mustExec(t, w.connect(t, "app.db"), bookEntry)
			return w.database("app.db")
		}, "app.db", true, "1"},
		{"database_in_a_tree", func(t *testing.T, w *world) backup.Source {
			w.bookkeeping(t, "live/app.db", "wal", 3)
			mustExec(t, w.connect(t, "live/app.db"), bookEntry)
			return w.treeSource("live")
		}, "live/app.db", true, "1"},
		{"database_with_bytes_beyond_its_end", func(t *testing.T, w *world) backup.Source {
			w.bookkeeping(t, "app.db", "delete", 3)
			w.exec(t, "app.db", bookEntry)
			w.write(t, "app.db", w.read(t, "app.db")+strings.Repeat("beyond  ", 1024))
			return w.database("app.db")
		}, "app.db", true, "1"},
		{"file", func(t *testing.T, w *world) backup.Source {
			w.write(t, "registry.json", large)
			return w.file("registry.json")
		}, "registry.json", true, ""},
		{"file_in_a_tree", func(t *testing.T, w *world) backup.Source {
			w.write(t, "live/vectors.bin", large)
			return w.treeSource("live")
		}, "live/vectors.bin", true, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := xfsWorld(t)
			source := tc.source(t, w)
			snap := mustCreate(t, w.store(t, withSources(source)))
			copied := source.Name + "/" + filepath.Base(tc.live)
			w.mustBeClone(t, snap, copied, tc.live, tc.clone)
			if tc.rows == "" {
				if got := w.read(t, in(snap.Stamp, copied)); got != large {
					t.Errorf("copy of %d bytes, want the %d of the live file", len(got), len(large))
				}
				return
			}
			if got := w.queryCopy(t, snap, copied, bookCount); got != tc.rows {
				t.Errorf("%s rows, want %s", got, tc.rows)
			}
			if got := w.queryCopy(t, snap, copied, bookBalance); got != "0" {
				t.Errorf("a copy of half a transaction: debits less credits are %s", got)
			}
			size := strconv.Itoa(len(w.read(t, in(snap.Stamp, copied))))
			if got := w.queryCopy(t, snap, copied, "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size"); got != size {
				t.Errorf("copy of %s bytes, want the %s of its pages", size, got)
			}
		})
	}
}

// accounts are what each entry of bookkeeping moves something between, from
// then on: two of many, which lie all over the file. A checksum goes along in
// the same transaction, so that a page of another time shows.
const accounts = `
	CREATE TABLE accounts (id INTEGER PRIMARY KEY, balance INTEGER, pad BLOB);
	CREATE TABLE checksum (entries INTEGER, accounts INTEGER);
	WITH RECURSIVE i (i) AS (SELECT 1 UNION ALL SELECT i+1 FROM i WHERE i < 2000)
	INSERT INTO accounts SELECT i, 0, randomblob(900) FROM i;
	INSERT INTO checksum VALUES (0, 0);
	CREATE TRIGGER debit AFTER INSERT ON debits BEGIN
		UPDATE accounts SET balance = balance - 1 WHERE id = 1 + new.rowid * 7919 % 2000;
		UPDATE checksum SET accounts = accounts - (1 + new.rowid * 7919 % 2000);
	END;
	CREATE TRIGGER credit AFTER INSERT ON credits BEGIN
		UPDATE accounts SET balance = balance + 1 WHERE id = 1 + new.rowid * 6733 % 2000;
		UPDATE checksum SET accounts = accounts + (1 + new.rowid * 6733 % 2000), entries = entries + 1;
	END;`

// invariants are what is true of accounts after each transaction.
var invariants = map[string]string{
	"PRAGMA integrity_check":            "ok",
	bookBalance:                         "0",
	"SELECT sum(balance) FROM accounts": "0",
	"SELECT accounts - (SELECT sum(id * balance) FROM accounts) FROM checksum": "0",
	"SELECT entries - (SELECT count(*) FROM debits) FROM checksum":             "0",
}

// A clone is of one instant, at which all is there that was committed before
// Create, though services never cease to write: two in this process and one
// in another.
func TestCloneUnderWritersIsConsistent(t *testing.T) {
	for _, mode := range []string{"wal", "delete"} {
		t.Run(mode, func(t *testing.T) {
			w := xfsWorld(t)
			w.bookkeeping(t, "app.db", mode, 3)
			w.exec(t, "app.db", accounts)
			reader := w.connect(t, "app.db")
			mustExec(t, reader, "PRAGMA busy_timeout=60000")
			writers := []*writer{
				startGoroutine(t, w.path("app.db")), startGoroutine(t, w.path("app.db")), startProcess(t, w.path("app.db")),
			}
			s := w.store(t, withSources(w.database("app.db")), func(cfg *backup.Config) { cfg.BusyTimeout = time.Minute },
				onProgress(t, "db", func() { mustExec(t, reader, "PRAGMA wal_checkpoint(PASSIVE)") }))
			// In WAL mode, the copy is none if the service checkpoints just then,
			// as one that writes like this often does.
			clones, rounds := 0, 0
			for ; clones < 3 && rounds < 60; rounds++ {
				for _, wr := range writers {
					wr.next(t, 0)
				}
				before := countRows(t, reader)
				snap := mustCreate(t, s)
				after := countRows(t, reader)
				// What has been written since is no longer shared; the bulk is.
				if n, _ := shared(t, w.path("app.db"), w.snapshot(snap.Stamp, "db/app.db")); n > 0 {
					clones++
				}
				w.copy(t, in(snap.Stamp, "db"), "copy")
				for sql, want := range invariants {
					if got := w.query(t, "copy/app.db", sql); got != want {
						t.Errorf("%s: %s, want %s", sql, got, want)
					}
				}
				var n int
				fmt.Sscan(w.query(t, "copy/app.db", bookCount), &n)
				if n < before || n > after {
					t.Errorf("%d entries are in the copy; there were %d before, and %d after", n, before, after)
				}
				w.drop(t, "copy")
				if err := s.Delete(t.Context(), snap.Stamp); err != nil { // there is little room
					t.Fatal(err)
				}
				mustExec(t, reader, "PRAGMA wal_checkpoint(TRUNCATE)") // or the log takes all of it
			}
			t.Logf("%d of %d copies were clones", clones, rounds)
			if clones == 0 {
				t.Error("no copy was a clone")
			}
		})
	}
}

// rows returns all that is in the tables of a database, and its schema.
func (w *world) rows(t *testing.T, name string) map[string][]string {
	t.Helper()
	c := w.open(t, name, "PRAGMA busy_timeout=60000")
	defer c.Close()
	rows := make(map[string][]string)
	read := func(table string) {
		stmt, _, err := c.Prepare("SELECT rowid, * FROM " + table + " ORDER BY rowid")
		if err != nil {
			t.Fatal(err)
		}
		defer stmt.Close()
		for stmt.Step() {
			sum := sha256.New()
			for i := range stmt.ColumnCount() {
				fmt.Fprintf(sum, "%v %q,", stmt.ColumnType(i), stmt.ColumnText(i))
			}
			rows[table] = append(rows[table], fmt.Sprintf("%d %x", stmt.ColumnInt64(0), sum.Sum(nil)[:8]))
		}
		if err := stmt.Err(); err != nil {
			t.Fatal(err)
		}
	}
	read("sqlite_schema")
	for _, table := range []string{"debits", "credits", "bulk", "accounts", "checksum"} {
		read(table)
	}
	return rows
}

// A clone has what SQLite's online backup has, and VACUUM INTO, of the same
// instant: a moment between two transactions of services that never cease to
// write.
func TestCloneEqualsTheOnlineBackup(t *testing.T) {
	for _, mode := range []string{"wal", "delete"} {
		t.Run(mode, func(t *testing.T) {
			w := xfsWorld(t)
			w.bookkeeping(t, "app.db", mode, 1)
			w.exec(t, "app.db", accounts)
			var gate sync.RWMutex // who writes, holds it for reading
			var writers sync.WaitGroup
			ctx, stop := context.WithCancel(t.Context())
			defer writers.Wait()
			defer stop()
			commits := make(chan bool)
			for range 3 {
				writers.Go(func() {
					gate.RLock()
					defer gate.RUnlock()
					err := keepWriting(w.path("app.db"), func(int) bool {
						gate.RUnlock()
						select {
						case commits <- true:
						default:
						}
						gate.RLock()
						return ctx.Err() == nil
					})
					if err != nil {
						t.Error(err)
					}
				})
			}
			source := w.database("app.db")
			source.Quiesce = func(context.Context) (func(), error) {
				gate.Lock()
				c := w.open(t, "app.db", "PRAGMA busy_timeout=60000; VACUUM INTO '"+w.path("vacuumed.db")+"'")
				return gate.Unlock, errors.Join(c.Backup("main", w.path("online.db")), c.Close())
			}
			s := w.store(t, withSources(source))
			for range 3 {
				for range 20 {
					<-commits
				}
				snap := mustCreate(t, s)
				if n, _ := shared(t, w.path("app.db"), w.snapshot(snap.Stamp, "db/app.db")); n == 0 {
					t.Error("the copy is no clone")
				}
				clone, online := w.read(t, in(snap.Stamp, "db/app.db")), w.read(t, "online.db")
				const header = 100 // has counters of the changes to each file
				if len(clone) != len(online) || clone[header:] != online[header:] {
					t.Errorf("the clone of %d bytes is not the online backup of %d", len(clone), len(online))
				}
				w.write(t, "clone.db", clone)
				got := w.rows(t, "clone.db")
				for _, name := range []string{"online.db", "vacuumed.db"} {
					want := w.rows(t, name)
					delete(want, "sqlite_schema") // in which VACUUM moves tables
					if name == "online.db" {
						want["sqlite_schema"] = w.rows(t, name)["sqlite_schema"]
					}
					for table := range want {
						if diff := cmp.Diff(got[table], want[table]); diff != "" {
							t.Errorf("%s, against %s (-got +want):\n%.1000s", table, name, diff)
						}
					}
				}
				for _, name := range []string{"clone.db", "online.db", "vacuumed.db"} {
					for _, suffix := range []string{"", "-wal", "-shm"} {
						w.drop(t, name+suffix)
					}
				}
			}
		})
	}
}

// BenchmarkWriterHeldByClone measures the longest commit, in milliseconds, of
// a service that commits every millisecond, alone and while snapshots are
// taken of its database by clones. It is not to grow with the size: 20 MB, and
// 200 MB. Run it with
//
//	go test -run '^$' -bench WriterHeldByClone -benchtime 50x .
//
// The service itself never waits for the disk. If it committed as fast as it
// can, its log would grow under Create's pin, and the longest commit be the one
// in which it checkpoints that.
func BenchmarkWriterHeldByClone(b *testing.B) {
	for _, megabytes := range []int{20, 200} {
		b.Run(fmt.Sprintf("%dMB", megabytes), func(b *testing.B) {
			dir := reflinks(b)
			path := filepath.Join(dir, "app.db")
			makeLoad(b, path, megabytes<<20)
			s, err := backup.New(backup.Config{
				Dir:     filepath.Join(dir, "backups"),
				Sources: []backup.Source{{Name: "db", Kind: backup.Database, Path: path}},
			})
			if err != nil {
				b.Fatal(err)
			}
			stop := longestCommit(b, path)
			<-time.After(time.Second)
			alone := stop()
			stop = longestCommit(b, path)
			for b.Loop() {
				// Nothing is read back, which holds nobody.
				snap, err := s.Create(b.Context(), &backup.CreateOptions{Level: backup.ValidateStructure})
				if err == nil {
					err = s.Delete(b.Context(), snap.Stamp)
				}
				if err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(stop().Seconds()*1000, "longest-create-ms")
			b.ReportMetric(alone.Seconds()*1000, "longest-alone-ms")
		})
	}
}

// longestCommit starts a service on a database of makeLoad, and returns what
// stops it and tells how long its longest commit took.
func longestCommit(b *testing.B, path string) (stop func() time.Duration) {
	b.Helper()
	c, err := openLoad(loadTask{Commits: path, Pragmas: "PRAGMA synchronous=OFF"})
	if err != nil {
		b.Fatal(err)
	}
	var longest time.Duration
	stopping, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for !isClosed(stopping) {
			<-tick.C
			took, err := measureCommits(c, 1)
			if err != nil {
				b.Error(err)
				return
			}
			longest = max(longest, took[0])
		}
	}()
	stop = sync.OnceValue(func() time.Duration {
		close(stopping)
		<-stopped
		if err := c.Close(); err != nil {
			b.Error(err)
		}
		return longest
	})
	b.Cleanup(func() { stop() }) // before the file system goes
	return stop
}

// A clone is of one instant, and the manifest has the checksum of its own bytes,
// also where the live file is no longer what was cloned by the time that it is
// hashed.
func TestChecksumIsTheClones(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(t *testing.T, w *world, n int) // the n-th time that a part was read
	}{
		{"rewritten_once", func(t *testing.T, w *world, n int) {
			if n == 1 {
				w.overwrite(t, "live/f", newContent)
			}
		}},
		{"rewritten_each_time", func(t *testing.T, w *world, n int) {
			w.overwrite(t, "live/f", strings.Repeat(string(rune('a'+n)), len(newContent)))
		}},
		{"grows_each_time", func(t *testing.T, w *world, n int) {
			w.write(t, "live/f", w.read(t, "live/f")+"more")
		}},
		{"truncated_each_time", func(t *testing.T, w *world, n int) {
			if n%2 == 1 {
				w.write(t, "live/f", "short")
			} else {
				w.write(t, "live/f", oldContent)
			}
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := xfsWorld(t)
			w.write(t, "live/f", oldContent)
			n := 0
			s := w.store(t, withSources(w.treeSource("live")), onProgress(t, "tree", func() {
				n++
				tc.change(t, w, n)
			}))
			snap, err := s.Create(t.Context(), nil)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(problemsOf(snap), []string(nil)); diff != "" {
				t.Errorf("problems (-got +want):\n%s", diff)
			}
			copied := w.read(t, in(snap.Stamp, "tree/f"))
			entry := w.manifest(t, snap.Stamp)["tree/f"]
			if got := fmt.Sprintf("%x", sha256.Sum256([]byte(copied))); entry.SHA256 != got || entry.Size != int64(len(copied)) {
				t.Errorf("recorded are %d bytes of %s; the clone is %d bytes of %s", entry.Size, entry.SHA256, len(copied), got)
			}
		})
	}
}

// overwrite writes over the beginning of a file that stays the same one.
func (w *world) overwrite(t *testing.T, name, content string) {
	t.Helper()
	f, err := w.fs.OpenFile(w.path(name), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteString(content)
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
}

// What is written to a live file, be it the one that was cloned or one that
// was restored, does not reach the snapshot.
func TestSnapshotOfClonesStaysAsItIs(t *testing.T) {
	w := xfsWorld(t)
	w.bookkeeping(t, "data/app.db", "wal", 3)
	w.exec(t, "data/app.db", accounts+bookEntry)
	w.write(t, "config/registry.json", oldContent)
	w.write(t, "live/vectors.bin", oldContent)
	s := w.store(t, withSources(w.database("data/app.db"), w.file("config/registry.json"), w.treeSource("live")))
	stamp := mustCreate(t, s).Stamp
	snapshot, rows := w.tree(t, in(stamp, ".")), w.rows(t, "data/app.db")

	write := func() {
		for range 100 {
			w.exec(t, "data/app.db", bookEntry)
		}
		w.exec(t, "data/app.db", "UPDATE bulk SET b = randomblob(1048576); PRAGMA wal_checkpoint(TRUNCATE)")
		for _, name := range []string{"config/registry.json", "live/vectors.bin"} {
			w.overwrite(t, name, newContent)
		}
	}
	for _, live := range []string{"the original", "what was restored"} {
		write()
		if diff := cmp.Diff(w.tree(t, in(stamp, ".")), snapshot); diff != "" {
			t.Fatalf("after writes to %s (-got +want):\n%.1000s", live, diff)
		}
		mustBeValid(t, s, stamp)
		w.restore(t, s, stamp)
		for copied, name := range map[string]string{
			"db/app.db": "data/app.db", "file/registry.json": "config/registry.json", "tree/vectors.bin": "live/vectors.bin",
		} {
			if w.read(t, name) != w.read(t, in(stamp, copied)) {
				t.Errorf("%s is not what is in the snapshot", name)
			}
		}
		if diff := cmp.Diff(w.rows(t, "data/app.db"), rows); diff != "" {
			t.Errorf("restored after writes to %s (-got +want):\n%.1000s", live, diff)
		}
	}
	mustBeValid(t, s, stamp)
}

// What has not changed in a tree is cloned from the earlier snapshot, and not
// read: only so can what was done to that copy be in the new one.
func TestUnchangedFileIsClonedFromTheSnapshot(t *testing.T) {
	w := xfsWorld(t)
	w.write(t, "live/f", oldContent)
	waitUntilOld(t, w, "live/f")
	s := w.store(t, withSources(w.treeSource("live")))
	first := mustCreate(t, s)
	second := mustCreate(t, s)
	w.mustBeClone(t, second, "tree/f", "backups/snapshots/"+first.Stamp+"/tree/f", true)
	w.mustBeGoodCopy(t, s, second, "tree/f", "live/f")

	w.overwrite(t, in(second.Stamp, "tree/f"), "damage")
	for level, want := range map[backup.Level]string{
		backup.ValidateStructure: w.read(t, in(second.Stamp, "tree/f")),
		backup.ValidateFull:      oldContent, // the damage was found, and the file copied
	} {
		snap, err := s.Create(t.Context(), &backup.CreateOptions{Level: level})
		if err != nil {
			t.Fatal(err)
		}
		if got := w.read(t, in(snap.Stamp, "tree/f")); got != want {
			t.Errorf("%v: %.20q…, want %.20q…", level, got, want)
		}
		if err := s.Delete(t.Context(), snap.Stamp); err != nil {
			t.Fatal(err)
		}
	}
}

// fill leaves so much room on the world's file system.
func (w *world) fill(t *testing.T, leave int64) {
	t.Helper()
	f, err := os.Create(w.path("filler"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close() // it has no content
	for size := int64(0); ; {
		if err := unix.Syncfs(int(f.Fd())); err != nil { // XFS frees what was removed when it has the time
			t.Fatal(err)
		}
		var st unix.Statfs_t
		if err := unix.Fstatfs(int(f.Fd()), &st); err != nil {
			t.Fatal(err)
		}
		more := int64(st.Bavail)*int64(st.Bsize) - leave
		if more <= 1<<20 {
			return
		}
		if err := unix.Fallocate(int(f.Fd()), 0, size, more); err != nil {
			t.Fatal(err)
		}
		size += more
	}
}

// What can be a clone needs no room, neither to be copied nor to be restored.
func TestClonesNeedNoSpace(t *testing.T) {
	w := xfsWorld(t)
	w.bookkeeping(t, "app.db", "wal", 64)
	w.write(t, "live/f", strings.Repeat("x", 64<<20))
	w.fill(t, 40<<20)
	s := w.store(t, withSources(w.database("app.db"), w.treeSource("live")))
	snap := mustCreate(t, s)
	w.restore(t, s, snap.Stamp)
	mustBeValid(t, s, snap.Stamp)
}

// A database that a reader keeps from being a clone needs all of its size. The
// service's own disk is not to be filled to find that out.
func TestDatabaseThatIsNoCloneNeedsSpace(t *testing.T) {
	w := xfsWorld(t)
	w.bookkeeping(t, "app.db", "wal", 64)
	service := w.connect(t, "app.db")
	mustExec(t, service, bookEntry)
	mustExec(t, w.connect(t, "app.db"), "BEGIN; "+bookCount)
	mustExec(t, service, bookEntry)
	w.fill(t, 40<<20)
	_, err := w.store(t, withSources(w.database("app.db"))).Create(t.Context(), nil)
	if !errors.Is(err, backup.ErrNoSpace) {
		t.Errorf("got %v, want %v", err, backup.ErrNoSpace)
	}
}
