package backup_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/ncruces/go-sqlite3"
	"github.com/spf13/afero"

	"github.com/atocore/backup"
	"github.com/atocore/backup/internal/crashfs"
)

// include is what captures all that seed makes.
var include = &backup.CreateOptions{Include: []string{"chroma"}}

// digests is tree for large files.
func (w *world) digests(t *testing.T, name string) map[string]string {
	t.Helper()
	if !w.exists(t, name) {
		return nil
	}
	found := make(map[string]string)
	err := afero.Walk(w.fs, w.path(name), func(p string, fi fs.FileInfo, err error) error {
		if err != nil || fi.IsDir() {
			found[p] = "a directory"
			return err
		}
		data, err := afero.ReadFile(w.fs, p)
		found[p] = fmt.Sprintf("%v %d bytes %x", fi.Mode(), len(data), sha256.Sum256(data))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// mustStay returns a function that fails the test if what is at a path is
// not what it was when mustStay was called.
func (w *world) mustStay(t *testing.T, name string) (check func(label string)) {
	t.Helper()
	before := w.digests(t, name)
	return func(label string) {
		t.Helper()
		if diff := cmp.Diff(before, w.digests(t, name)); diff != "" {
			t.Errorf("%s: %s (-want +got):\n%.3000s", label, name, diff)
		}
	}
}

// mustNotBeHeld fails if somebody still has a transaction open on a database
// in rollback mode.
func (w *world) mustNotBeHeld(t *testing.T, name string) {
	t.Helper()
	mustExec(t, w.connect(t, name), "BEGIN EXCLUSIVE; ROLLBACK")
}

func TestCancelledCreateLeavesTheStoreAsItWas(t *testing.T) {
	for _, test := range []struct {
		name   string
		cancel func(cfg *backup.Config, cancel func())
	}{
		{"before", func(_ *backup.Config, cancel func()) { cancel() }},
		{"while_quiescing", func(cfg *backup.Config, cancel func()) {
			cfg.Sources[0].Quiesce = func(context.Context) (func(), error) { cancel(); return nil, nil }
		}},
		{"during_the_copy_of_a_database", func(cfg *backup.Config, cancel func()) { atFirst(t, "db", cancel)(cfg) }},
		{"during_the_copy_of_a_file", func(cfg *backup.Config, cancel func()) { atFirst(t, "config", cancel)(cfg) }},
		{"during_the_copy_of_a_tree", func(cfg *backup.Config, cancel func()) { atFirst(t, "chroma", cancel)(cfg) }},
		{"during_validation", func(cfg *backup.Config, cancel func()) {
			cfg.Sources[0].Check = func(context.Context, *sqlite3.Conn) error { cancel(); return nil }
		}},
		{"during_validation_with_an_error", func(cfg *backup.Config, cancel func()) {
			cfg.Sources[0].Check = func(ctx context.Context, _ *sqlite3.Conn) error { cancel(); return ctx.Err() }
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			eachKindOfFs(t, func(t *testing.T, w *world) {
				w.bookkeeping(t, "data/atocore.db", "delete", 5)
				w.write(t, "config/project-registry.json", oldContent)
				w.write(t, "chroma/data.bin", oldContent)
				w.exec(t, "chroma/chroma.sqlite3", "CREATE TABLE t (x)")
				w.create(t, w.store(t))
				all := w.mustStay(t, ".")

				ctx, cancel := context.WithCancel(t.Context())
				late := 0
				s := w.store(t, func(cfg *backup.Config) { test.cancel(cfg, cancel) }, func(cfg *backup.Config) {
					progress := cfg.Progress
					cfg.Progress = func(p backup.Progress) {
						if ctx.Err() != nil {
							late++
						}
						if progress != nil {
							progress(p)
						}
					}
				})
				snap, err := s.Create(ctx, include)
				if snap != nil || !errors.Is(err, context.Canceled) {
					t.Errorf("got %v, %v, want context.Canceled", snap, err)
				}
				if late > 0 {
					t.Errorf("it went on for %d steps", late)
				}
				all("cancelled")
				w.mustNotBeHeld(t, "data/atocore.db")
				w.mustNotBeHeld(t, "chroma/chroma.sqlite3")
				w.create(t, w.store(t)) // nothing is claimed any more
			})
		})
	}
}

func TestCancelledCreateMakesNoStore(t *testing.T) {
	for _, n := range []int{1, 2, 3} { // of sources: only the last is a tree
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			eachFs(t, func(t *testing.T, w *world) {
				w.seed(t)
				ctx, cancel := context.WithCancel(t.Context())
				cancel()
				s := w.store(t, func(cfg *backup.Config) {
					cfg.Sources = cfg.Sources[:n]
					cfg.Sources[n-1].OnRequest = false
				})
				if _, err := s.Create(ctx, nil); !errors.Is(err, context.Canceled) {
					t.Errorf("got %v, want context.Canceled", err)
				}
				if w.exists(t, "backups") {
					t.Errorf("made all the same: %v", slices.Sorted(maps.Keys(w.tree(t, "backups"))))
				}
			})
		})
	}
}

// A countdown is a context that is cancelled once it has been asked a number
// of times.
type countdown struct {
	context.Context
	cancel func()
	left   atomic.Int64
}

func (c *countdown) Err() error {
	if c.left.Add(-1) == 0 {
		c.cancel()
	}
	return c.Context.Err()
}

// Wherever Create is when it is cancelled, it holds nothing afterwards, and
// leaves nothing.
func TestCreateMayBeCancelledAnywhere(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		w.exec(t, "data/atocore.db", "CREATE TABLE t (x); INSERT INTO t VALUES (zeroblob(50000))")
		w.write(t, "config/project-registry.json", "{}")
		w.exec(t, "chroma/chroma.sqlite3", "CREATE TABLE t (x)")
		w.write(t, "chroma/a/b", "b")
		s := w.store(t)
		w.create(t, s)
		store, cancelled := w.mustStay(t, "backups"), 0
		for n := int64(1); ; n += 1 + n/20 {
			inner, cancel := context.WithCancel(t.Context())
			ctx := &countdown{Context: inner, cancel: cancel}
			ctx.left.Store(n)
			_, err := s.Create(ctx, include)
			if err == nil {
				break
			}
			cancelled++
			if !errors.Is(err, context.Canceled) {
				t.Errorf("at question %d: got %v, want context.Canceled", n, err)
			}
			store(fmt.Sprintf("at question %d", n))
			w.mustNotBeHeld(t, "data/atocore.db")
			w.mustNotBeHeld(t, "chroma/chroma.sqlite3")
			if t.Failed() {
				break
			}
		}
		if cancelled < 10 {
			t.Errorf("cancelled in %d places, want many", cancelled)
		}
	})
}

