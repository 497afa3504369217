package backup_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/atocore/backup"
)

// A restore reads its bytes once they are staged. Here something happens to
// them before, or after.

// quickly are options of a restore of which nothing else is to be seen.
var quickly = &backup.RestoreOptions{ConfirmServiceStopped: true, SkipSafetySnapshot: true}

// isStaged reports whether p is where a restore stages what is called base.
func isStaged(p, base string) bool {
	return strings.Contains(p, ".atobackup-") && strings.HasSuffix(filepath.ToSlash(p), "/new/"+base)
}

// at calls hook once, when op is about to be done to a path that fits.
func at(op string, fits func(p string) bool, hook func(p string) error) func(op, p string) error {
	done := false
	return func(o, p string) error {
		if done || o != op || !fits(p) {
			return nil
		}
		done = true
		return hook(p)
	}
}

// atExchange calls hook before the first new file is put in place.
func atExchange(hook func() error) func(op, p string) error {
	return at("rename", func(p string) bool { return strings.Contains(filepath.ToSlash(p), "/new/") }, func(string) error { return hook() })
}

// rot gives a file other bytes, and leaves its size and time as they were.
func (w *world) rot(t *testing.T, p string) {
	t.Helper()
	fi, err := w.fs.Stat(p)
	if err != nil {
		t.Fatal(err)
	}
	name, err := filepath.Rel(w.root, p)
	if err != nil {
		t.Fatal(err)
	}
	mtime := fi.ModTime() // MemMapFs changes it in fi, too
	w.edit(t, filepath.ToSlash(name), flip(3))
	if err := w.fs.Chtimes(p, mtime, mtime); err != nil {
		t.Fatal(err)
	}
}

// smallFiles are those of small that are restored, by the names of their sources.
var smallFiles = []string{"data/atocore.db", "config/project-registry.json", "chroma/b"}

func TestRestoreStagesNoOtherBytes(t *testing.T) {
	memoryAndOs(t, func(t *testing.T, w *world) {
		stamp := w.create(t, w.small(t)).Stamp
		w.change(t)
		before := w.liveState(t)
		for _, name := range smallFiles {
			exchanged := false
			rots := at("sync", func(p string) bool { return isStaged(p, filepath.Base(name)) }, func(p string) error {
				w.rot(t, p)
				return nil
			})
			s := w.faulty(t, func(op, p string) error {
				exchanged = exchanged || op == "rename" && strings.Contains(p, ".atobackup-")
				return rots(op, p)
			})
			_, err := s.Restore(t.Context(), stamp, quickly)
			if !errors.Is(err, backup.CodeChecksumMismatch) || exchanged || w.pending(t) {
				t.Errorf("%s: %v; exchanged %v", name, err, exchanged)
			}
			mustBeSame(t, w.liveState(t), before)
		}
	})
}

// What happens to a staged file between the look at its bytes and the exchange
// is seen by what kind of file it is then, and if need be by its bytes.
func TestRestoreNoticesWhatIsNotWhatItStaged(t *testing.T) {
	replace := func(data string) func(t *testing.T, p string) error {
		return func(t *testing.T, p string) error {
			fi, err := os.Stat(p)
			if err != nil {
				return err
			}
			if data == "" {
				same, err := os.ReadFile(p)
				if err != nil {
					return err
				}
				data = string(same)
			}
			other := filepath.Join(t.TempDir(), "other")
			return errors.Join(os.WriteFile(other, []byte(data), fi.Mode()), os.Chtimes(other, fi.ModTime(), fi.ModTime()), os.Rename(other, p))
		}
	}
	for _, tc := range []struct {
		name   string
		tamper func(t *testing.T, p string) error
		want   error
	}{
		{"nothing", func(*testing.T, string) error { return nil }, nil},
		{"other_file_of_that_size_and_time", replace("BBBB"), backup.CodeChecksumMismatch},
		{"other_file_of_the_same_bytes", replace(""), nil},
		{"written_to", func(_ *testing.T, p string) error { return os.WriteFile(p, []byte("BBBB"), 0) }, backup.CodeChecksumMismatch},
		{"appended_to", func(_ *testing.T, p string) error { return os.WriteFile(p, []byte("bbbbb"), 0) }, backup.CodeSizeMismatch},
		{"touched", func(_ *testing.T, p string) error { return os.Chtimes(p, start, start) }, nil},
		{"mode_changed", func(_ *testing.T, p string) error { return os.Chmod(p, 0o640) }, backup.CodeTypeMismatch},
		{"directory", func(_ *testing.T, p string) error { return errors.Join(os.Remove(p), os.Mkdir(p, 0o700)) }, backup.CodeTypeMismatch},
		{"removed", func(_ *testing.T, p string) error { return os.Remove(p) }, fs.ErrNotExist},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := osWorld(t)
			w.write(t, "chroma/dir/b", "bbbb")
			stamp := w.create(t, w.small(t)).Stamp
			w.change(t)
			before := w.liveState(t)
			s := w.faulty(t, atExchange(func() error {
				found := w.matches(t, "chroma/.atobackup-*/new/dir/b")
				if len(found) != 1 {
					t.Errorf("staged: %v", found)
					return nil
				}
				return tc.tamper(t, found[0])
			}))
			r, err := s.Restore(t.Context(), stamp, quickly)
			if !errors.Is(err, tc.want) || w.pending(t) {
				t.Errorf("%+v, %v; want %v", r, err, tc.want)
			}
			if tc.want != nil {
				mustBeSame(t, w.liveState(t), before)
			} else if got := w.read(t, "chroma/dir/b"); got != "bbbb" {
				t.Errorf("restored %q", got)
			}
		})
	}
}

