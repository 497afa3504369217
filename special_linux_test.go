package backup_test

import (
	"context"
	"errors"
	"maps"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/atocore/backup"
)

// A special file is one that is none: whoever opens it may wait for ever,
// read for ever, or find himself elsewhere. What Validate says of one in the
// place of an entry, and Create of one among the sources, is tested with
// them; here are all the operations, and all the other places.
var specials = map[string]func(t *testing.T, w *world, name string){
	"fifo":   func(t *testing.T, w *world, name string) { w.fifo(t, name) },
	"socket": func(t *testing.T, w *world, name string) { w.socket(t, name) },
	"endless_device": func(t *testing.T, w *world, name string) {
		if err := unix.Mknod(w.path(name), unix.S_IFCHR|0o600, int(unix.Mkdev(1, 5))); err != nil {
			t.Skipf("no devices here: %v", err)
		}
	},
	"link_to_fifo": func(t *testing.T, w *world, name string) {
		w.fifo(t, "outside/fifo")
		w.symlink(t, w.path("outside/fifo"), name)
	},
	"link_to_itself":         func(t *testing.T, w *world, name string) { w.symlink(t, filepath.Base(name), name) },
	"link_to_endless_device": func(t *testing.T, w *world, name string) { w.symlink(t, "/dev/zero", name) },
	"dangling_link":          func(t *testing.T, w *world, name string) { w.symlink(t, "nowhere", name) },
	"directory":              func(t *testing.T, w *world, name string) { w.mkdir(t, name) },
}

// A specialCase is a world that has a snapshot and was restored from it, so
// that another restore changes nothing, in which something has been replaced
// by a special file.
type specialCase struct {
	*world
	s     *backup.Store
	stamp string
	place string
	good  map[string]string // the live state before
}

// eachSpecial runs a test with a pipe in each of the places, and with the
// other special files in a sample of them.
func eachSpecial(t *testing.T, places []string, test func(t *testing.T, c *specialCase)) {
	for i, kind := range slices.Sorted(maps.Keys(specials)) {
		for j, place := range places {
			if kind != "fifo" && (i+j)%every(3) != 0 {
				continue
			}
			t.Run(kind+"_at_"+strings.ReplaceAll(place, "/", "_"), func(t *testing.T) {
				w := osWorld(t)
				c := &specialCase{world: w, s: w.small(t)}
				c.stamp = w.create(t, c.s).Stamp
				w.restore(t, c.s, c.stamp)
				c.good = w.liveState(t)
				c.place = strings.ReplaceAll(place, "STAMP", c.stamp)
				w.drop(t, c.place)
				specials[kind](t, w, c.place)
				test(t, c)
			})
		}
	}
}

// allOperations has a store do all that it can, and returns the errors. None
// may wait for what never comes.
func allOperations(t *testing.T, s *backup.Store, stamp string) map[string]error {
	t.Helper()
	errs := make(map[string]error)
	run := func(name string, operation func(ctx context.Context) error) {
		errs[name] = endsSoon(t, operation)
		if errors.Is(errs[name], context.DeadlineExceeded) {
			t.Errorf("%s waited: %v", name, errs[name])
		}
	}
	run("list", func(ctx context.Context) error { _, err := s.List(ctx); return err })
	for name, opts := range map[string]*backup.ValidateOptions{"validate": nil, "validate structure": structure} {
		run(name, func(ctx context.Context) error {
			r, err := s.Validate(ctx, stamp, opts)
			if err == nil {
				err = r.Err()
			}
			return err
		})
	}
	run("restore", func(ctx context.Context) error { _, err := s.Restore(ctx, stamp, confirmed); return err })
	run("recover", func(ctx context.Context) error { _, err := s.Recover(ctx); return err })
	run("create", func(ctx context.Context) error { _, err := s.Create(ctx, nil); return err })
	run("cleanup", func(ctx context.Context) error { _, err := s.Cleanup(ctx, removeAllButNewest); return err })
	run("delete", func(ctx context.Context) error { return s.Delete(ctx, stamp) })
	return errs
}

func TestSpecialFileInASnapshotBlocksNobody(t *testing.T) {
	const dir = "backups/snapshots/STAMP/"
	places := []string{dir + metadataFile, dir + manifestFile, dir + "db/atocore.db", dir + "db/atocore.db-wal", dir + "chroma/new", dir + "new", "backups/snapshots/STAMP"}
	eachSpecial(t, places, func(t *testing.T, c *specialCase) {
		errs := allOperations(t, c.s, c.stamp)
		for _, name := range []string{"validate", "validate structure"} {
			if errs[name] == nil {
				t.Errorf("%s: nothing was found", name)
			}
		}
		if !errors.Is(errs["restore"], backup.ErrInvalidSnapshot) {
			t.Errorf("restore: got %v, want %v", errs["restore"], backup.ErrInvalidSnapshot)
		}
		for _, name := range []string{"list", "recover", "create", "cleanup"} {
			if errs[name] != nil {
				t.Errorf("%s: %v, because of another snapshot", name, errs[name])
			}
		}
		if diff := cmp.Diff(c.liveState(t), c.good); diff != "" {
			t.Errorf("live state (-got +want):\n%s", diff)
		}
	})
}