// Create waits for a restore, and no longer than its context.
func TestCreateThatWaitsForARestoreMayBeCancelled(t *testing.T) {
	for name, cancelled := range map[string]func(context.Context) (context.Context, error){
		"cancelled": func(ctx context.Context) (context.Context, error) {
			ctx, cancel := context.WithCancel(ctx)
			cancel()
			return ctx, context.Canceled
		},
		"cancelled_for_a_cause": func(ctx context.Context) (context.Context, error) {
			ctx, cancel := context.WithCancelCause(ctx)
			cancel(errors.New("the cause"))
			return ctx, context.Canceled
		},
		"too_late": func(ctx context.Context) (context.Context, error) {
			ctx, cancel := context.WithDeadline(ctx, start)
			cancel()
			return ctx, context.DeadlineExceeded
		},
	} {
		t.Run(name, func(t *testing.T) {
			eachFs(t, func(t *testing.T, w *world) {
				w.seed(t)
				var s *backup.Store
				try := sync.OnceFunc(func() {
					ctx, want := cancelled(t.Context())
					if _, err := s.Create(ctx, nil); !errors.Is(err, want) {
						t.Errorf("got %v, want %v", err, want)
					}
				})
				s = w.store(t, func(cfg *backup.Config) {
					cfg.Progress = func(p backup.Progress) {
						if p.Op == "restore" {
							try()
						}
					}
				})
				w.restore(t, s, w.create(t, s).Stamp)
			})
		})
	}
}

func TestProgressRunsFromNothingToTheTotal(t *testing.T) {
	for _, mode := range []string{"wal", "delete"} {
		t.Run(mode, func(t *testing.T) {
			eachFs(t, func(t *testing.T, w *world) {
				w.seed(t)
				w.bookkeeping(t, "data/atocore.db", mode, 9)
				w.write(t, "chroma/big", oldContent)
				var events []backup.Progress
				s := w.store(t, func(cfg *backup.Config) {
					cfg.Progress = func(p backup.Progress) { events = append(events, p) }
				})
				if _, err := s.Create(t.Context(), include); err != nil {
					t.Fatal(err)
				}
				checkProgress(t, events, "db", "config", "chroma")
				checkEnd(t, events)
			})
		})
	}
}

// checkProgress checks what any bar shows: that it never goes back, and never
// beyond its end.
func checkProgress(t *testing.T, events []backup.Progress, sources ...string) {
	t.Helper()
	last := make(map[string]backup.Progress)
	for i, p := range events {
		before := last[p.Source]
		if p.Op != "create" || !slices.Contains(sources, p.Source) {
			t.Errorf("event %d: %+v: of no such source", i, p)
		}
		if p.Done < before.Done || p.Done > p.Total || p.Done < 0 {
			t.Errorf("event %d: from %+v to %+v", i, before, p)
		}
		last[p.Source] = p
	}
	for _, name := range sources {
		if _, ok := last[name]; !ok {
			t.Errorf("source %s: no progress", name)
		}
	}
}

// checkEnd checks that a bar gets to its end, and not before it is there.
func checkEnd(t *testing.T, events []backup.Progress) {
	t.Helper()
	last := make(map[string]int)
	for i, p := range events {
		last[p.Source] = i
	}
	for i, p := range events {
		if atEnd := p.Done == p.Total; atEnd != (i == last[p.Source]) {
			t.Errorf("event %d of %d: %+v: at the end: %v", i, len(events), p, atEnd)
		}
	}
}

// What grows after it was measured does not make the bar too long.
func TestProgressOfWhatGrowsStaysWithinItsTotal(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		w.write(t, "tree/log", "short")
		source := w.treeSource("tree")
		source.Quiesce = func(context.Context) (func(), error) {
			w.write(t, "tree/log", oldContent)
			w.write(t, "tree/new", newContent)
			return nil, nil
		}
		var events []backup.Progress
		s := w.store(t, withSources(source), func(cfg *backup.Config) {
			cfg.Progress = func(p backup.Progress) { events = append(events, p) }
		})
		if _, err := s.Create(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		checkProgress(t, events, "tree")
	})
}

// What Progress reports of one source counts to one total.
func TestProgressOfASourceHasOneTotal(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		w.seed(t)
		w.bookkeeping(t, "data/atocore.db", "delete", 9)
		totals := make(map[string]map[int64]bool)
		s := w.store(t, func(cfg *backup.Config) {
			cfg.Progress = func(p backup.Progress) {
				if totals[p.Source] == nil {
					totals[p.Source] = make(map[int64]bool)
				}
				totals[p.Source][p.Total] = true
			}
		})
		if _, err := s.Create(t.Context(), include); err != nil {
			t.Fatal(err)
		}
		for name, seen := range totals {
			if len(seen) != 1 {
				t.Errorf("source %s: totals of %v bytes", name, slices.Sorted(maps.Keys(seen)))
			}
		}
	})
}