// What is in place is read where a file system does not tell one file from
// another, and not where it does.
func TestRestoreReadsNothingTwiceThatItCanTell(t *testing.T) {
	memoryAndOs(t, func(t *testing.T, w *world) {
		stamp := w.create(t, w.small(t)).Stamp
		w.change(t)
		exchanged, staged, inPlace := false, 0, 0
		s := w.faulty(t, func(op, p string) error {
			exchanged = exchanged || op == "rename" && isStaged(p, "b")
			switch {
			case op == "open" && !exchanged && isStaged(p, "b"):
				staged++
			case op == "open" && exchanged && p == w.path("chroma/b"):
				inPlace++
			}
			return nil
		})
		if _, err := s.Restore(t.Context(), stamp, quickly); err != nil {
			t.Fatal(err)
		}
		want := 0
		if w.root == "/srv" { // in memory
			want = 1
		}
		if staged != 1 || inPlace != want {
			t.Errorf("read %d times where it was staged, want once; %d times in place, want %d", staged, inPlace, want)
		}
	})
}

// What cannot be renamed is written a second time, and so read a second time.
func TestRestoreVerifiesWhatItOverwrote(t *testing.T) {
	for _, name := range smallFiles[:2] {
		t.Run(filepath.Base(name), func(t *testing.T) {
			memoryAndOs(t, func(t *testing.T, w *world) {
				stamp := w.create(t, w.small(t)).Stamp
				w.change(t)
				before := w.liveState(t)
				rots := at("chtimes", func(p string) bool { return p == w.path(name) }, func(p string) error {
					w.rot(t, p) // right after it was overwritten
					return nil
				})
				s := w.faulty(t, func(op, p string) error {
					if op == "rename" && p == w.path(name) {
						return syscall.EBUSY
					}
					return rots(op, p)
				})
				if _, err := s.Restore(t.Context(), stamp, quickly); !errors.Is(err, backup.CodeChecksumMismatch) || w.pending(t) {
					t.Errorf("got %v", err)
				}
				mustBeSame(t, w.liveState(t), before)
				if r, err := s.Restore(t.Context(), stamp, quickly); err != nil || !r.IntegrityOK {
					t.Errorf("once more: %+v, %v", r, err)
				}
			})
		})
	}
}

// A log that appears beside a new database is a running service's, and may be one
// of the old database, which it has open. To put that back beside it would be to
// damage it, if it is not; to leave it, if it is.
func TestRestoreNoticesALogBesideTheNewDatabase(t *testing.T) {
	for _, db := range []string{"data/atocore.db", "chroma/dir/x.db"} {
		t.Run(filepath.Base(db), func(t *testing.T) {
			memoryAndOs(t, func(t *testing.T, w *world) {
				w.exec(t, "chroma/dir/x.db", "PRAGMA page_size=512; CREATE TABLE t (x)")
				stamp := w.create(t, w.small(t)).Stamp
				w.exec(t, "data/atocore.db", "DELETE FROM t")
				exchanged := false
				logs := at("sync", func(p string) bool { return exchanged && p == w.path("chroma") }, func(string) error {
					w.write(t, db+"-wal", "a log of the new database")
					return nil
				})
				s := w.faulty(t, func(op, p string) error {
					exchanged = exchanged || op == "rename" && isStaged(p, "dir") // the last
					return logs(op, p)
				})
				_, err := s.Restore(t.Context(), stamp, quickly)
				if !errors.Is(err, backup.ErrRecoveryPending) || !errors.Is(err, backup.ErrServiceRunning) || !exchanged {
					t.Fatalf("got %v", err)
				}
				w.mustBePending(t, nil)
				if got := w.read(t, db+"-wal"); got != "a log of the new database" {
					t.Errorf("the log is %q", got)
				}
				w.drop(t, strings.TrimSuffix(db+"-wal", "/x.db-wal")) // as the error says
				if r := w.recovers(t); r.Outcome != backup.RestoreUndone {
					t.Errorf("%+v", r)
				}
				if got := w.query(t, "data/atocore.db", "SELECT x FROM t"); got != "" {
					t.Errorf("got %q", got)
				}
			})
		})
	}
}

