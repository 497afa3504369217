//go:build unix

package backup_test

import (
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/spf13/afero"

	"github.com/atocore/backup"
	"github.com/atocore/backup/internal/crashfs"
)

// linkedTree is a tree whose unchanged files are linked.
func linkedTree(w *world) func(*backup.Config) {
	src := w.treeSource("tree")
	src.LinkUnchanged = true
	return withSources(src)
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
// within the same tick of the clock.
func TestFileThatIsTooNewIsReadAgain(t *testing.T) {
	now := start
	fsys := crashfs.New(crashfs.Options{Now: func() time.Time { return now }})
	w := newWorld(t, fsys, "/srv")
	s := w.store(t, linkedTree(w))
	w.write(t, "tree/a", "old")
	first := w.createPlain(t, s)
	w.write(t, "tree/a", "NEW") // in the same inode and size, and at the same time
	now = now.Add(time.Hour)
	second := w.createPlain(t, s)
	w.mustBeGood(t, s, second, "tree/a")
	if w.isShared(t, first, second, "tree/a") {
		t.Error("shared")
	}
	third := w.createPlain(t, s)
	if !w.isShared(t, second, third, "tree/a") {
		t.Error("an hour later, and not shared")
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

func TestFilesAreLinkedOnlyOnDemand(t *testing.T) {
	w := newWorld(t, slowFs(), "/srv")
	w.write(t, "tree/a", "old")
	s := w.store(t, withSources(w.treeSource("tree")))
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
	t.Parallel()
	w := osWorld(t)
	w.write(t, "tree/d/a", "old")
	w.write(t, "tree/b", "old")
	untilOlder(t, w, "tree/b")
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

// untilOlder returns when a file is no longer too new to be known again.
func untilOlder(t *testing.T, w *world, name string) {
	t.Helper()
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
		if now.ModTime().Sub(fi.ModTime()) > 3*time.Second {
			return
		}
		time.Sleep(10 * time.Millisecond) // between two looks at a clock that nobody can set
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