func TestMissingOptionalSourceIsRecorded(t *testing.T) {
	for _, kind := range []backup.Kind{backup.Database, backup.File, backup.Tree} {
		for name, path := range map[string]string{"itself": "there/missing", "its_directory": "missing/x"} {
			t.Run(string(kind)+"_"+name, func(t *testing.T) {
				eachFs(t, func(t *testing.T, w *world) {
					w.seed(t)
					w.mkdir(t, "there")
					quiesced := false
					s := w.store(t, withSources(w.file("config/project-registry.json"), backup.Source{
						Name: "x", Kind: kind, Path: w.path(path), Optional: true,
						Quiesce: func(context.Context) (func(), error) { quiesced = true; return nil, nil },
					}))
					snap := mustCreate(t, s)
					want := backup.SourceState{Name: "x", Kind: kind}
					if got, ok := snap.Source("x"); !ok || cmp.Diff(want, got) != "" {
						t.Errorf("got %+v, want %+v", got, want)
					}
					if quiesced {
						t.Error("there was nothing to hold writers off from")
					}
				})
			})
		}
	}
}

func TestMissingRequiredSourceIsAnError(t *testing.T) {
	for _, kind := range []backup.Kind{backup.Database, backup.File, backup.Tree} {
		for name, path := range map[string]string{"itself": "there/missing", "its_directory": "missing/x"} {
			for _, first := range []bool{true, false} {
				t.Run(fmt.Sprintf("%s_%s_first_%v", kind, name, first), func(t *testing.T) {
					eachFs(t, func(t *testing.T, w *world) {
						w.seed(t)
						w.mkdir(t, "there")
						if !first {
							w.create(t, w.store(t))
						}
						all := w.mustStay(t, ".")
						s := w.store(t, func(cfg *backup.Config) {
							cfg.Sources = append(cfg.Sources, backup.Source{Name: "x", Kind: kind, Path: w.path(path)})
						})
						snap, err := s.Create(t.Context(), nil)
						if snap != nil || !errors.Is(err, fs.ErrNotExist) {
							t.Fatalf("got %v, %v, want fs.ErrNotExist", snap, err)
						}
						for _, want := range []string{`"x"`, filepath.FromSlash(path)} {
							if !strings.Contains(err.Error(), want) {
								t.Errorf("got %q, want %s in it", err, want)
							}
						}
						all("a missing source")
					})
				})
			}
		}
	}
}

func TestOnRequestSourceIsCapturedOnlyWhenAsked(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		w.seed(t)
		s := w.store(t)
		snap := mustCreate(t, s)
		want := backup.SourceState{Name: "chroma", Kind: backup.Tree}
		if got, _ := snap.Source("chroma"); cmp.Diff(want, got) != "" {
			t.Errorf("not asked for: got %+v, want %+v", got, want)
		}
		snap, err := s.Create(t.Context(), include)
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := snap.Source("chroma"); !got.Captured || got.Files != 2 {
			t.Errorf("asked for: got %+v, want its two files", got)
		}
		// Naming what is captured anyway is no mistake.
		if _, err := s.Create(t.Context(), &backup.CreateOptions{Include: []string{"db", "db"}}); err != nil {
			t.Error(err)
		}
		// Missing, it is one only when asked for.
		w.remove(t, "chroma")
		mustCreate(t, s)
		if _, err := s.Create(t.Context(), include); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("got %v, want fs.ErrNotExist", err)
		}
	})
}

// A journalist notes what happens, in order, without repetitions.
type journalist struct{ notes []string }

func (j *journalist) note(what string) {
	if len(j.notes) == 0 || j.notes[len(j.notes)-1] != what {
		j.notes = append(j.notes, what)
	}
}

// quiesce returns a Quiesce for the source of that name.
func (j *journalist) quiesce(name string) func(context.Context) (func(), error) {
	return func(context.Context) (func(), error) {
		j.note("quiesce " + name)
		return func() { j.note("release " + name) }, nil
	}
}

// watch makes j note what becomes of the sources, but not that they are read
// back, which is done side by side.
func (j *journalist) watch(cfg *backup.Config) {
	for i := range cfg.Sources {
		src := &cfg.Sources[i]
		src.Quiesce = j.quiesce(src.Name)
		if src.Kind == backup.Database {
			src.Check = func(context.Context, *sqlite3.Conn) error {
				j.note("check " + src.Name)
				return nil
			}
		}
	}
	progress := cfg.Progress
	cfg.Progress = func(p backup.Progress) {
		if p.Done <= p.Total/2 {
			j.note("copy " + p.Source)
		}
		if progress != nil {
			progress(p)
		}
	}
}

func TestQuiesceHoldsWritersOffWhileASourceIsCopied(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		w.seed(t)
		w.exec(t, "second.db", "CREATE TABLE t (x)")
		var j journalist
		s := w.store(t, func(cfg *backup.Config) {
			second := backup.Source{Name: "second", Kind: backup.Database, Path: w.path("second.db")}
			cfg.Sources = slices.Insert(cfg.Sources, 1, second)
		}, j.watch)
		if _, err := s.Create(t.Context(), include); err != nil {
			t.Fatal(err)
		}
		if n := len(j.notes); n > 2 {
			slices.Sort(j.notes[n-2:]) // the checks
		}
		want := []string{
			"quiesce db", "quiesce second", // both are pinned before either is copied
			"copy db", "release db",
			"copy second", "release second",
			"quiesce config", "copy config", "release config",
			"quiesce chroma", "copy chroma", "release chroma",
			"check db", "check second",
		}
		if diff := cmp.Diff(want, j.notes); diff != "" {
			t.Errorf("events (-want +got):\n%s", diff)
		}
	})
}

