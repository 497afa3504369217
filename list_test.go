package backup_test

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/afero"

	"github.com/atocore/backup"
)

func TestListIsNewestFirst(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		s := w.small(t)
		stamps := w.createOn(t, s, day("2026-04-02"), day("2025-12-31"), day("2026-04-03"), day("2026-04-01"))
		want := []string{stamps[2], stamps[0], stamps[3], stamps[1]}
		if diff := cmp.Diff(w.stamps(t, s), want); diff != "" {
			t.Errorf("(-got +want):\n%s", diff)
		}
	})
}

func TestListHasWhatCreateReturned(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		w.seed(t)
		s := w.store(t)
		snap, err := s.Create(t.Context(), &backup.CreateOptions{
			Pin: true, Origin: backup.OriginScheduled, Labels: map[string]string{"reason": "before the upgrade"},
		})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(w.list(t, s), []backup.Snapshot{*snap}); diff != "" {
			t.Errorf("(-got +want):\n%s", diff)
		}
	})
}

func TestListOfNoStore(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		s := w.store(t)
		if list := w.list(t, s); len(list) != 0 {
			t.Errorf("got %+v", list)
		}
		if w.exists(t, "backups") {
			t.Error("it made a store")
		}
		w.mkdir(t, "backups")
		if list := w.list(t, s); len(list) != 0 || len(w.names(t, "backups")) != 1 {
			t.Errorf("got %+v; there is %q", list, w.names(t, "backups"))
		}
	})
}

// Damaged and unfinished snapshots are listed, with the problem.
func TestListShowsDamage(t *testing.T) {
	for _, tc := range []struct {
		name   string
		damage func(t *testing.T, w *world, stamp string)
		want   backup.Problem
		has    bool
	}{
		{"metadata_missing", func(t *testing.T, w *world, stamp string) { w.drop(t, in(stamp, metadataFile)) },
			backup.Problem{Code: backup.CodeMetadataMissing, Path: metadataFile}, false},
		{"empty_directory", func(t *testing.T, w *world, stamp string) {
			w.drop(t, in(stamp, ""))
			w.mkdir(t, in(stamp, ""))
		}, backup.Problem{Code: backup.CodeMetadataMissing, Path: metadataFile}, false},
		{"metadata_damaged", func(t *testing.T, w *world, stamp string) { w.edit(t, in(stamp, metadataFile), flip(100)) },
			backup.Problem{Code: backup.CodeMetadataInvalid, Path: metadataFile}, true},
		{"metadata_empty", func(t *testing.T, w *world, stamp string) {
			w.edit(t, in(stamp, metadataFile), func([]byte) []byte { return nil })
		}, backup.Problem{Code: backup.CodeMetadataInvalid, Path: metadataFile}, true},
		{"metadata_huge", func(t *testing.T, w *world, stamp string) {
			w.edit(t, in(stamp, metadataFile), func([]byte) []byte { return make([]byte, 2<<20) })
		}, backup.Problem{Code: backup.CodeMetadataInvalid, Path: metadataFile}, true},
		{"metadata_is_a_directory", func(t *testing.T, w *world, stamp string) {
			w.drop(t, in(stamp, metadataFile))
			w.mkdir(t, in(stamp, metadataFile))
		}, backup.Problem{Code: backup.CodeMetadataInvalid, Path: metadataFile}, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			memoryAndOs(t, func(t *testing.T, w *world) {
				s := w.small(t)
				good := w.create(t, s)
				stamp := w.create(t, s).Stamp
				tc.damage(t, w, stamp)
				list := w.list(t, s)
				if len(list) != 2 || list[0].Stamp != stamp {
					t.Fatalf("got %+v", list)
				}
				if diff := cmp.Diff(list[1], *good); diff != "" {
					t.Errorf("the good one (-got +want):\n%s", diff)
				}
				for i := range list[0].Problems {
					list[0].Problems[i].Detail = ""
				}
				if diff := cmp.Diff(list[0].Problems, []backup.Problem{tc.want}); diff != "" {
					t.Errorf("problems (-got +want):\n%s", diff)
				}
				if list[0].HasMetadata != tc.has || list[0].Validated || list[0].CreatedAt.Format("20060102T150405Z") != stamp {
					t.Errorf("got %+v", list[0])
				}
			})
		})
	}
}

