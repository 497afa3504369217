package backup_test

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/atocore/backup"
)

// What Recover does where something is mounted, and where the service or the
// mount was faster.

// interrupt restores, and is cut short when at says so.
func (w *world) interrupt(t *testing.T, stamp string, sources []backup.Source, at func(op, p string) bool) {
	t.Helper()
	s, stopped := w.stopping(t, at, withSources(sources...))
	if _, err := s.Restore(t.Context(), stamp, confirmed); !stopped() || !w.pending(t) {
		t.Fatalf("not interrupted: %v", err)
	}
}

// whileStaging is when the first file is staged.
func whileStaging(op, p string) bool { return op == "create" && strings.Contains(p, "/new/") }

// detach takes away what is mounted.
func detach(t *testing.T, p string) {
	t.Helper()
	if err := unix.Unmount(p, unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
}

// bindForNow is bind, for what the test takes away by itself.
func bindForNow(t *testing.T, from, to string) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("mounting needs root")
	}
	if err := unix.Mount(from, to, "", unix.MS_BIND, ""); err != nil {
		t.Skipf("no mounts here: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(to, unix.MNT_DETACH) }) // unless the test has done so
}

// mountedFile returns a world in which a file is mounted at live/f, from
// volumes/f, and is "old" now, where a snapshot has it as "new".
func mountedFile(t *testing.T) (w *world, s *backup.Store, sources []backup.Source, stamp string) {
	t.Helper()
	w = osWorld(t)
	w.write(t, "volumes/f", "new")
	w.write(t, "live/f", "placeholder")
	bindForNow(t, w.path("volumes/f"), w.path("live/f"))
	sources = []backup.Source{w.file("live/f")}
	s = w.store(t, withSources(sources...))
	stamp = mustCreate(t, s).Stamp
	w.write(t, "live/f", "old")
	return w, s, sources, stamp
}

// mountedDatabase returns a world in which a database is mounted at live/app.db,
// from volumes/app.db.
func mountedDatabase(t *testing.T, sql string) *world {
	t.Helper()
	w := osWorld(t)
	w.exec(t, "volumes/app.db", sql)
	w.write(t, "live/app.db", "")
	bindForNow(t, w.path("volumes/app.db"), w.path("live/app.db"))
	return w
}

// A directory that had to be made within a tree is the restore's own, whatever
// it was made for.
func TestRecoverOfADirectoryMadeInATree(t *testing.T) {
	for _, cut := range []string{"while_staging", "before_the_note"} {
		t.Run(cut, func(t *testing.T) {
			w := osWorld(t)
			w.exec(t, "srv/data/app.db", "CREATE TABLE t (x); INSERT INTO t VALUES ('new')")
			w.write(t, "srv/f", "new")
			sources := []backup.Source{w.treeSource("srv"), w.database("srv/data/app.db")}
			s := w.store(t, withSources(sources...))
			stamp := mustCreate(t, s).Stamp
			w.drop(t, "srv/data") // the usual reason to restore
			w.write(t, "srv/f", "old")
			at := map[string]func(op, p string) bool{"while_staging": whileStaging, "before_the_note": w.beforeTheNote(t)}[cut]
			w.interrupt(t, stamp, sources, at)
			if _, err := s.Recover(t.Context()); err != nil {
				t.Fatal(err)
			}
			w.restore(t, s, stamp)
		})
	}
}

// Where the placeholder lies that a mount covers, nothing is to be written.
func TestRecoverWaitsForAMountedFile(t *testing.T) {
	for phase, undo := range map[string]bool{"finish": false, "undo": true} {
		t.Run(phase, func(t *testing.T) {
			w, s, sources, stamp := mountedFile(t)
			w.interrupt(t, stamp, sources, func(op, p string) bool { return op == "truncate" && p == w.path("live/f") })
			if undo {
				w.toUndo(t)
			}
			detach(t, w.path("live/f"))
			if r, err := s.Recover(t.Context()); !errors.Is(err, backup.ErrRecoveryPending) {
				t.Errorf("%+v, %v", r, err)
			}
			if got := w.read(t, "live/f"); got != "placeholder" {
				t.Errorf("in the place of the mount: %q", got)
			}
			bindForNow(t, w.path("volumes/f"), w.path("live/f"))
			if _, err := s.Recover(t.Context()); err != nil {
				t.Fatal(err)
			}
			want := map[bool]string{false: "new", true: "old"}[undo]
			if got := w.read(t, "live/f"); got != want {
				t.Errorf("recovered %q, want %q", got, want)
			}
		})
	}
}

// A mount point without its mount is an empty directory, and not one in which
// there is nothing left to remove.
func TestDiscardWaitsForTheFileSystem(t *testing.T) {
	for name, source := range map[string]string{"root": "live", "parent_of_the_root": "live/missing/deep"} {
		t.Run(name, func(t *testing.T) {
			w := osWorld(t)
			w.mkdir(t, "volume")
			w.mkdir(t, "live")
			bindForNow(t, w.path("volume"), w.path("live"))
			w.write(t, source+"/f", "old")
			sources := []backup.Source{w.treeSource(source)}
			s := w.store(t, withSources(sources...))
			stamp := mustCreate(t, s).Stamp
			if source != "live" {
				w.drop(t, "live/missing")
			}
			w.interrupt(t, stamp, sources, whileStaging)
			detach(t, w.path("live"))
			if r, err := s.Recover(t.Context()); !errors.Is(err, backup.ErrRecoveryPending) {
				t.Errorf("%+v, %v", r, err)
			}
			bindForNow(t, w.path("volume"), w.path("live"))
			if _, err := s.Recover(t.Context()); err != nil {
				t.Error(err)
			}
			if left := w.matches(t, "volume/.ato*"); len(left) > 0 || w.exists(t, "volume/missing") {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

// Once a mounted database has been overwritten, it is the service's, as any other
// is that has been put in place.
func TestRecoverLeavesTheServiceItsMountedDatabase(t *testing.T) {
	prepare := func(t *testing.T) (*world, *backup.Store) {
		w := mountedDatabase(t, "PRAGMA journal_mode=WAL; CREATE TABLE t (x); INSERT INTO t VALUES ('old')")
		sources := []backup.Source{w.database("live/app.db")}
		s := w.store(t, withSources(sources...))
		stamp := mustCreate(t, s).Stamp
		w.exec(t, "live/app.db", "INSERT INTO t VALUES ('since')")
		w.interrupt(t, stamp, sources, w.beforeTheNote(t))
		return w, s
	}
	t.Run("worked_with", func(t *testing.T) {
		w, s := prepare(t)
		w.exec(t, "live/app.db", "INSERT INTO t VALUES ('committed')")
		if r, err := s.Recover(t.Context()); err != nil || r.Outcome != backup.RestoreFinished {
			t.Errorf("%+v, %v", r, err)
		}
		if got := w.query(t, "live/app.db", "SELECT x FROM t"); got != "old\ncommitted" {
			t.Errorf("there are %q", got)
		}
	})
	t.Run("worked_with_before_an_undo", func(t *testing.T) {
		w, s := prepare(t)
		w.exec(t, "live/app.db", "INSERT INTO t VALUES ('committed')")
		w.toUndo(t)
		if r, err := s.Recover(t.Context()); !errors.Is(err, backup.ErrRecoveryPending) {
			t.Errorf("%+v, %v", r, err)
		}
		if got := w.query(t, "live/app.db", "SELECT x FROM t"); got != "old\ncommitted" {
			t.Errorf("there are %q", got)
		}
	})
	t.Run("in_use", func(t *testing.T) {
		w, s := prepare(t)
		c := w.connect(t, "live/app.db")
		mustExec(t, c, "BEGIN IMMEDIATE; INSERT INTO t VALUES ('in a transaction')")
		if r, err := s.Recover(t.Context()); !errors.Is(err, backup.ErrServiceRunning) {
			t.Errorf("%+v, %v", r, err)
		}
	})
	t.Run("undone", func(t *testing.T) {
		w, s := prepare(t)
		w.toUndo(t)
		fault, stopped := w.stopping(t, func(op, p string) bool { return op == "create" && p == w.path(journalFile)+".tmp" },
			withSources(w.database("live/app.db")))
		if _, err := fault.Recover(t.Context()); !stopped() {
			t.Fatalf("not interrupted: %v", err)
		}
		w.exec(t, "live/app.db", "INSERT INTO t VALUES ('committed')")
		if r, err := s.Recover(t.Context()); err != nil || r.Outcome != backup.RestoreUndone {
			t.Errorf("%+v, %v", r, err)
		}
		if got := w.query(t, "live/app.db", "SELECT x FROM t"); got != "old\nsince\ncommitted" {
			t.Errorf("there are %q", got)
		}
	})
}

// Directories that are made belong to whom the one does that they are made in,
// and have the mode that the snapshot has noted.
func TestMadeDirectoriesHaveOwnerAndMode(t *testing.T) {
	for _, order := range []string{"tree_first", "tree_last"} {
		t.Run(order, func(t *testing.T) {
			w := osWorld(t)
			w.exec(t, "srv/app/private/app.db", "CREATE TABLE t (x)")
			w.write(t, "srv/app/private/key", "secret")
			w.write(t, "srv/config/f.json", "{}")
			w.attribute(t, "srv/app", 0o755, start)
			w.attribute(t, "srv/app/private", 0o700, start)
			if err := os.Chown(w.path("srv"), 1000, 1000); err != nil {
				t.Skip("to give files to others needs root: ", err)
			}
			sources := []backup.Source{w.treeSource("srv/app"), w.database("srv/app/private/app.db"), w.file("srv/config/f.json")}
			if order == "tree_last" {
				sources[0], sources[1] = sources[1], sources[0]
			}
			s := w.store(t, withSources(sources...))
			stamp := mustCreate(t, s).Stamp
			w.drop(t, "srv/app")
			w.drop(t, "srv/config")
			w.restore(t, s, stamp)
			for name, perm := range map[string]fs.FileMode{
				"srv/app": 0o755, "srv/app/private": 0o700, "srv/app/private/app.db": 0o644, "srv/config": 0o700, "srv/config/f.json": 0o644,
			} {
				fi, err := os.Stat(w.path(name))
				if err != nil {
					t.Fatal(err)
				}
				if st := fi.Sys().(*syscall.Stat_t); st.Uid != 1000 || st.Gid != 1000 || fi.Mode().Perm() != perm {
					t.Errorf("%s: %v of %d:%d, want %v of 1000:1000", name, fi.Mode().Perm(), st.Uid, st.Gid, perm)
				}
			}
		})
	}
}

// A journal leads nowhere by way of a link within a tree.
func TestForgedJournalThroughALink(t *testing.T) {
	w := osWorld(t)
	const forged = ".atobackup-0123456789abcdef-tree"
	w.write(t, "tree/f", "old")
	w.write(t, "victim/"+forged+"/old/x", "not ours")
	sources := []backup.Source{w.treeSource("tree")}
	s := w.store(t, withSources(sources...))
	w.interrupt(t, mustCreate(t, s).Stamp, sources, whileStaging)
	w.symlink(t, "../victim", "tree/out")
	w.edit(t, journalFile, func(data []byte) []byte {
		text := regexp.MustCompile(`\.atobackup-[0-9a-f]{16}-tree`).ReplaceAllString(string(data), forged)
		text = replace(t, `"root": "`+w.path("tree")+`"`, `"root": "`+w.path("tree/out")+`"`)(text)
		return []byte(reseal(text))
	})
	if r, err := s.Recover(t.Context()); !errors.Is(err, backup.ErrRecoveryPending) {
		t.Errorf("%+v, %v", r, err)
	}
	if !w.exists(t, "victim/"+forged+"/old/x") {
		t.Error("a directory outside of all sources was removed")
	}
}

// A link in the place of the lock leads to no file of others.
func TestLockIsNoLink(t *testing.T) {
	w := osWorld(t)
	s := w.small(t)
	w.create(t, s)
	w.drop(t, "backups/lock")
	w.symlink(t, "../elsewhere", "backups/lock")
	if snap, err := s.Create(t.Context(), nil); err == nil {
		t.Errorf("created %s", snap.Stamp)
	}
	if w.exists(t, "elsewhere") {
		t.Error("a file was made outside of the store")
	}
}

// Whether a file has room to grow is up to the file system that it is mounted
// from.
func TestRestoreOfAMountedFileNeedsRoom(t *testing.T) {
	w := osWorld(t)
	w.mkdir(t, "small")
	w.write(t, "live/f", strings.Repeat("n", 600<<10))
	sources := []backup.Source{w.file("live/f")}
	s := w.store(t, withSources(sources...))
	stamp := mustCreate(t, s).Stamp
	if err := unix.Mount("tmpfs", w.path("small"), "tmpfs", 0, "size=512k"); err != nil {
		t.Skip("no mounts here: ", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(w.path("small"), unix.MNT_DETACH) })
	w.write(t, "small/f", "old")
	bind(t, w.path("small/f"), w.path("live/f"))
	if _, err := s.Restore(t.Context(), stamp, confirmed); !errors.Is(err, backup.ErrNoSpace) {
		t.Errorf("%v", err)
	}
	if got := w.read(t, "live/f"); got != "old" || w.pending(t) {
		t.Errorf("there is %.10q", got)
	}
}

// What the error of a restore that is pending says is where the old files are.
func TestPendingRestoreSaysWhereTheMountedFileIs(t *testing.T) {
	w, _, sources, stamp := mountedFile(t)
	fault, _ := w.stopping(t, func(op, p string) bool { return op == "truncate" && p == w.path("live/f") }, withSources(sources...))
	_, err := fault.Restore(t.Context(), stamp, confirmed)
	copies := w.matches(t, "live/.ato*/copy")
	if !errors.Is(err, backup.ErrRecoveryPending) || len(copies) != 1 || !strings.Contains(err.Error(), copies[0]) {
		t.Errorf("%v, want it to name %v", err, copies)
	}
}

// loopExt4 mounts a new ext4 at a directory until the test ends.
func loopExt4(t *testing.T, at string, options ...string) (image string) {
	t.Helper()
	image = filepath.Join(t.TempDir(), "image")
	for _, args := range [][]string{
		{"truncate", "-s", "16M", image},
		append(append([]string{"mkfs.ext4", "-q", "-F"}, options...), image),
		{"mount", "-o", "loop", image, at},
	} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Skipf("no file system to mount: %v: %v: %s", args, err, out)
		}
	}
	t.Cleanup(func() {
		if err := unix.Unmount(at, unix.MNT_DETACH); err != nil && err != unix.EINVAL { // unless the test has done so
			t.Error(err)
		}
	})
	return image
}

// A mount point that is about to be overwritten may be opened by a service that
// was started too early: all of it is old.
func TestRecoverRefusesUnderAServiceOnAMountPoint(t *testing.T) {
	for cut, at := range map[string]func(w *world) func(op, p string) bool{
		"copying": func(*world) func(op, p string) bool {
			return func(op, p string) bool { return op == "write" && strings.Contains(p, "/copy/") }
		},
		"copied": func(w *world) func(op, p string) bool {
			return func(op, p string) bool {
				return op == "create" && p == w.path(journalFile)+".tmp" && len(w.matches(t, "live/.ato*/copy/*")) > 0
			}
		},
		"noted": func(w *world) func(op, p string) bool {
			return func(op, p string) bool { return op == "write" && p == w.path("live/app.db") }
		},
	} {
		t.Run(cut, func(t *testing.T) {
			w := mountedDatabase(t, "PRAGMA journal_mode=WAL; CREATE TABLE t (x); INSERT INTO t VALUES ('snapshot')")
			sources := []backup.Source{w.database("live/app.db")}
			s := w.store(t, withSources(sources...))
			stamp := mustCreate(t, s).Stamp
			w.exec(t, "live/app.db", "INSERT INTO t VALUES ('since')")
			w.interrupt(t, stamp, sources, at(w))
			service := w.connect(t, "live/app.db")
			mustExec(t, service, "SELECT * FROM t")
			if r, err := s.Recover(t.Context()); !errors.Is(err, backup.ErrServiceRunning) {
				t.Errorf("%+v, %v", r, err)
			}
			mustExec(t, service, "INSERT INTO t VALUES ('committed')")
		})
	}
}

// Two file systems may number their first files alike.
func TestRecoverKnowsAPlaceholderOfTheSameNumber(t *testing.T) {
	w := osWorld(t)
	w.mkdir(t, "volumes")
	w.mkdir(t, "live")
	loopExt4(t, w.path("volumes"))
	loopExt4(t, w.path("live"))
	w.write(t, "volumes/f", "snapshot")
	w.write(t, "live/f", "placeholder")
	if inode(t, w.path("volumes/f")) != inode(t, w.path("live/f")) {
		t.Skip("these do not")
	}
	bindForNow(t, w.path("volumes/f"), w.path("live/f"))
	sources := []backup.Source{w.file("live/f")}
	s := w.store(t, withSources(sources...))
	stamp := mustCreate(t, s).Stamp
	w.write(t, "live/f", "what there was before the restore")
	w.interrupt(t, stamp, sources, func(op, p string) bool { return op == "truncate" && p == w.path("live/f") })
	detach(t, w.path("live/f"))
	if r, err := s.Recover(t.Context()); !errors.Is(err, backup.ErrRecoveryPending) {
		t.Errorf("%+v, %v", r, err)
	}
	if got := w.read(t, "live/f"); got != "placeholder" {
		t.Errorf("in the place of the mount: %q", got)
	}
	bindForNow(t, w.path("volumes/f"), w.path("live/f"))
	if r, err := s.Recover(t.Context()); err != nil {
		t.Errorf("%+v, %v", r, err)
	}
}

// A directory on tmpfs, as /run is, is another one after a start of the system.
func TestDiscardGoesByNoNumbersThatDoNotLast(t *testing.T) {
	w := osWorld(t)
	w.mkdir(t, "run")
	mount := func(dirs ...string) {
		if err := unix.Mount("tmpfs", w.path("run"), "tmpfs", 0, "size=8m"); err != nil {
			t.Skip("no mounts here: ", err)
		}
		for _, dir := range dirs {
			w.mkdir(t, "run/"+dir)
		}
	}
	mount("other", "app")
	t.Cleanup(func() { _ = unix.Unmount(w.path("run"), unix.MNT_DETACH) })
	w.write(t, "run/app/f", "snapshot")
	w.write(t, "data/g", "snapshot")
	first, second := w.file("data/g"), w.file("run/app/f")
	first.Name = "first"
	sources := []backup.Source{first, second}
	s := w.store(t, withSources(sources...))
	stamp := mustCreate(t, s).Stamp
	func() {
		defer func() { _ = recover() }()
		s := w.store(t, withSources(sources...), during("restore", "first", func() { panic("a crash") }))
		_, err := s.Restore(t.Context(), stamp, confirmed)
		t.Errorf("not interrupted: %v", err)
	}()
	if !w.pending(t) {
		t.Fatal("nothing is pending")
	}
	detach(t, w.path("run"))
	mount("app", "other")
	if r, err := s.Recover(t.Context()); err != nil {
		t.Errorf("%+v, %v", r, err)
	}
}

// Journals of before mount points had numbers, and were moved aside, are read.
func TestRecoverOfAnOlderJournal(t *testing.T) {
	for name, mounted := range map[string]bool{"renamed": false, "mounted": true} {
		t.Run(name, func(t *testing.T) {
			w := osWorld(t)
			w.write(t, "live/f", "new")
			if mounted {
				w.write(t, "volumes/f", "new")
				bind(t, w.path("volumes/f"), w.path("live/f"))
			}
			sources := []backup.Source{w.file("live/f")}
			s := w.store(t, withSources(sources...))
			stamp := mustCreate(t, s).Stamp
			w.write(t, "live/f", "old")
			at := w.beforeTheNote(t)
			if mounted {
				at = func(op, p string) bool { return op == "truncate" && p == w.path("live/f") }
			}
			w.interrupt(t, stamp, sources, at)
			w.edit(t, journalFile, func(data []byte) []byte {
				text := regexp.MustCompile(`(?s),\s*"in_place_inodes": \[[^\]]*\]`).ReplaceAllString(string(data), "")
				return []byte(reseal(regexp.MustCompile(`,\s*"inode": \d+`).ReplaceAllString(text, "")))
			})
			if r, err := s.Recover(t.Context()); err != nil || r.Outcome != backup.RestoreFinished {
				t.Errorf("%+v, %v", r, err)
			}
		})
	}
}

// When all is done but for the note of it, it does not matter any more what is
// mounted.
func TestRecoverOfAMountThatWasReplacedInTheEnd(t *testing.T) {
	for phase, undo := range map[string]bool{"finish": false, "undo": true} {
		t.Run(phase, func(t *testing.T) {
			w, s, sources, stamp := mountedFile(t)
			w.interrupt(t, stamp, sources, w.beforeTheNote(t))
			if undo {
				w.toUndo(t)
				fault, stopped := w.stopping(t, func(op, p string) bool { return op == "create" && p == w.path(journalFile)+".tmp" }, withSources(sources...))
				if _, err := fault.Recover(t.Context()); !stopped() {
					t.Fatalf("not interrupted: %v", err)
				}
			}
			detach(t, w.path("live/f"))
			w.replace(t, "volumes/f", "edited")
			bindForNow(t, w.path("volumes/f"), w.path("live/f"))
			if r, err := s.Recover(t.Context()); err != nil {
				t.Errorf("%+v, %v", r, err)
			}
			if got := w.read(t, "live/f"); got != "edited" {
				t.Errorf("there is %q", got)
			}
		})
	}
}

// A file system that keeps times in seconds has not been worked with for that.
func TestRecoverOfAMountWithCoarseTimes(t *testing.T) {
	w := osWorld(t)
	w.mkdir(t, "volume")
	loopExt4(t, w.path("volume"), "-I", "128")
	w.write(t, "live/a", "new")
	w.write(t, "live/b", "new")
	a, b := w.file("live/a"), w.file("live/b")
	a.Name = "a"
	sources := []backup.Source{a, b}
	s := w.store(t, withSources(sources...))
	stamp := mustCreate(t, s).Stamp
	w.write(t, "volume/a", "old")
	w.write(t, "live/b", "old")
	bind(t, w.path("volume/a"), w.path("live/a"))
	w.interrupt(t, stamp, sources, func(op, p string) bool { return op == "rename" && strings.HasSuffix(p, "-file/new/b") })
	if r, err := s.Recover(t.Context()); err != nil || r.Outcome != backup.RestoreFinished {
		t.Errorf("%+v, %v", r, err)
	}
}

// What of a snapshot was not restored need not be readable.
func TestRecoverReadsOnlyWhatWasRestored(t *testing.T) {
	w := osWorld(t)
	w.python(t)
	w.seed(t)
	s, stopped := w.stopping(t, w.beforeTheNote(t))
	_, err := s.Restore(t.Context(), pythonSnapshot, &backup.RestoreOptions{ConfirmServiceStopped: true, Sources: []string{"config"}})
	if !stopped() {
		t.Fatalf("not interrupted: %v", err)
	}
	reads := 0
	s = w.faulty(t, func(op, p string) error {
		if op == "read" && strings.Contains(p, pythonSnapshot) && strings.HasSuffix(p, ".db") {
			if reads++; reads > 1 { // past its header
				return syscall.EIO
			}
		}
		return nil
	})
	if r, err := s.Recover(t.Context()); err != nil || r.Outcome != backup.RestoreFinished {
		t.Errorf("%+v, %v", r, err)
	}
}

// A mount point that was to be overwritten, and was not yet, or in part, is one
// that a service may have committed to.
func TestRecoverKeepsWhatWasCommittedToAMountedDatabase(t *testing.T) {
	for op, cut := range map[string]string{"before": "write", "half_written": "truncate"} {
		for phase, undo := range map[string]bool{"finish": false, "undo": true} {
			t.Run(op+"_"+phase, func(t *testing.T) {
				w := mountedDatabase(t, "CREATE TABLE t (x); INSERT INTO t VALUES ('snapshot')")
				sources := []backup.Source{w.database("live/app.db")}
				s := w.store(t, withSources(sources...))
				stamp := mustCreate(t, s).Stamp
				w.exec(t, "live/app.db", "INSERT INTO t VALUES ('since')")
				w.interrupt(t, stamp, sources, func(op, p string) bool { return op == cut && p == w.path("live/app.db") })
				if undo {
					w.toUndo(t)
				}
				was := w.read(t, "live/app.db")
				w.exec(t, "live/app.db", "INSERT INTO t VALUES ('acknowledged')")
				committed := w.read(t, "live/app.db")
				if r, err := s.Recover(t.Context()); !errors.Is(err, backup.ErrRecoveryPending) {
					t.Errorf("%+v, %v", r, err)
				}
				if w.read(t, "live/app.db") != committed {
					t.Error("what was committed is gone")
				}
				w.write(t, "live/app.db", was)
				if r, err := s.Recover(t.Context()); err != nil {
					t.Errorf("%+v, %v", r, err)
				}
				want := map[bool]string{false: "snapshot", true: "snapshot\nsince"}[undo]
				if got := w.query(t, "live/app.db", "SELECT x FROM t"); got != want {
					t.Errorf("got %q, want %q", got, want)
				}
			})
		}
	}
}

// A mount point that was given the mode that it has in the snapshot, with which
// its owner may not write to it, is given its old bytes back.
func TestUndoOfAMountPointThatIsReadOnlyByUser(t *testing.T) {
	if !asUser(t) {
		return
	}
	w := osWorld(t)
	w.write(t, "live/f", "new")
	w.attribute(t, "live/f", 0o444, start)
	w.write(t, "z/g", "new")
	a, b := w.file("live/f"), w.file("z/g")
	a.Name = "a"
	sources := withSources(a, b)
	stamp := mustCreate(t, w.store(t, sources)).Stamp
	w.attribute(t, "live/f", 0o644, start)
	w.write(t, "live/f", "old")
	w.write(t, "z/g", "old")
	before := w.liveState(t)
	s := w.faulty(t, func(op, p string) error {
		switch {
		case op == "rename" && p == w.path("live/f"):
			return syscall.EBUSY
		case op == "rename" && isStaged(p, "g"):
			return syscall.EIO
		}
		return nil
	}, sources)
	if r, err := s.Restore(t.Context(), stamp, quickly); !errors.Is(err, syscall.EIO) || w.pending(t) {
		t.Errorf("%+v, %v", r, err)
	}
	mustBeSame(t, w.liveState(t), before)
}

// A directory that was made on a file system whose numbers do not last is
// recognised by its being there.
func TestDiscardInADirectoryMadeOnTmpfs(t *testing.T) {
	w := osWorld(t)
	w.mkdir(t, "run")
	if err := unix.Mount("tmpfs", w.path("run"), "tmpfs", 0, "size=8m"); err != nil {
		t.Skip("no mounts here: ", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(w.path("run"), unix.MNT_DETACH) })
	w.write(t, "run/app/f", "snapshot")
	sources := []backup.Source{w.file("run/app/f")}
	s := w.store(t, withSources(sources...))
	stamp := mustCreate(t, s).Stamp
	w.drop(t, "run/app")
	w.interrupt(t, stamp, sources, func(op, p string) bool { return op == "remove" && p == w.path(journalFile) })
	s = w.faulty(t, func(string, string) error { return nil }, withSources(sources...)) // a file system as that of the restore
	if r, err := s.Recover(t.Context()); err != nil || r.Outcome != backup.Discarded {
		t.Errorf("%+v, %v", r, err)
	}
}

// Where a volume is missing, there may be a directory on a file system whose
// numbers do not last: it is not that of the volume.
func TestDiscardWaitsForAVolumeOverTmpfs(t *testing.T) {
	w := osWorld(t)
	w.mkdir(t, "volume")
	w.mkdir(t, "container")
	if err := unix.Mount("tmpfs", w.path("container"), "tmpfs", 0, "size=8m"); err != nil {
		t.Skip("no mounts here: ", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(w.path("container"), unix.MNT_DETACH) })
	w.mkdir(t, "container/live")
	bindForNow(t, w.path("volume"), w.path("container/live"))
	w.write(t, "container/live/f", "old")
	sources := []backup.Source{w.treeSource("container/live")}
	s := w.store(t, withSources(sources...))
	stamp := mustCreate(t, s).Stamp
	w.interrupt(t, stamp, sources, whileStaging)
	detach(t, w.path("container/live"))
	if r, err := s.Recover(t.Context()); !errors.Is(err, backup.ErrRecoveryPending) {
		t.Errorf("without the volume: %+v, %v", r, err)
	}
	bindForNow(t, w.path("volume"), w.path("container/live"))
	if r, err := s.Recover(t.Context()); err != nil || r.Outcome != backup.Discarded {
		t.Errorf("%+v, %v", r, err)
	}
}

// What was committed to a mounted database is not overwritten when the restore of
// another source fails.
func TestRestoreTakesNoCommitsToAMountedDatabaseBack(t *testing.T) {
	w := mountedDatabase(t, "CREATE TABLE t (x); INSERT INTO t VALUES ('snapshot')")
	w.write(t, "z/f", "snapshot")
	sources := withSources(w.database("live/app.db"), w.file("z/f"))
	stamp := mustCreate(t, w.store(t, sources)).Stamp
	w.exec(t, "live/app.db", "UPDATE t SET x = 'since'")
	s := w.faulty(t, at("rename", func(p string) bool { return isStaged(p, "f") }, func(string) error {
		w.exec(t, "live/app.db", "INSERT INTO t VALUES (zeroblob(20000))")
		return syscall.EIO
	}), sources)
	if r, err := s.Restore(t.Context(), stamp, quickly); !errors.Is(err, backup.ErrRecoveryPending) || !errors.Is(err, backup.ErrServiceRunning) {
		t.Errorf("%+v, %v", r, err)
	}
	if got := w.query(t, "live/app.db", "SELECT count(*) FROM t"); got != "2" {
		t.Errorf("%s rows", got)
	}
}

// A journal is not read into memory before it is known to be of a size that one
// can have.
func TestJournalIsNotLargerThanOneCanBe(t *testing.T) {
	w := osWorld(t)
	w.small(t)
	w.create(t, w.store(t))
	w.write(t, journalFile, "")
	if err := os.Truncate(w.path(journalFile), 64<<20+1); err != nil {
		t.Fatal(err)
	}
	_, err := w.store(t).Recover(t.Context())
	if pathError, ok := errors.AsType[*fs.PathError](err); !errors.Is(err, backup.ErrRecoveryPending) || !ok || pathError.Op != "read" {
		t.Errorf("got %v", err)
	}
}