// A tree's databases are not pinned before its writers are held off.
func TestQuiesceComesBeforeTheDatabasesOfATreeArePinned(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		w.bookkeeping(t, "tree/app.db", "delete", 1)
		source := w.treeSource("tree")
		source.Quiesce = func(context.Context) (func(), error) {
			w.exec(t, "tree/app.db", bookEntry) // the service folds in what it has
			w.exec(t, "tree/late.db", "CREATE TABLE t (x)")
			return nil, nil
		}
		snap := mustCreate(t, w.store(t, withSources(source)))
		if got := w.queryCopy(t, snap, "tree/app.db", bookCount); got != "1" {
			t.Errorf("%s rows, want the one of the last moment", got)
		}
		if got := w.types(t, snap.Stamp)["tree/late.db"]; got != "db" {
			t.Errorf("what was made at the last moment is of type %q", got)
		}
	})
}

func TestQuiesceIsReleasedWhateverHappens(t *testing.T) {
	failure := errors.New("the failure")
	for _, test := range []struct {
		name   string
		change func(cfg *backup.Config, j *journalist, cancel func())
		want   error
		notes  []string
	}{
		{
			"quiesce_fails", func(cfg *backup.Config, j *journalist, _ func()) {
				cfg.Sources[1].Quiesce = func(context.Context) (func(), error) {
					j.note("quiesce config")
					return nil, failure
				}
			}, failure, []string{"quiesce db", "copy db", "release db", "quiesce config"},
		},
		{
			"quiesce_of_the_first_fails", func(cfg *backup.Config, j *journalist, _ func()) {
				cfg.Sources[0].Quiesce = func(context.Context) (func(), error) { return nil, failure }
			}, failure, nil,
		},
		{
			"cancelled", func(cfg *backup.Config, j *journalist, cancel func()) {
				progress := cfg.Progress
				cfg.Progress = func(p backup.Progress) {
					progress(p)
					if p.Source == "config" {
						cancel()
					}
				}
			}, context.Canceled, []string{"quiesce db", "copy db", "release db", "quiesce config", "copy config", "release config"},
		},
		{
			"cancelled_by_the_first", func(cfg *backup.Config, j *journalist, cancel func()) {
				quiesce := cfg.Sources[0].Quiesce
				cfg.Sources[0].Quiesce = func(ctx context.Context) (func(), error) {
					defer cancel()
					return quiesce(ctx)
				}
			}, context.Canceled, []string{"quiesce db", "release db"},
		},
		{
			"no_release", func(cfg *backup.Config, j *journalist, _ func()) {
				for i := range cfg.Sources {
					cfg.Sources[i].Quiesce = func(context.Context) (func(), error) { return nil, nil }
				}
			}, nil, []string{"copy db", "copy config", "check db"},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			eachFs(t, func(t *testing.T, w *world) {
				w.seed(t)
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				var j journalist
				s := w.store(t, func(cfg *backup.Config) { cfg.Sources = cfg.Sources[:2] }, j.watch,
					func(cfg *backup.Config) { test.change(cfg, &j, cancel) })
				if _, err := s.Create(ctx, nil); !errors.Is(err, test.want) {
					t.Errorf("got %v, want %v", err, test.want)
				}
				if diff := cmp.Diff(test.notes, j.notes); diff != "" {
					t.Errorf("events (-want +got):\n%s", diff)
				}
				if test.want != nil {
					w.mustHaveNoSnapshots(t)
				}
			})
		})
	}
}

func TestCheckFailureIsRecordedAndNoError(t *testing.T) {
	for name, check := range map[string]func(context.Context, *sqlite3.Conn) error{
		"error":     func(context.Context, *sqlite3.Conn) error { return errors.New("too few memories") },
		"panic":     func(context.Context, *sqlite3.Conn) error { panic("too few memories") },
		"bad_query": func(_ context.Context, c *sqlite3.Conn) error { return c.Exec("SELECT * FROM too_few_memories") },
		"not_closed": func(_ context.Context, c *sqlite3.Conn) error {
			_, _, err := c.Prepare("SELECT 'too few memories'")
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			eachFs(t, func(t *testing.T, w *world) {
				w.seed(t)
				s := w.store(t, func(cfg *backup.Config) { cfg.Sources[0].Check = check })
				snap, err := s.Create(t.Context(), nil)
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff([]string{"check_failed db/atocore.db"}, problemsOf(snap)); diff != "" || snap.Validated {
					t.Errorf("validated: %v, problems (-want +got):\n%s", snap.Validated, diff)
				}
				if name != "not_closed" && !strings.Contains(snap.Problems[0].Detail, "too") {
					t.Errorf("got %v, want to read what the check said", snap.Problems[0])
				}
				report, err := s.Validate(t.Context(), snap.Stamp, nil)
				if err != nil || !errors.Is(report.Err(), backup.CodeCheckFailed) || report.DBOK {
					t.Errorf("validated: %+v, %v, want check_failed", report, err)
				}
			})
		})
	}
}