func TestListShowsWhatFailedWhenItWasTaken(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		w.seed(t)
		w.exec(t, "data/atocore.db", inconsistentIndex)
		s := w.store(t)
		snap, err := s.Create(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		list := w.list(t, s)
		if diff := cmp.Diff(list, []backup.Snapshot{*snap}); diff != "" || list[0].Validated || len(list[0].Problems) == 0 {
			t.Errorf("%+v (-got +want):\n%s", list, diff)
		}
	})
}

func TestSnapshotErr(t *testing.T) {
	w := newWorld(t, afero.NewMemMapFs(), "/srv")
	s := w.small(t)
	good := w.create(t, s)
	if err := good.Err(); err != nil {
		t.Errorf("of a good one: %v", err)
	}
	w.drop(t, in(good.Stamp, metadataFile))
	unfinished := w.listed(t, s, good.Stamp)
	if err := unfinished.Err(); !errors.Is(err, backup.CodeMetadataMissing) || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("of an unfinished one: %v", err)
	}
	both := backup.Snapshot{Problems: []backup.Problem{{Code: backup.CodeFileChanged, Path: "a"}, {Code: backup.CodeRawCopy, Path: "b"}}}
	if err := both.Err(); !errors.Is(err, backup.CodeFileChanged) || !errors.Is(err, backup.CodeRawCopy) {
		t.Errorf("of two problems: %v", err)
	}
}

// List reads the metadata and nothing else.
func TestListReadsMetadataAlone(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		s := w.small(t)
		w.create(t, s)
		w.create(t, s)
		want := w.list(t, s)

		t.Run("opens_nothing_else", func(t *testing.T) {
			seen := make(map[string]bool)
			watched := w.store(t, func(cfg *backup.Config) {
				cfg.Fs = &faultFs{Fs: w.fs, fail: func(op, p string) error {
					if op == "read" {
						seen[filepath.Base(p)] = true
					}
					if !slices.Contains([]string{"open", "read", "readdir", "stat", "close"}, op) {
						t.Errorf("%s of %s", op, p)
					}
					return nil
				}}
			})
			if diff := cmp.Diff(w.list(t, watched), want); diff != "" {
				t.Errorf("(-got +want):\n%s", diff)
			}
			if diff := cmp.Diff(slices.Collect(maps.Keys(seen)), []string{metadataFile}); diff != "" {
				t.Errorf("read (-got +want):\n%s", diff)
			}
		})
		t.Run("needs_nothing_else", func(t *testing.T) {
			for _, snap := range want {
				for _, name := range []string{"db", "config", "chroma", manifestFile} {
					w.drop(t, in(snap.Stamp, name))
				}
			}
			if diff := cmp.Diff(w.list(t, s), want); diff != "" {
				t.Errorf("(-got +want):\n%s", diff)
			}
		})
	})
}

func TestListLeavesOutWhatIsNoSnapshot(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		s := w.small(t)
		stamp := w.create(t, s).Stamp
		w.write(t, "backups/snapshots/20260101T000000Z", "a file")
		for _, name := range []string{"not-a-timestamp", "20260230T000000Z", "20260101T000000Z.tmp", "20260101t000000z"} {
			w.write(t, in(name, metadataFile), w.read(t, in(stamp, metadataFile)))
		}
		if diff := cmp.Diff(w.stamps(t, s), []string{stamp}); diff != "" {
			t.Errorf("(-got +want):\n%s", diff)
		}
	})
}

func TestListJSON(t *testing.T) {
	w := newWorld(t, afero.NewMemMapFs(), "/srv")
	w.seed(t)
	w.exec(t, "data/atocore.db", inconsistentIndex)
	s := w.store(t)
	if _, err := s.Create(t.Context(), &backup.CreateOptions{Labels: map[string]string{"k": "v"}}); err != nil {
		t.Fatal(err)
	}
	var list []map[string]any
	remarshal(t, w.list(t, s), &list)
	want := []string{
		"bytes", "created_at", "files", "has_metadata", "labels", "level", "origin", "pinned", "sources", "stamp", "validated", "validation_errors",
	}
	if diff := cmp.Diff(slices.Sorted(maps.Keys(list[0])), want); diff != "" {
		t.Errorf("snapshot (-got +want):\n%s", diff)
	}
	source := list[0]["sources"].([]any)[0].(map[string]any)
	if diff := cmp.Diff(slices.Sorted(maps.Keys(source)), []string{"bytes", "captured", "files", "kind", "name", "path"}); diff != "" {
		t.Errorf("source (-got +want):\n%s", diff)
	}
	problem := list[0]["validation_errors"].([]any)[0].(map[string]any)
	if diff := cmp.Diff(slices.Sorted(maps.Keys(problem)), []string{"code", "detail", "path", "source"}); diff != "" {
		t.Errorf("problem (-got +want):\n%s", diff)
	}
}