func TestSpecialFileInTheStoreBlocksNobody(t *testing.T) {
	places := []string{"backups", "backups/lock", "backups/snapshots", journalFile, journalFile + ".tmp"}
	eachSpecial(t, places, func(t *testing.T, c *specialCase) {
		errs := allOperations(t, c.s, c.stamp)
		if c.place == journalFile && !errors.Is(errs["create"], backup.ErrRecoveryPending) {
			t.Errorf("create: got %v, want %v", errs["create"], backup.ErrRecoveryPending)
		}
		if diff := cmp.Diff(c.liveState(t), c.good); diff != "" {
			t.Errorf("live state (-got +want):\n%s", diff)
		}
	})
}

// Whatever has taken the place of the live state is no reason not to restore,
// unless it cannot be saved and is to be. (A link at the path of a File or
// Database is the host's own word for where that is.)
func TestSpecialFileIsRestoredOver(t *testing.T) {
	sources := []string{"config/project-registry.json", "data/atocore.db"}
	others := []string{"data/atocore.db-wal", "data/atocore.db-journal", "chroma/a", "chroma/dir"}
	restoreOver := func(places []string, skip bool) {
		eachSpecial(t, places, func(t *testing.T, c *specialCase) {
			isSource := slices.Contains(sources, c.place)
			before, err := os.Lstat(c.path(c.place))
			if err != nil || isSource && before.Mode()&os.ModeSymlink != 0 {
				return
			}
			err = endsSoon(t, func(ctx context.Context) error {
				_, err := c.s.Restore(ctx, c.stamp, &backup.RestoreOptions{ConfirmServiceStopped: true, SkipSafetySnapshot: skip})
				return err
			})
			if isSource && !skip {
				if after, statErr := os.Lstat(c.path(c.place)); err == nil || statErr != nil || !os.SameFile(before, after) {
					t.Errorf("got %v, %v: what cannot be saved must stay", err, statErr)
				}
				return
			}
			if err != nil {
				t.Fatalf("restore: %v", err)
			}
			if diff := cmp.Diff(c.liveState(t), c.good); diff != "" {
				t.Errorf("live state (-got +want):\n%s", diff)
			}
		})
	}
	restoreOver(slices.Concat(sources, others), false)
	restoreOver(sources, true)
}

// Nothing is read that is larger than it can be.
func TestHugeFilesDoNotFillTheMemory(t *testing.T) {
	for _, place := range []string{
		"backups/snapshots/STAMP/" + metadataFile, "backups/snapshots/STAMP/" + manifestFile, "backups/snapshots/STAMP/db/atocore.db",
		"backups/snapshots/STAMP/chroma/a", "backups/snapshots/STAMP/new", journalFile, "backups/lock",
	} {
		t.Run(filepath.Base(place), func(t *testing.T) {
			w := osWorld(t)
			s := w.small(t)
			stamp := w.create(t, s).Stamp
			name := strings.ReplaceAll(place, "STAMP", stamp)
			if !w.exists(t, name) {
				w.write(t, name, "")
			}
			if err := os.Truncate(w.path(name), 1<<40); err != nil {
				t.Skipf("no sparse files here: %v", err)
			}
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			allOperations(t, s, stamp)
			runtime.ReadMemStats(&after)
			if grown := after.TotalAlloc - before.TotalAlloc; grown > 500<<20 {
				t.Errorf("%d MB were allocated", grown>>20)
			}
		})
	}
}

// Files of the kernel's, and of some others, are of size 0, and have bytes.
func TestFileThatHidesItsSizeIsNotCalledGood(t *testing.T) {
	const hides = "/proc/version"
	t.Run("file", func(t *testing.T) {
		w := osWorld(t)
		source := backup.Source{Name: "f", Kind: backup.File, Path: hides}
		snap, err := w.store(t, withSources(source)).Create(t.Context(), nil)
		if snap != nil || err == nil || !strings.Contains(err.Error(), hides) {
			t.Errorf("got %+v, %v, want a refusal", snap, err)
		}
		w.mustHaveNoSnapshots(t)
	})
	t.Run("tree", func(t *testing.T) {
		w := osWorld(t)
		w.write(t, "tree/a", "a")
		w.write(t, "tree/empty", "")
		w.write(t, "tree/f", "")
		mount(t, w.path("tree/f"), "--bind", hides)
		s := w.store(t, withSources(w.treeSource("tree")))
		snap, err := s.Create(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]string{"file_changed tree/f"}, problemsOf(snap)); diff != "" {
			t.Errorf("noted (-want +got):\n%s", diff)
		}
		r, err := s.Restore(t.Context(), snap.Stamp, &backup.RestoreOptions{
			ConfirmServiceStopped: true, Accept: []backup.Code{backup.CodeFileChanged},
		})
		if r != nil || err == nil || !strings.Contains(err.Error(), w.path("tree/f")) {
			t.Errorf("got %+v, %v, want a refusal: the safety snapshot lacks it", r, err)
		}
	})
}