func TestCheckHasTheCopyReadOnly(t *testing.T) {
	for _, mode := range []string{"wal", "delete"} {
		t.Run(mode, func(t *testing.T) {
			eachFs(t, func(t *testing.T, w *world) {
				w.bookkeeping(t, "app.db", mode, 1)
				w.exec(t, "app.db", bookEntry)
				source, called := w.database("app.db"), 0
				source.Check = func(ctx context.Context, c *sqlite3.Conn) error {
					called++
					if ctx.Value(keyOfTest) != "value" {
						t.Error("it has another context")
					}
					if got := countRows(t, c); got != 1 {
						t.Errorf("it sees %d rows, want the one of the copy", got)
					}
					for _, sql := range []string{"DELETE FROM debits", "CREATE TABLE u (x)", "PRAGMA user_version=9", "VACUUM"} {
						if c.Exec(sql) == nil {
							t.Errorf("%s: it may write", sql)
						}
					}
					return nil
				}
				// The live database has another row by then.
				s := w.store(t, withSources(source), func(cfg *backup.Config) {
					cfg.Sources[0].Quiesce = func(context.Context) (func(), error) {
						return func() { w.exec(t, "app.db", bookEntry) }, nil
					}
				})
				snap, err := s.Create(context.WithValue(t.Context(), keyOfTest, "value"), nil)
				if err != nil || !snap.Validated {
					t.Fatalf("got %+v, %v", snap, err)
				}
				if called != 1 {
					t.Errorf("it was called %d times, want once", called)
				}
				want := map[string]string{"db": "dir", "db/app.db": "db"}
				if diff := cmp.Diff(want, w.types(t, snap.Stamp)); diff != "" {
					t.Errorf("entries (-want +got):\n%s", diff)
				}
				if _, err := s.Validate(context.WithValue(t.Context(), keyOfTest, "value"), snap.Stamp, nil); err != nil || called != 2 {
					t.Errorf("called %d times after Validate, %v", called, err)
				}
			})
		})
	}
}

type testKey int

const keyOfTest testKey = 0

// fixedClock stands still.
func fixedClock(cfg *backup.Config) {
	cfg.Now = func() time.Time { return start.Add(123456789) }
}

func TestStampsOfOneSecondDiffer(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		w.seed(t)
		s := w.store(t, fixedClock)
		for _, want := range []string{"20260411T100000Z", "20260411T100001Z", "20260411T100002Z"} {
			snap := mustCreate(t, s)
			if snap.Stamp != want || !snap.CreatedAt.Equal(start.Add(123456789)) {
				t.Errorf("got %s of %v, want %s of the true time", snap.Stamp, snap.CreatedAt, want)
			}
		}
		// What is in the way, be it a file, is left alone.
		w.write(t, "backups/snapshots/20260411T100003Z", "a file")
		if snap := mustCreate(t, s); snap.Stamp != "20260411T100004Z" {
			t.Errorf("got %s", snap.Stamp)
		}
		list, err := s.List(t.Context())
		if err != nil || len(list) != 4 || !list[3].CreatedAt.Equal(start.Add(123456789)) {
			t.Errorf("got %d snapshots, %v, want four", len(list), err)
		}
	})
}

func TestCreatedAtIsUTC(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		w.seed(t)
		zone := time.FixedZone("+05:30", 19800)
		s := w.store(t, func(cfg *backup.Config) { cfg.Now = func() time.Time { return start.In(zone) } })
		snap := mustCreate(t, s)
		if snap.Stamp != "20260411T100000Z" || snap.CreatedAt.Location() != time.UTC {
			t.Errorf("got %s of %v, want UTC", snap.Stamp, snap.CreatedAt)
		}
	})
}

func TestClockBeyondWhatAStampCanSayIsAnError(t *testing.T) {
	for name, now := range map[string]time.Time{
		"year_10000": time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC),
		"year_-1":    time.Date(-1, 1, 1, 0, 0, 0, 0, time.UTC),
	} {
		t.Run(name, func(t *testing.T) {
			eachFs(t, func(t *testing.T, w *world) {
				w.seed(t)
				s := w.store(t, func(cfg *backup.Config) { cfg.Now = func() time.Time { return now } })
				if _, err := s.Create(t.Context(), nil); err == nil {
					t.Error("no error")
				}
				w.mustHaveNoSnapshots(t)
			})
		})
	}
}

func TestParallelCreatesAllSucceed(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		w.seed(t)
		w.exec(t, "data/atocore.db", "PRAGMA journal_mode=DELETE") // in memory, readers of a WAL take turns
		s := w.store(t, fixedClock)
		stamps := make([]string, 16)
		var wg sync.WaitGroup
		for i := range stamps {
			wg.Go(func() {
				snap, err := s.Create(t.Context(), include)
				if err != nil {
					t.Error(err)
					return
				}
				if !snap.Validated {
					t.Errorf("%s: %v", snap.Stamp, snap.Problems)
				}
				stamps[i] = snap.Stamp
			})
		}
		wg.Wait()
		slices.Sort(stamps)
		if distinct := slices.Compact(slices.Clone(stamps)); len(distinct) != len(stamps) {
			t.Errorf("stamps: %v", stamps)
		}
		for _, stamp := range stamps {
			mustBeValid(t, s, stamp)
		}
	})
}

const creatorEnv = "BACKUP_TEST_CREATOR" // the root of the world to back up

// TestCreatorProcess is a part of the next test; by itself it is no test.
func TestCreatorProcess(t *testing.T) {
	root := os.Getenv(creatorEnv)
	if root == "" {
		t.Skip("a part of other tests")
	}
	w := &world{fs: afero.NewOsFs(), root: root}
	s := w.store(t, fixedClock)
	for range 4 {
		fmt.Println(mustCreate(t, s).Stamp)
	}
}

