package backup_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/afero"
	"golang.org/x/sys/unix"

	"github.com/atocore/backup"
	"github.com/atocore/backup/internal/crashfs"
)

// linkedTree is a tree whose unchanged files are linked.
func linkedTree(w *world) func(*backup.Config) {
	src := w.treeSource("tree")
	src.LinkUnchanged = true
	return func(cfg *backup.Config) {
		cfg.Sources = []backup.Source{src}
		if fsys, ok := w.fs.(*crashfs.FS); ok {
			cfg.Fs = bootedFs{fsys, "this one"}
		}
	}
}

// isShared reports whether two snapshots have one file at a path.
func (w *world) isShared(t *testing.T, a, b *backup.Snapshot, name string) bool {
	t.Helper()
	fi, err := w.fs.Stat(w.snapshot(a.Stamp, name))
	if err != nil {
		t.Fatal(err)
	}
	other, err := w.fs.Stat(w.snapshot(b.Stamp, name))
	if err != nil {
		t.Fatal(err)
	}
	return os.SameFile(fi, other) || crashfs.SameFile(fi, other)
}

// mustBeGood validates a snapshot in full, and its copy of a live file.
func (w *world) mustBeGood(t *testing.T, s *backup.Store, snap *backup.Snapshot, name string) {
	t.Helper()
	w.mustBeGoodCopy(t, s, snap, name, name)
}

func (w *world) mustBeGoodCopy(t *testing.T, s *backup.Store, snap *backup.Snapshot, name, live string) {
	t.Helper()
	if err := snap.Err(); err != nil {
		t.Errorf("%s: %v", snap.Stamp, err)
	}
	if report := w.validate(t, s, snap.Stamp, nil); !report.Valid {
		t.Errorf("%s: %v", snap.Stamp, report.Err())
	}
	if got, want := w.read(t, "backups/snapshots/"+snap.Stamp+"/"+name), w.read(t, live); got != want {
		t.Errorf("%s has %q of %s, and not %q", snap.Stamp, got, name, want)
	}
}

func TestOnlyUnchangedFilesAreLinked(t *testing.T) {
	sameTimes := func(t *testing.T, w *world, name string, change func()) {
		fi, err := w.fs.Stat(w.path(name))
		if err != nil {
			t.Fatal(err)
		}
		change()
		if err := w.fs.Chtimes(w.path(name), fi.ModTime(), fi.ModTime()); err != nil {
			t.Fatal(err)
		}
	}
	inFirst := func(first *backup.Snapshot, name string) string {
		return "backups/snapshots/" + first.Stamp + "/" + name
	}
	for _, c := range []struct {
		name   string
		change func(t *testing.T, w *world, first *backup.Snapshot)
		shared bool
	}{
		{"unchanged", func(*testing.T, *world, *backup.Snapshot) {}, true},
		{"another_file_changed", func(t *testing.T, w *world, _ *backup.Snapshot) { w.write(t, "tree/b", "new") }, true},
		{"rewritten", func(t *testing.T, w *world, _ *backup.Snapshot) { w.write(t, "tree/a", "new") }, false},
		{"rewritten_in_its_size_and_time", func(t *testing.T, w *world, _ *backup.Snapshot) {
			sameTimes(t, w, "tree/a", func() { w.write(t, "tree/a", "NEW") })
		}, false},
		{"replaced_in_its_size_and_time", func(t *testing.T, w *world, _ *backup.Snapshot) {
			sameTimes(t, w, "tree/a", func() {
				w.write(t, "a.tmp", "NEW")
				w.rename(t, "a.tmp", "tree/a")
			})
		}, false},
		{"mode_changed", func(t *testing.T, w *world, _ *backup.Snapshot) {
			if err := w.fs.Chmod(w.path("tree/a"), 0o640); err != nil {
				t.Fatal(err)
			}
		}, false},
		{"copy_missing", func(t *testing.T, w *world, first *backup.Snapshot) { w.drop(t, inFirst(first, "tree/a")) }, false},
		{"copy_truncated", func(t *testing.T, w *world, first *backup.Snapshot) { w.write(t, inFirst(first, "tree/a"), "") }, false},
		{"copy_is_a_link", func(t *testing.T, w *world, first *backup.Snapshot) {
			w.drop(t, inFirst(first, "tree/a"))
			if err := w.fs.(afero.Linker).SymlinkIfPossible(w.path("tree/a"), w.path(inFirst(first, "tree/a"))); err != nil {
				t.Fatal(err)
			}
		}, false},
		{"copy_is_a_directory", func(t *testing.T, w *world, first *backup.Snapshot) {
			w.drop(t, inFirst(first, "tree/a"))
			w.mkdir(t, inFirst(first, "tree/a"))
		}, false},
		{"copy_rotten", func(t *testing.T, w *world, first *backup.Snapshot) {
			w.write(t, inFirst(first, "tree/a"), "rot")
		}, false},
		{"manifest_rotten", func(t *testing.T, w *world, first *backup.Snapshot) {
			w.edit(t, inFirst(first, "manifest.jsonl"), func(b []byte) []byte { b[len(b)/2] ^= 1; return b })
		}, false},
		{"snapshot_incomplete", func(t *testing.T, w *world, first *backup.Snapshot) {
			w.drop(t, inFirst(first, "backup-metadata.json"))
		}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, slowFs(), "/srv")
			w.write(t, "tree/a", "old")
			w.write(t, "tree/b", "old")
			w.write(t, "tree/empty", "")
			w.exec(t, "tree/app.db", "CREATE TABLE t (x)")
			s := w.store(t, linkedTree(w))
			first := w.createPlain(t, s)
			c.change(t, w, first)
			second := w.createPlain(t, s)
			w.mustBeGood(t, s, second, "tree/a")
			w.mustBeGood(t, s, second, "tree/b")
			if w.exists(t, inFirst(first, "tree/a")) && w.isShared(t, first, second, "tree/a") != c.shared {
				t.Errorf("shared: %v, want %v", !c.shared, c.shared)
			}
			if w.isShared(t, first, second, "tree/app.db") {
				t.Error("the copies of a database are one file")
			}
			third := w.createPlain(t, s)
			w.mustBeGood(t, s, third, "tree/a")
			if !w.isShared(t, second, third, "tree/a") || !w.isShared(t, second, third, "tree/empty") {
				t.Error("not shared with the newest good one")
			}
		})
	}
}