// lease takes a lease on a file, as Samba does for a client that caches it: see
// F_SETLEASE in fcntl(2). When somebody else wants the file, asked says whether
// to give the lease up.
func lease(t *testing.T, path string, asked func() bool) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	wanted := make(chan os.Signal, 1)
	signal.Notify(wanted, unix.SIGIO)
	gone := make(chan struct{})
	t.Cleanup(func() {
		signal.Stop(wanted)
		close(wanted)
		<-gone
		f.Close()
	})
	if _, err := unix.FcntlInt(f.Fd(), unix.F_SETLEASE, unix.F_WRLCK); err != nil {
		close(gone)
		t.Skipf("no leases here: %v", err)
	}
	go func() {
		defer close(gone)
		for range wanted {
			if !asked() {
				continue
			}
			if _, err := unix.FcntlInt(f.Fd(), unix.F_SETLEASE, unix.F_UNLCK); err != nil {
				t.Error(err)
			}
		}
	}()
}

func TestFileUnderALeaseIsCopiedOnceThatIsGivenUp(t *testing.T) {
	for _, name := range []string{"tree/a", "tree/pages", "conf"} {
		t.Run(filepath.Base(name), func(t *testing.T) {
			w := osWorld(t)
			w.write(t, "tree/a", "a")
			w.write(t, "tree/pages", strings.Repeat("p", 4096)) // which may be a database
			w.write(t, "conf", "c")
			s := w.store(t, withSources(w.treeSource("tree"), w.file("conf")))
			var asked atomic.Int32
			lease(t, w.path(name), func() bool {
				asked.Add(1)
				return true
			})
			snap := mustCreate(t, s)
			if asked.Load() == 0 {
				t.Error("copied under the lease")
			}
			if !snap.Validated || len(snap.Problems) > 0 || len(w.types(t, snap.Stamp)) != 5 {
				t.Errorf("%+v", snap)
			}
		})
	}
}

func TestWaitForALeaseEndsWithTheContext(t *testing.T) {
	for _, name := range []string{"tree/a", "tree/pages", "conf", "app.db"} {
		t.Run(filepath.Base(name), func(t *testing.T) {
			w := osWorld(t)
			w.write(t, "tree/a", "a")
			w.write(t, "tree/pages", strings.Repeat("p", 4096))
			w.write(t, "conf", "c")
			if err := w.open(t, "app.db", "CREATE TABLE t (x)").Close(); err != nil {
				t.Fatal(err)
			}
			s := w.store(t, withSources(w.treeSource("tree"), w.file("conf"), w.database("app.db")))
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			lease(t, w.path(name), func() bool {
				cancel()
				return false
			})
			if _, err := s.Create(ctx, nil); !errors.Is(err, context.Canceled) {
				t.Errorf("got %v, want %v", err, context.Canceled)
			}
			f, err := os.OpenFile(w.path(name), os.O_RDONLY|unix.O_NONBLOCK, 0)
			if err == nil {
				f.Close()
			}
			if !errors.Is(err, unix.EAGAIN) {
				t.Errorf("opened again: %v: the lease has been waited for", err)
			}
		})
	}
}

// What is read keeps its time of access: to set that on all files of a tree would
// be to write all of their inodes.
func TestCreateLeavesTheTimesOfAccess(t *testing.T) {
	w := osWorld(t)
	w.write(t, "tree/d/f", "x")
	w.exec(t, "tree/app.db", "CREATE TABLE t (x)")
	long := start.Add(-time.Hour)
	names := []string{"tree", "tree/d", "tree/d/f"}
	for _, name := range names {
		if err := os.Chtimes(w.path(name), long, start); err != nil {
			t.Fatal(err)
		}
	}
	accessed := func(name string) time.Time {
		fi, err := os.Stat(w.path(name))
		if err != nil {
			t.Fatal(err)
		}
		return time.Unix(fi.Sys().(*syscall.Stat_t).Atim.Unix())
	}
	mustCreate(t, w.store(t, withSources(w.treeSource("tree"))))
	for _, name := range names {
		if got := accessed(name); !got.Equal(long) {
			t.Errorf("%s was read at %v, it says", name, got)
		}
	}
	w.read(t, "tree/d/f")
	if accessed("tree/d/f").Equal(long) {
		t.Skip("nobody's reading sets times of access here")
	}
}