func TestCreatesOfSeveralProcessesAllSucceed(t *testing.T) {
	w := osWorld(t)
	w.seed(t)
	outs := make([]bytes.Buffer, 3)
	var wg sync.WaitGroup
	for i := range outs {
		cmd := rerun(t, "TestCreatorProcess", creatorEnv+"="+w.root)
		cmd.Stdout = &outs[i]
		wg.Go(func() {
			if err := cmd.Run(); err != nil {
				t.Errorf("%v: %s", err, &outs[i])
			}
		})
	}
	wg.Wait()
	seen := make(map[string]bool)
	for i := range outs {
		for _, line := range strings.Fields(outs[i].String()) {
			if strings.HasPrefix(line, "2026") {
				seen[line] = true
			}
		}
	}
	list, err := w.store(t).List(t.Context())
	if err != nil || len(list) != 12 || len(seen) != 12 {
		t.Errorf("%d snapshots, %d stamps, %v, want 12 of each", len(list), len(seen), err)
	}
}

func TestPermissionsAreTheOwnersAlone(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		w.seed(t)
		db := w.database("data/second.db")
		db.Name, db.DB = "second", openSQL(t, w.reachable(t, "data/second.db").nativePath("data/second.db"))
		if _, err := db.DB.Exec("CREATE TABLE t (x)"); err != nil {
			t.Fatal(err)
		}
		s := w.store(t, func(cfg *backup.Config) {
			cfg.Sources = append(cfg.Sources[:2], db)
		})
		mustCreate(t, s)
		for name, content := range w.tree(t, "backups") {
			mode, _, isFile := strings.Cut(content, " ")
			want := "-rwx------"
			if isFile {
				want = "-rw-------"
			}
			if mode != want {
				t.Errorf("%s has permissions %s, want %s", name, mode, want)
			}
		}
	})
}

var updateGolden = flag.Bool("create.golden", false, "write testdata/metadata.golden.json anew")