// An array is an array, be it empty: clients iterate over it.
func TestListJSONHasNoNulls(t *testing.T) {
	w := newWorld(t, afero.NewMemMapFs(), "/srv")
	s := w.small(t)
	w.drop(t, in(w.create(t, s).Stamp, metadataFile))
	w.create(t, s)
	data, err := json.Marshal(w.list(t, s))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(data), "null") {
		t.Errorf("%s", data)
	}
}

func TestListCancelled(t *testing.T) {
	w := newWorld(t, afero.NewMemMapFs(), "/srv")
	s := w.small(t)
	w.create(t, s)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if list, err := s.List(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %+v, %v", list, err)
	}
}

// What keeps List from seeing the snapshots at all is an error; what keeps it
// from reading one is that one's problem.
func TestListFaults(t *testing.T) {
	w := newWorld(t, afero.NewMemMapFs(), "/srv")
	w.small(t)
	stamp := w.create(t, w.store(t)).Stamp
	faulty := func(op, path string) *backup.Store {
		return w.store(t, func(cfg *backup.Config) {
			cfg.Fs = &faultFs{Fs: w.fs, fail: func(o, p string) error {
				if o == op && p == path {
					return syscall.EIO
				}
				return nil
			}}
		})
	}
	if list, err := faulty("readdir", w.path("backups/snapshots")).List(t.Context()); !errors.Is(err, syscall.EIO) {
		t.Errorf("got %+v, %v", list, err)
	}
	for _, op := range []string{"open", "read"} {
		list := w.list(t, faulty(op, w.snapshot(stamp, metadataFile)))
		if len(list) != 1 || len(list[0].Problems) != 1 || list[0].Validated {
			t.Errorf("%s: got %+v", op, list)
		}
	}
}

func TestListShowsWhatIsInUse(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		s := w.small(t)
		idle := w.create(t, s).Stamp
		held := w.create(t, s).Stamp
		release := w.hold(t, func(s *backup.Store) error {
			_, err := s.Validate(t.Context(), held, nil)
			return err
		})
		want := map[string]bool{idle: false, held: true}
		got := make(map[string]bool)
		for _, snap := range w.list(t, s) {
			got[snap.Stamp] = snap.InUse
		}
		if diff := cmp.Diff(got, want); diff != "" {
			t.Errorf("(-got +want):\n%s", diff)
		}
		release()
		if w.listed(t, s, held).InUse {
			t.Error("in use when nobody uses it")
		}
	})
}

// Looking at a snapshot is no use of it: List neither sees itself nor stands
// in the way of Delete.
func TestListHoldsNothing(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		s := w.small(t)
		stamp := w.create(t, s).Stamp
		var lists sync.WaitGroup
		for range 4 {
			lists.Go(func() {
				for range 500 {
					list, err := s.List(t.Context())
					if err != nil || len(list) != 1 || list[0].InUse {
						t.Errorf("%d listed, in use: %v, %v", len(list), len(list) > 0 && list[0].InUse, err)
						return
					}
				}
			})
		}
		lists.Wait()
		if err := s.Delete(t.Context(), stamp); err != nil {
			t.Error(err)
		}
	})
}

// hold starts an operation on a store of its own, waits until it has begun
// to move bytes, and keeps it there until release, which waits for its end,
// is called.
func (w *world) hold(t *testing.T, operation func(s *backup.Store) error) (release func()) {
	t.Helper()
	begun, resume, done := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	begin := sync.OnceFunc(func() { close(begun) })
	now := w.clock()
	s := w.store(t, func(cfg *backup.Config) {
		cfg.Now = func() time.Time { return now }
		cfg.Progress = func(backup.Progress) {
			begin()
			<-resume
		}
	})
	go func() { done <- operation(s) }()
	release = sync.OnceFunc(func() {
		close(resume)
		if err := <-done; err != nil {
			t.Errorf("held operation: %v", err)
		}
	})
	t.Cleanup(release)
	select {
	case <-begun:
	case err := <-done:
		done <- err
		t.Fatalf("it ended before it moved a byte: %v", err)
	}
	return release
}