// The Python module's databases have no checksum: what has become of one since
// it was validated can only be found by SQLite.
func TestRestoreChecksThePythonModulesDatabase(t *testing.T) {
	memoryAndOs(t, func(t *testing.T, w *world) {
		w.python(t)
		w.seed(t)
		before := w.liveState(t)
		s := w.faulty(t, at("mkdir", func(p string) bool { return strings.Contains(p, ".atobackup-") }, func(string) error {
			w.edit(t, in(pythonSnapshot, "db/atocore.db"), spoil(2))
			return nil
		}))
		r, err := s.Restore(t.Context(), pythonSnapshot, quickly)
		if !errors.Is(err, backup.CodeDatabaseCorrupt) || w.pending(t) {
			t.Errorf("%+v, %v", r, err)
		}
		mustBeSame(t, w.liveState(t), before)
	})
}

// What SQLite has checked is still compared when the snapshot is sealed.
func TestSafetySnapshotIsComparedWithWhatWasChecked(t *testing.T) {
	memoryAndOs(t, func(t *testing.T, w *world) {
		stamp := w.create(t, w.small(t)).Stamp
		w.change(t)
		s := w.faulty(t, at("create", func(p string) bool { return strings.HasSuffix(p, manifestFile) }, func(p string) error {
			w.rot(t, filepath.Join(filepath.Dir(p), "db", "atocore.db"))
			return nil
		}))
		r, err := s.Restore(t.Context(), stamp, confirmed)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(codes(r.SafetyProblems), []backup.Code{backup.CodeChecksumMismatch}); diff != "" {
			t.Errorf("(-got +want):\n%s", diff)
		}
	})
}

// That bytes are others than those that were copied is never accepted, were it
// recorded.
func TestRestoreAcceptsNoOtherBytes(t *testing.T) {
	memoryAndOs(t, func(t *testing.T, w *world) {
		w.small(t)
		s := w.faulty(t, at("create", func(p string) bool { return strings.HasSuffix(p, manifestFile) }, func(p string) error {
			w.rot(t, filepath.Join(filepath.Dir(p), "config", "project-registry.json"))
			return nil
		}))
		stamp := mustKeep(t, s)
		w.change(t)
		before := w.liveState(t)
		if r, err := s.Restore(t.Context(), stamp, accepting(backup.CodeChecksumMismatch)); !errors.Is(err, backup.CodeChecksumMismatch) {
			t.Errorf("%+v, %v", r, err)
		}
		w.drop(t, "backups")
		mustBeSame(t, w.liveState(t), before)
	})
}

// Many files are staged, and synced, together; and some names of directories
// are not sorted like what is in them.
func TestRestoreOfManyFiles(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		w.small(t)
		for i := range 50 {
			for _, dir := range []string{"a.d/b", "a.d", "a.d-", "a.d/b-c", "a.d/b/c/d"} {
				w.write(t, fmt.Sprintf("chroma/%s/f%d", dir, i), fmt.Sprint(dir, i))
			}
		}
		s := w.store(t)
		stamp := w.create(t, s).Stamp
		want := w.liveState(t)
		w.drop(t, "chroma/a.d")
		w.write(t, "chroma/a.d", "a file")
		w.write(t, "chroma/a.d-/f1", "changed")
		w.restore(t, s, stamp)
		mustBeSame(t, w.liveState(t), want)
	})
}

// What its owner may not read has to be read back all the same.
func TestRestoreOfModesThatForbidReading(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("takes the superuser to make the snapshot")
	}
	w := osWorld(t)
	s := w.small(t)
	w.write(t, "chroma/dir/c", "cccc")
	modes := map[string]fs.FileMode{"chroma/a": 0, "chroma/b": 0o200, "chroma/dir": 0o300, "chroma/dir/c": 0o444}
	for name, mode := range modes {
		if err := errors.Join(os.Chmod(w.path(name), mode), os.Chtimes(w.path(name), start, start)); err != nil {
			t.Fatal(err)
		}
	}
	stamp := w.create(t, s).Stamp
	w.drop(t, "chroma")
	w.restore(t, s, stamp)
	for name, mode := range modes {
		fi, err := os.Stat(w.path(name))
		if err != nil || fi.Mode().Perm() != mode || !fi.ModTime().Equal(start) {
			t.Errorf("%s: %v, want %v of %v", name, fi, mode, start.Format(time.RFC3339))
		}
	}
	if got := w.names(t, "chroma"); !slices.Contains(got, "dir/c") {
		t.Errorf("restored %v", got)
	}
}