// The metadata of a snapshot, whole, as they are on disk but for hashes.
// Regenerate with
//
//	go test -run TestMetadataAreThoseOfTheGoldenFile -create.golden
//
// but mind: other versions of this library, and the Python module, read what
// this file shows.
func TestMetadataAreThoseOfTheGoldenFile(t *testing.T) {
	w := newWorld(t, afero.NewMemMapFs(), "/srv")
	w.seed(t)
	w.exec(t, "other.db", "CREATE TABLE t (x)")
	s := w.store(t, fixedClock, func(cfg *backup.Config) {
		other := backup.Source{Name: "other", Kind: backup.Database, Path: w.path("other.db"), OnRequest: true}
		cfg.Sources = append(cfg.Sources, other)
		for i := range cfg.Sources {
			cfg.Sources[i].Path = filepath.ToSlash(cfg.Sources[i].Path)
		}
	})
	for _, name := range []string{"config/project-registry.json", "chroma/collection-a/data.bin", "chroma/chroma.sqlite3", "data/atocore.db"} {
		w.attribute(t, name, 0o640, ancient)
	}
	for _, name := range []string{"chroma/collection-a", "chroma/empty", "chroma"} {
		w.attribute(t, name, 0o750, ancient)
	}
	snap, err := s.Create(t.Context(), &backup.CreateOptions{
		Include: []string{"chroma"}, Labels: map[string]string{"reason": "before the upgrade"}, Pin: true, Origin: backup.OriginScheduled,
	})
	if err != nil {
		t.Fatal(err)
	}
	data, err := afero.ReadFile(w.fs, w.snapshot(snap.Stamp, "backup-metadata.json"))
	if err != nil {
		t.Fatal(err)
	}
	// A database says which version of SQLite wrote it, and hashes follow.
	got := regexp.MustCompile(`[0-9a-f]{64}`).ReplaceAll(data, []byte("<SHA-256>"))
	golden := filepath.Join("testdata", "metadata.golden.json")
	if *updateGolden {
		if err := errors.Join(os.MkdirAll("testdata", 0o755), os.WriteFile(golden, got, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("metadata (-want +got):\n%s", diff)
	}
}

// The keys of the Python module, of which it reads some and wrote all.
func TestMetadataHaveTheKeysOfThePythonModule(t *testing.T) {
	for name, opts := range map[string]*backup.CreateOptions{"without_vectors": nil, "with_vectors": include} {
		t.Run(name, func(t *testing.T) {
			eachFs(t, func(t *testing.T, w *world) {
				w.seed(t)
				snap, err := w.store(t, fixedClock).Create(t.Context(), opts)
				if err != nil {
					t.Fatal(err)
				}
				data, err := afero.ReadFile(w.fs, w.snapshot(snap.Stamp, "backup-metadata.json"))
				if err != nil {
					t.Fatal(err)
				}
				got := make(map[string]any)
				if err := json.Unmarshal(data, &got); err != nil {
					t.Fatal(err)
				}
				root := filepath.Join(w.nativePath("backups"), "snapshots", snap.Stamp)
				db, _ := snap.Source("db")
				chroma, _ := snap.Source("chroma")
				want := map[string]any{
					"created_at":               "2026-04-11T10:00:00.123456789Z",
					"backup_root":              root,
					"db_snapshot_path":         filepath.Join(root, "db", "atocore.db"),
					"db_size_bytes":            float64(db.Bytes),
					"registry_snapshot_path":   filepath.Join(root, "config", "project-registry.json"),
					"chroma_snapshot_path":     "",
					"chroma_snapshot_bytes":    float64(0),
					"chroma_snapshot_files":    float64(0),
					"chroma_snapshot_included": false,
					"vector_store_note":        "",
				}
				if opts != nil {
					want["chroma_snapshot_path"] = filepath.Join(root, "chroma")
					want["chroma_snapshot_bytes"] = float64(chroma.Bytes)
					want["chroma_snapshot_files"] = float64(2)
					want["chroma_snapshot_included"] = true
				}
				for key, value := range want {
					if key == "vector_store_note" {
						if _, ok := got[key].(string); !ok {
							t.Errorf("%s: got %v, want text", key, got[key])
						}
					} else if got[key] != value {
						t.Errorf("%s: got %v, want %v", key, got[key], value)
					}
				}
			})
		})
	}
}

// faultyWorld has one database, one file and one tree, on a file system that
// fails on demand.
func faultyWorld(t *testing.T) (*world, *crashfs.FS) {
	t.Helper()
	fsys := crashfs.New(crashfs.Options{})
	w := newWorld(t, fsys, "/srv")
	w.seed(t)
	mustCreate(t, w.store(t))
	return w, fsys
}

// Space that is known not to be there is not written to.
func TestFullDiskIsFoundOutBeforeAnythingIsWritten(t *testing.T) {
	w, fsys := faultyWorld(t)
	const large = 1 << 40
	fsys.SetCapacity(large)
	free, err := fsys.Free(w.root)
	if err != nil {
		t.Fatal(err)
	}
	fsys.SetCapacity(large - free + 1<<20) // no more than what the metadata may need
	store := w.mustStay(t, "backups")
	begun := len(fsys.Log())
	_, err = w.store(t).Create(t.Context(), include)
	if !errors.Is(err, backup.ErrNoSpace) || !strings.Contains(err.Error(), w.path("backups")) {
		t.Errorf("got %v, want ErrNoSpace that names where", err)
	}
	for _, op := range fsys.Log()[begun:] {
		if op.Kind == crashfs.OpWrite || op.Kind == crashfs.OpMkdir {
			t.Errorf("written all the same: %v", op)
		}
	}
	store("no space")
}

// operations returns what Create does to the file system, for faults to be
// laid in its way.
func operations(t *testing.T, w *world, fsys *crashfs.FS) []crashfs.Op {
	t.Helper()
	clone := fsys.Clone()
	on := &world{fs: clone, root: w.root, now: w.now}
	if _, err := on.store(t).Create(t.Context(), include); err != nil {
		t.Fatal(err)
	}
	return clone.Log()
}

// try runs Create on a copy of a file system with a hook.
func try(t *testing.T, w *world, fsys *crashfs.FS, hook func(crashfs.Op) crashfs.Fault) (snap *backup.Snapshot, on *world, err error) {
	t.Helper()
	clone := fsys.Clone()
	on = &world{fs: clone, root: w.root, now: w.now}
	clone.SetHook(hook)
	snap, err = on.store(t).Create(t.Context(), include)
	on.fs = clone.Clone() // without the hook
	return snap, on, err
}

// mustBeTheSame fails unless both worlds have the same files at a path.
func mustBeTheSame(t *testing.T, before, after *world, name, label string) {
	t.Helper()
	if diff := cmp.Diff(before.tree(t, name), after.tree(t, name)); diff != "" {
		t.Errorf("%s: %s (-want +got):\n%.2000s", label, name, diff)
	}
}

func TestDiskThatFillsUpLeavesTheStoreAsItWas(t *testing.T) {
	for name, kinds := range map[string][]crashfs.OpKind{
		"writes":     {crashfs.OpOpen, crashfs.OpMkdir, crashfs.OpWrite, crashfs.OpTruncate},
		"syncs_also": {crashfs.OpOpen, crashfs.OpMkdir, crashfs.OpWrite, crashfs.OpTruncate, crashfs.OpSync},
	} {
		t.Run(name, func(t *testing.T) {
			w, fsys := faultyWorld(t)
			failed := 0
			for _, at := range operations(t, w, fsys) {
				if !slices.Contains(kinds, at.Kind) || at.Kind == crashfs.OpOpen && at.Flag&os.O_CREATE == 0 {
					continue
				}
				snap, on, err := try(t, w, fsys, func(op crashfs.Op) crashfs.Fault {
					if op.N >= at.N && slices.Contains(kinds, op.Kind) {
						return crashfs.Fault{Effect: crashfs.FailBefore, Err: syscall.ENOSPC} // but for opening what is there
					}
					return crashfs.Fault{}
				})
				if errors.Is(err, backup.ErrDurabilityUnknown) && snap != nil {
					continue // all was written
				}
				if failed++; snap != nil || !errors.Is(err, syscall.ENOSPC) {
					t.Errorf("full from %v on: got %v, %v, want ENOSPC", at, snap, err)
				}
				mustBeTheSame(t, w, on, ".", at.String())
			}
			if failed < 20 {
				t.Errorf("failed in %d places, want many", failed)
			}
		})
	}
}

// An I/O error of any call is passed on, recorded if it is the copy that
// cannot be read, or of no consequence.
func TestFailureOfAnyCallIsSurfaced(t *testing.T) {
	w, fsys := faultyWorld(t)
	sound, _, err := try(t, w, fsys, nil)
	if err != nil {
		t.Fatal(err)
	}
	for kind, ops := range byKind(operations(t, w, fsys)) {
		t.Run(string(kind), func(t *testing.T) {
			for i := 0; i < len(ops); i += 1 + len(ops)/15 {
				at := ops[i]
				snap, on, err := try(t, w, fsys, func(op crashfs.Op) crashfs.Fault {
					if op.N == at.N {
						return crashfs.Fault{Effect: crashfs.FailBefore, Err: syscall.EIO}
					}
					return crashfs.Fault{}
				})
				switch {
				case err != nil && !errors.Is(err, backup.ErrDurabilityUnknown):
					if !errors.Is(err, syscall.EIO) {
						t.Errorf("%v: got %v, want EIO", at, err)
					}
					mustBeTheSame(t, w, on, ".", at.String())
				case snap.Validated:
					mustBeValid(t, on.store(t), snap.Stamp)
					if diff := cmp.Diff(sound, snap); diff != "" {
						t.Errorf("%v: snapshot (-want +got):\n%s", at, diff)
					}
					if strings.Contains(at.Path, snap.Stamp) && kind != crashfs.OpClose && err == nil {
						t.Errorf("%v: nothing is said of it", at)
					}
				}
			}
		})
	}
}

func byKind(ops []crashfs.Op) map[crashfs.OpKind][]crashfs.Op {
	kinds := make(map[crashfs.OpKind][]crashfs.Op)
	for _, op := range ops {
		if op.Err == nil { // others are questions whether something is there
			kinds[op.Kind] = append(kinds[op.Kind], op)
		}
	}
	return kinds
}

// A store that cannot be written to is left as it was, and the error says
// which.
func TestReadOnlyStoreIsLeftAsItWas(t *testing.T) {
	for name, readOnly := range map[string]func(afero.Fs) afero.Fs{
		"wrapper": func(fsys afero.Fs) afero.Fs { return afero.NewReadOnlyFs(fsys) },
		"mount": func(fsys afero.Fs) afero.Fs {
			clone := fsys.(*crashfs.FS).Clone()
			clone.MountReadOnly()
			return clone
		},
	} {
		for _, exists := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s_exists_%v", name, exists), func(t *testing.T) {
				w, fsys := faultyWorld(t)
				w.exec(t, "data/atocore.db", "PRAGMA journal_mode=DELETE") // one in WAL mode cannot be read then
				if !exists {
					w.remove(t, "backups")
				}
				on := &world{fs: readOnly(fsys), root: w.root, now: w.now}
				snap, err := on.store(t).Create(t.Context(), include)
				if snap != nil || err == nil {
					t.Fatalf("got %v, %v, want an error", snap, err)
				}
				if !errors.Is(err, syscall.EROFS) && !errors.Is(err, fs.ErrPermission) {
					t.Errorf("got %v, want that it is read-only", err)
				}
				if !strings.Contains(err.Error(), w.path("backups")) {
					t.Errorf("got %q, want %s in it", err, w.path("backups"))
				}
				on.fs = afero.NewReadOnlyFs(on.fs)
				mustBeTheSame(t, w, on, ".", "read-only")
			})
		}
	}
}