// A file that had changed right before it was copied may change once more
// within the same tick of the clock, and who writes a lot at once, or through a
// mapping, is about it for longer than that.
func TestFileThatIsTooNewIsReadAgain(t *testing.T) {
	for _, age := range []time.Duration{0, 50 * time.Second} {
		now := start
		fsys := crashfs.New(crashfs.Options{Now: func() time.Time { return now }})
		w := newWorld(t, fsys, "/srv")
		s := w.store(t, linkedTree(w))
		w.write(t, "tree/a", "old")
		now = start.Add(age)
		first := w.createPlain(t, s)
		now = start
		w.write(t, "tree/a", "NEW") // in the same inode and size, and at the same time
		now = start.Add(time.Hour)
		second := w.createPlain(t, s)
		w.mustBeGood(t, s, second, "tree/a")
		if w.isShared(t, first, second, "tree/a") {
			t.Errorf("%v old, and shared", age)
		}
		third := w.createPlain(t, s)
		if !w.isShared(t, second, third, "tree/a") {
			t.Error("an hour later, and not shared")
		}
	}
}

// However long the copy takes, a file that was written to right before it may
// have been written to again under it, in the same tick.
func TestAgeOfAFileIsThatWhenItsCopyBegins(t *testing.T) {
	now := start
	w := newWorld(t, crashfs.New(crashfs.Options{Now: func() time.Time { return now }}), "/srv")
	w.write(t, "tree/a", strings.Repeat("old", 1<<20))
	written := false
	s := w.store(t, linkedTree(w), onProgress(t, "tree", func() {
		if !written {
			written = true
			w.write(t, "tree/a", strings.Repeat("NEW", 1<<20))
			now = start.Add(time.Hour)
		}
	}))
	snap := w.createPlain(t, s)
	w.mustBeGood(t, s, snap, "tree/a")
	if !written {
		t.Error("nothing was written meanwhile")
	}
}

// A manifest that was made for the purpose does not give its mode to others.
func TestModeIsThatOfTheFile(t *testing.T) {
	w := newWorld(t, slowFs(), "/srv")
	w.write(t, "tree/a", "old")
	s := w.store(t, linkedTree(w))
	first := w.createPlain(t, s)
	w.forgeManifest(t, first.Stamp, func(lines []string) []string {
		for i := range lines {
			if strings.Contains(lines[i], `"tree/a"`) {
				lines[i] = strings.Replace(lines[i], `"mode":"0644"`, `"mode":"0777"`, 1)
			}
		}
		return lines
	})
	second := w.createPlain(t, s)
	if got := w.manifest(t, second.Stamp)["tree/a"].Mode; got != "0644" {
		t.Errorf("mode %s, want 0644", got)
	}
}