// Who waits for another operation says so.
func TestWaitingIsLogged(t *testing.T) {
	w := newWorld(t, afero.NewMemMapFs(), "/srv")
	s := w.small(t)
	release := w.hold(t, func(s *backup.Store) error {
		_, err := s.Create(t.Context(), nil)
		return err
	})
	defer release()
	stamp := w.stamps(t, s)[0]
	ctx, cancel := context.WithCancel(t.Context())
	var lines []string
	waiting := w.store(t, func(cfg *backup.Config) {
		cfg.Logger = slog.New(slog.NewTextHandler(writerFunc(func(line []byte) {
			lines = append(lines, string(line))
			cancel()
		}), nil))
	})
	if _, err := waiting.Validate(ctx, stamp, nil); !errors.Is(err, backup.ErrBusy) {
		t.Errorf("error %v, want busy", err)
	}
	if len(lines) != 1 || !strings.Contains(lines[0], "waiting for another operation") {
		t.Errorf("logged: %q", lines)
	}
}

func BenchmarkList(b *testing.B) {
	s := newStore(b, manySnapshots(b, 10_000))
	for b.Loop() {
		if _, err := s.List(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}

// manySnapshots makes a store of n snapshots of one small file, a day apart,
// and returns its configuration. They are taken in memory, where nothing has
// to be synced, and written out: some at a time, as afero's file system in
// memory slows down with what is on it.
func manySnapshots(b *testing.B, n int) backup.Config {
	b.Helper()
	now := start.AddDate(0, 0, -n)
	cfg := backup.Config{
		Dir:     filepath.Join(b.TempDir(), "backups"),
		Sources: []backup.Source{{Name: "config", Kind: backup.File, Path: "/config.json"}},
		Now:     func() time.Time { return now },
	}
	for taken := 0; taken < n; {
		memory := cfg
		memory.Fs = afero.NewMemMapFs()
		if err := afero.WriteFile(memory.Fs, "/config.json", []byte("{}"), 0o644); err != nil {
			b.Fatal(err)
		}
		s := newStore(b, memory)
		for range min(200, n-taken) {
			if _, err := s.Create(b.Context(), &backup.CreateOptions{Level: backup.ValidateStructure}); err != nil {
				b.Fatal(err)
			}
			now, taken = now.AddDate(0, 0, 1), taken+1
		}
		if err := os.CopyFS(cfg.Dir, afero.NewIOFS(afero.NewBasePathFs(memory.Fs, cfg.Dir))); err != nil {
			b.Fatal(err)
		}
	}
	// The lock file of a store that was written to.
	if err := os.WriteFile(filepath.Join(cfg.Dir, "lock"), nil, 0o600); err != nil {
		b.Fatal(err)
	}
	return cfg
}

func newStore(b *testing.B, cfg backup.Config) *backup.Store {
	b.Helper()
	s, err := backup.New(cfg)
	if err != nil {
		b.Fatal(err)
	}
	return s
}

type writerFunc func([]byte)

func (f writerFunc) Write(p []byte) (int, error) {
	f(p)
	return len(p), nil
}

// In a burst, stamps run ahead of the clock. One that is freed then is that of a
// later snapshot, which is the newest all the same.
func TestListIsNewestFirstWhereStampsWereFreed(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		w.small(t)
		now := day("2026-04-01")
		s := w.store(t, func(cfg *backup.Config) { cfg.Now = func() time.Time { return now } })
		var burst []string
		for range 3 {
			burst = append(burst, w.create(t, s).Stamp)
		}
		for _, stamp := range burst[:2] {
			if err := s.Delete(t.Context(), stamp); err != nil {
				t.Fatal(err)
			}
		}
		now = now.Add(time.Second / 2)
		newest := w.create(t, s).Stamp
		if newest >= burst[2] {
			t.Fatalf("%s took no stamp before %s", newest, burst[2])
		}
		if diff := cmp.Diff(w.stamps(t, s), []string{newest, burst[2]}); diff != "" {
			t.Errorf("listed (-got +want):\n%s", diff)
		}
	})
}