// The names that the library itself uses in a snapshot are not a source's.
func TestSourceThatIsNamedLikeAFileOfTheSnapshotIsRefusedOrKept(t *testing.T) {
	for _, name := range []string{"backup-metadata.json.tmp", "manifest.jsonl.tmp", "snapshots", "lock"} {
		t.Run(name, func(t *testing.T) {
			eachFs(t, func(t *testing.T, w *world) {
				w.seed(t)
				source := w.database("data/atocore.db")
				source.Name = name
				cfg := backup.Config{Dir: w.path("backups"), Fs: w.fs, Sources: []backup.Source{source}, Now: w.clock}
				s, err := backup.New(cfg)
				if err != nil {
					return
				}
				mustCreate(t, s)
			})
		})
	}
}

// Errors name the snapshot that they are about.
func TestErrorsNameTheSnapshot(t *testing.T) {
	w := newWorld(t, afero.NewMemMapFs(), "/srv")
	w.seed(t)
	stamp := w.create(t, w.store(t)).Stamp
	s := w.faulty(t, func(op, p string) error {
		if (op == "write" || op == "readdir") && strings.Contains(p, "/snapshots/") {
			return syscall.EIO
		}
		return nil
	})
	if _, err := s.Create(t.Context(), nil); err == nil || !strings.Contains(err.Error(), "backup: create: 20260411T100200Z: copy source") {
		t.Errorf("create: %v", err)
	}
	if _, err := s.Validate(t.Context(), stamp, nil); err == nil || !strings.Contains(err.Error(), "backup: validate "+stamp+": ") {
		t.Errorf("validate: %v", err)
	}
}

// A file system that makes a directory that there is, as afero's CopyOnWriteFs
// does, and a clock that stands still.
func TestStampsDoNotCollideWhereMkdirDoesNotTell(t *testing.T) {
	w := newWorld(t, afero.NewMemMapFs(), "/srv")
	w.write(t, "f", "content")
	s := w.store(t, withSources(w.file("f")), func(cfg *backup.Config) {
		cfg.Fs = afero.NewCopyOnWriteFs(afero.NewReadOnlyFs(w.fs), afero.NewMemMapFs())
		cfg.Now = func() time.Time { return start }
	})
	var stamps []string
	for range 3 {
		stamps = append(stamps, mustCreate(t, s).Stamp)
	}
	list, err := s.List(t.Context())
	if err != nil || len(list) != 3 {
		t.Errorf("created %v, listed %d, %v", stamps, len(list), err)
	}
}

func TestSnapshotKeepsItsLabels(t *testing.T) {
	w := newWorld(t, afero.NewMemMapFs(), "/srv")
	w.write(t, "f", "content")
	labels := map[string]string{"reason": "first"}
	snap, err := w.store(t, withSources(w.file("f"))).Create(t.Context(), &backup.CreateOptions{Labels: labels})
	if err != nil {
		t.Fatal(err)
	}
	labels["reason"] = "second"
	if snap.Labels["reason"] != "first" {
		t.Errorf("labels: %v", snap.Labels)
	}
}