// Whoever sets the clock back may make the time of the last change repeat.
func TestFileChangedByAClockThatWasSetBackIsReadAgain(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(t *testing.T, w *world)
	}{
		{"another_file", func(t *testing.T, w *world) {
			w.write(t, "a.tmp", "NEW")
			w.rename(t, "a.tmp", "tree/a")
		}},
		{"another_size", func(t *testing.T, w *world) { w.write(t, "tree/a", "longer") }},
		{"another_time", func(t *testing.T, w *world) {
			w.write(t, "tree/a", "NEW")
			if err := w.fs.Chtimes(w.path("tree/a"), start, start.Add(-time.Hour)); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			now := start
			w := newWorld(t, crashfs.New(crashfs.Options{Now: func() time.Time { return now }}), "/srv")
			s := w.store(t, linkedTree(w))
			w.write(t, "tree/a", "old")
			now = start.Add(time.Hour)
			w.createPlain(t, s)
			now = start
			c.change(t, w)
			now = start.Add(time.Hour)
			w.mustBeGood(t, s, w.createPlain(t, s), "tree/a")
		})
	}
}

func TestNothingIsSharedWithASnapshotThatHasProblems(t *testing.T) {
	w := newWorld(t, slowFs(), "/srv")
	w.write(t, "tree/a", "old")
	w.write(t, "tree/app.db", "SQLite format 3\x00"+strings.Repeat("no database ", 100))
	s := w.store(t, linkedTree(w))
	first, second := w.createPlain(t, s), w.createPlain(t, s)
	if first.Err() == nil {
		t.Fatal("no problem with a database that is none")
	}
	if w.isShared(t, first, second, "tree/a") {
		t.Error("shared")
	}
}

// Snapshots that do not have the tree, as most need not, are passed over.
func TestWhatIsSharedIsLookedForInOlderSnapshots(t *testing.T) {
	w := newWorld(t, slowFs(), "/srv")
	w.write(t, "tree/a", "old")
	w.write(t, "f", "content")
	s := w.store(t, linkedTree(w), func(cfg *backup.Config) {
		cfg.Sources[0].OnRequest = true
		cfg.Sources = append(cfg.Sources, w.file("f"))
	})
	include := func() *backup.Snapshot {
		snap, err := s.Create(t.Context(), &backup.CreateOptions{Include: []string{"tree"}})
		if err != nil {
			t.Fatal(err)
		}
		return snap
	}
	first := include()
	for range 5 {
		w.createPlain(t, s)
	}
	if !w.isShared(t, first, include(), "tree/a") {
		t.Error("not shared")
	}
}

func TestFilesAreLinkedOnlyOnDemand(t *testing.T) {
	w := newWorld(t, slowFs(), "/srv")
	w.write(t, "tree/a", "old")
	s := w.store(t, linkedTree(w), func(cfg *backup.Config) { cfg.Sources[0].LinkUnchanged = false })
	if first, second := w.createPlain(t, s), w.createPlain(t, s); w.isShared(t, first, second, "tree/a") {
		t.Error("shared without LinkUnchanged")
	}
}

// What is shared needs no room: a store that is nearly full takes another
// snapshot of a tree that has not changed.
func TestLinkedFilesNeedNoSpace(t *testing.T) {
	w := newWorld(t, slowFs(), "/srv")
	w.write(t, "tree/a", strings.Repeat("x", 4<<20))
	w.fs.(*crashfs.FS).SetCapacity(11 << 20) // the file, a copy, and no second one
	s := w.store(t, linkedTree(w))
	first, second := w.createPlain(t, s), w.createPlain(t, s)
	if !w.isShared(t, first, second, "tree/a") {
		t.Error("not shared")
	}
	w.write(t, "tree/a", strings.Repeat("y", 4<<20))
	if _, err := s.Create(t.Context(), nil); err == nil {
		t.Error("there was room for what has changed: the test shows nothing")
	}
}

// On the operating system, where a restored file must not be one with that of
// a snapshot either.
func TestLinkedSnapshotsAreRestoredAndDeletedByThemselves(t *testing.T) {
	w := osWorld(t)
	w.write(t, "tree/d/a", "old")
	w.write(t, "tree/b", "old")
	waitUntilOld(t, w, "tree/b")
	s := w.store(t, linkedTree(w))
	first := w.createPlain(t, s)
	w.write(t, "tree/b", "new")
	second := w.createPlain(t, s)
	if !w.isShared(t, first, second, "tree/d/a") || w.isShared(t, first, second, "tree/b") {
		t.Fatal("shared what has changed, or not what has not")
	}
	w.restore(t, s, first.Stamp)
	w.write(t, "tree/d/a", "written after the restore")
	for _, snap := range []*backup.Snapshot{first, second} {
		if report := w.validate(t, s, snap.Stamp, nil); !report.Valid {
			t.Errorf("%s, by writing to what was restored: %v", snap.Stamp, report.Err())
		}
	}
	if err := s.Delete(t.Context(), first.Stamp); err != nil {
		t.Fatal(err)
	}
	w.restore(t, s, second.Stamp)
	if got := w.read(t, "tree/d/a") + w.read(t, "tree/b"); got != "oldnew" {
		t.Errorf("restored %q", got)
	}
}

// waitUntilOld lets other tests run first, and returns when a file is no longer
// too new to be known again.
func waitUntilOld(t *testing.T, w *world, name string) {
	t.Helper()
	var st unix.Statfs_t
	if err := unix.Statfs(w.path(name), &st); err != nil {
		t.Fatal(err)
	}
	if !slices.Contains([]uint32{unix.EXT4_SUPER_MAGIC, unix.XFS_SUPER_MAGIC, unix.BTRFS_SUPER_MAGIC}, uint32(st.Type)) {
		t.Skipf("on a file system of type %#x nothing is known again: set TMPDIR to one on ext4, XFS or Btrfs", st.Type)
	}
	if testing.Short() {
		t.Skip("a file has to be a minute old; not with -short")
	}
	t.Parallel()
	fi, err := w.fs.Stat(w.path(name))
	if err != nil {
		t.Fatal(err)
	}
	for {
		if err := t.Context().Err(); err != nil {
			t.Fatal(err)
		}
		if err := afero.WriteFile(w.fs, w.path("clock"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		now, err := w.fs.Stat(w.path("clock"))
		if err != nil {
			t.Fatal(err)
		}
		if now.ModTime().Sub(fi.ModTime()) > 61*time.Second {
			return
		}
		time.Sleep(100 * time.Millisecond) // between two looks at a clock that nobody can set
	}
}

// The snapshot that a new one shares with is in use until that is done.
func TestSharedSnapshotIsNotRemovedMeanwhile(t *testing.T) {
	w := newWorld(t, slowFs(), "/srv")
	w.write(t, "tree/a", "old")
	first := w.createPlain(t, w.store(t, linkedTree(w)))
	other := w.store(t, linkedTree(w))
	tried := false
	s := w.store(t, linkedTree(w), func(cfg *backup.Config) {
		cfg.Progress = func(backup.Progress) {
			if tried {
				return
			}
			tried = true
			if err := other.Delete(t.Context(), first.Stamp); !errors.Is(err, backup.ErrBusy) {
				t.Errorf("delete: %v", err)
			}
		}
	})
	second := w.createPlain(t, s)
	if !tried || !w.isShared(t, first, second, "tree/a") {
		t.Error("not shared, or not tried")
	}
	if err := other.Delete(t.Context(), first.Stamp); err != nil {
		t.Error(err)
	}
}

// A power cut may take back the times of a file, and leave what was written to
// it: what was noted before the system was last started tells nothing.
func TestNothingIsSharedAcrossAStart(t *testing.T) {
	w := newWorld(t, slowFs(), "/srv")
	w.write(t, "tree/a", "old")
	booted := func(boot string) *backup.Store {
		return w.store(t, linkedTree(w), func(cfg *backup.Config) { cfg.Fs = bootedFs{w.crashFs(), boot} })
	}
	for _, boot := range []string{"second", ""} {
		first := w.createPlain(t, booted("first"))
		second := w.createPlain(t, booted(boot))
		if w.isShared(t, first, second, "tree/a") {
			t.Errorf("shared with one of before %q", boot)
		}
	}
}

// What is dated in the future may be of a clock that was wrong, or forged.
func TestNothingIsSharedWithASnapshotOfTheFuture(t *testing.T) {
	w := newWorld(t, slowFs(), "/srv")
	w.write(t, "tree/a", "old")
	future := w.createPlain(t, w.store(t, linkedTree(w), func(cfg *backup.Config) {
		cfg.Now = func() time.Time { return start.AddDate(100, 0, 0) }
	}))
	s := w.store(t, linkedTree(w))
	first := w.createPlain(t, s)
	if w.isShared(t, future, first, "tree/a") {
		t.Error("shared")
	}
	if second := w.createPlain(t, s); !w.isShared(t, first, second, "tree/a") {
		t.Error("not shared with the newest of the past")
	}
}

// Who sets the clock back makes files whose last change is yet to come.
func TestFileOfTheFutureIsReadAgain(t *testing.T) {
	now := start.Add(time.Hour)
	w := newWorld(t, crashfs.New(crashfs.Options{Now: func() time.Time { return now }}), "/srv")
	s := w.store(t, linkedTree(w))
	w.write(t, "tree/a", "old")
	now = start
	w.createPlain(t, s)
	now = start.Add(time.Hour)
	w.write(t, "tree/a", "NEW")
	now = start.Add(2 * time.Hour)
	w.mustBeGood(t, s, w.createPlain(t, s), "tree/a")
}

// One copy that is damaged does not cost the room of all that are not.
func TestOnlyWhatIsDamagedIsCopiedAnew(t *testing.T) {
	w := newWorld(t, slowFs(), "/srv")
	w.write(t, "tree/a", "old")
	w.write(t, "tree/b", strings.Repeat("x", 4<<20))
	w.crashFs().SetCapacity(11 << 20)
	s := w.store(t, linkedTree(w))
	first := w.createPlain(t, s)
	w.write(t, "backups/snapshots/"+first.Stamp+"/tree/a", "rot")
	second := w.createPlain(t, s)
	w.mustBeGood(t, s, second, "tree/a")
	if w.isShared(t, first, second, "tree/a") || !w.isShared(t, first, second, "tree/b") {
		t.Error("shared what is damaged, or not what is not")
	}
}

// A keepingFs removes no files.
type keepingFs struct{ bootedFs }

func (keepingFs) Remove(name string) error {
	return &os.PathError{Op: "remove", Path: name, Err: os.ErrPermission}
}

// What was written first, with what was damaged, cannot be removed: that is no
// less an error if the second attempt would not need it.
func TestWhatCannotBeRemovedBeforeAnotherAttemptIsAnError(t *testing.T) {
	w := newWorld(t, slowFs(), "/srv")
	w.write(t, "tree/a", "old")
	first := w.createPlain(t, w.store(t, linkedTree(w)))
	w.write(t, "backups/snapshots/"+first.Stamp+"/tree/a", "rot")
	s := w.store(t, linkedTree(w), func(cfg *backup.Config) { cfg.Fs = keepingFs{cfg.Fs.(bootedFs)} })
	if snap, err := s.Create(t.Context(), nil); !errors.Is(err, os.ErrPermission) {
		t.Errorf("got %v, %v, and not what kept the first attempt's files from being removed", snap, err)
	}
}

// A release that panics keeps no other source quiescent.
func TestEachSourceIsReleasedWhenOneReleasePanics(t *testing.T) {
	w := osWorld(t)
	released := make(map[string]bool)
	var sources []backup.Source
	for _, name := range []string{"a", "b", "c"} {
		w.exec(t, name+".db", "CREATE TABLE t (x)")
		src := w.database(name + ".db")
		src.Name = name
		src.Quiesce = func(context.Context) (func(), error) {
			return func() {
				released[name] = true
				if name == "a" {
					panic("release of " + name)
				}
			}, nil
		}
		sources = append(sources, src)
	}
	func() {
		defer func() { _ = recover() }()
		_, _ = w.store(t, withSources(sources...)).Create(t.Context(), nil)
	}()
	if len(released) != len(sources) {
		t.Errorf("released %v", released)
	}
}

// Two file systems that were made in the same way may number their files alike,
// and give them the same times.
func TestNothingIsSharedAcrossAMount(t *testing.T) {
	w := osWorld(t)
	w.mkdir(t, "volume")
	w.mkdir(t, "tree")
	image := loopExt4(t, w.path("volume"))
	w.write(t, "volume/f", "content")
	waitUntilOld(t, w, "volume/f")
	bindForNow(t, w.path("volume"), w.path("tree"))
	s := w.store(t, linkedTree(w))
	copyOf := func() uint64 { return inode(t, w.path("backups/snapshots/"+mustCreate(t, s).Stamp+"/tree/f")) }
	first := copyOf()
	detach(t, w.path("tree"))
	bindForNow(t, w.path("volume"), w.path("tree"))
	if copyOf() != first {
		t.Error("what has not changed, and was mounted all the time, was copied")
	}
	detach(t, w.path("tree"))
	detach(t, w.path("volume"))
	if out, err := exec.Command("mount", "-o", "loop", image, w.path("tree")).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	t.Cleanup(func() { detach(t, w.path("tree")) })
	second := copyOf()
	if second == first {
		t.Error("shared with a snapshot of before it was mounted")
	}
	if copyOf() != second {
		t.Error("what has not changed since was copied")
	}
}
