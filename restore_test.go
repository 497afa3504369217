package backup_test

import (
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/afero"

	"github.com/atocore/backup"
)

func TestRestoreDryRun(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		w.seed(t)
		s := w.store(t)
		snap := w.create(t, s)
		w.write(t, "config/project-registry.json", "mutated")
		before := w.stat(t, ".")
		want := &backup.Restoration{
			Stamp: snap.Stamp, Restored: []string{"db", "config", "chroma"}, IntegrityOK: true, Bytes: snap.Bytes, DryRun: true,
		}
		for name, s := range map[string]*backup.Store{
			"as_it_is":  s,
			"read_only": w.store(t, func(cfg *backup.Config) { cfg.Fs = afero.NewReadOnlyFs(w.fs) }),
		} {
			got, err := s.Restore(t.Context(), snap.Stamp, &backup.RestoreOptions{DryRun: true})
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if diff := cmp.Diff(got, want); diff != "" {
				t.Errorf("%s (-got +want):\n%s", name, diff)
			}
		}
		got, err := s.Restore(t.Context(), snap.Stamp, &backup.RestoreOptions{DryRun: true, ConfirmServiceStopped: true, Sources: []string{"config"}})
		if err != nil || !cmp.Equal(got.Restored, []string{"config"}) {
			t.Errorf("%+v, %v", got, err)
		}
		if r, err := s.Restore(t.Context(), missingStamp, &backup.RestoreOptions{DryRun: true}); !errors.Is(err, backup.ErrInvalidSnapshot) {
			t.Errorf("of none: %+v, %v", r, err)
		}
		if diff := cmp.Diff(w.stat(t, "."), before); diff != "" {
			t.Errorf("(-after +before):\n%s", diff)
		}
	})
}

func TestRestoreDryRunOfNoStoreMakesNone(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		s := w.store(t)
		for _, opts := range []*backup.RestoreOptions{{DryRun: true}, confirmed} {
			if r, err := s.Restore(t.Context(), missingStamp, opts); !errors.Is(err, backup.ErrInvalidSnapshot) {
				t.Errorf("%+v, %v", r, err)
			}
		}
		if w.exists(t, "backups") {
			t.Error("it made a store")
		}
	})
}

func TestRestoreSelection(t *testing.T) {
	for _, tc := range []struct {
		name    string
		config  func(*backup.Config)
		include []string
		sources []string
		says    string // "": it is done
	}{
		{"source_unknown", nil, nil, []string{"db", "nothing"}, `"nothing"`},
		{"source_not_captured", nil, nil, []string{"chroma"}, `"chroma"`},
		{"source_of_another_kind", func(cfg *backup.Config) { cfg.Sources[1].Kind = backup.Tree }, nil, nil, `"config"`},
		{"source_not_configured", func(cfg *backup.Config) { cfg.Sources = cfg.Sources[:1] }, nil, nil, `"config"`},
		{"source_not_configured_but_named", func(cfg *backup.Config) { cfg.Sources = cfg.Sources[:1] }, nil, []string{"config"}, `"config"`},
		{"source_not_configured_and_not_named", func(cfg *backup.Config) { cfg.Sources = cfg.Sources[:1] }, nil, []string{"db"}, ""},
		{"source_named_twice", nil, nil, []string{"db", "db"}, ""},
		{"source_configured_since", func(cfg *backup.Config) {
			cfg.Sources = append(cfg.Sources, backup.Source{Name: "later", Kind: backup.File, Path: "/nowhere"})
		}, nil, nil, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			memoryAndOs(t, func(t *testing.T, w *world) {
				w.seed(t)
				stamp := w.createPlain(t, w.store(t)).Stamp
				w.write(t, "config/project-registry.json", "mutated")
				before := w.stat(t, ".")
				var changes []func(*backup.Config)
				if tc.config != nil {
					changes = append(changes, tc.config)
				}
				s := w.store(t, changes...)
				r, err := s.Restore(t.Context(), stamp, &backup.RestoreOptions{ConfirmServiceStopped: true, Sources: tc.sources})
				if tc.says == "" {
					if err != nil || r.Restored[0] != "db" {
						t.Errorf("%+v, %v", r, err)
					}
					return
				}
				if r != nil || err == nil || !strings.Contains(err.Error(), tc.says) {
					t.Errorf("%+v, %v", r, err)
				}
				if diff := cmp.Diff(w.stat(t, "."), before); diff != "" {
					t.Errorf("(-after +before):\n%s", diff)
				}
			})
		})
	}
}

// createPlain takes a snapshot without the vector store.
func (w *world) createPlain(t *testing.T, s *backup.Store) *backup.Snapshot {
	t.Helper()
	snap, err := s.Create(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return snap
}

// Where bytes go is what Config says, and not what it said once.
func TestRestoreGoesWhereConfigSays(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		w.seed(t)
		stamp := w.create(t, w.store(t)).Stamp
		before := w.liveState(t)
		s := w.store(t, func(cfg *backup.Config) {
			cfg.Sources[0].Path = w.path("other/renamed.db")
			cfg.Sources[1].Path = w.path("other/renamed.json")
			cfg.Sources[2].Path = w.path("other/vectors")
		})
		w.restore(t, s, stamp)
		if got := w.query(t, "other/renamed.db", "SELECT body FROM memories"); got != "baseline" {
			t.Errorf("database: %q", got)
		}
		if got := w.read(t, "other/renamed.json"); got != `{"projects": ["p1"]}` {
			t.Errorf("registry: %q", got)
		}
		if diff := cmp.Diff(w.names(t, "other/vectors"), w.names(t, "chroma")); diff != "" {
			t.Errorf("vector store (-got +want):\n%s", diff)
		}
		if diff := cmp.Diff(w.liveState(t), before); diff != "" {
			t.Errorf("where they were (-after +before):\n%s", diff)
		}
	})
}

func TestRestoreOntoNothing(t *testing.T) {
	for _, tc := range []struct {
		name string
		gone []string
	}{
		{"db_missing", []string{"data/atocore.db"}},
		{"directory_of_db_missing", []string{"data"}},
		{"registry_missing", []string{"config/project-registry.json"}},
		{"tree_missing", []string{"chroma"}},
		{"all_missing", []string{"data", "config", "chroma"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			eachFs(t, func(t *testing.T, w *world) {
				w.seed(t)
				s := w.store(t)
				stamp := w.create(t, s).Stamp
				w.restore(t, s, stamp) // SQLite counts up in the header of a copy
				want := w.liveState(t)
				for _, name := range tc.gone {
					w.drop(t, name)
				}
				r := w.restore(t, s, stamp)
				got := w.liveState(t)
				for _, name := range []string{"data", "config", "chroma"} {
					if slices.Contains(tc.gone, name) {
						if got[name] == "" {
							t.Errorf("%s is not there", name)
						}
						got[name] = want[name] // directories that are made are private
					}
				}
				if diff := cmp.Diff(got, want); diff != "" || !r.IntegrityOK {
					t.Errorf("integrity %v (-got +want):\n%s", r.IntegrityOK, diff)
				}
				if snap := w.listed(t, s, r.SafetyStamp); !snap.HasMetadata || snap.Origin != backup.OriginPreRestore {
					t.Errorf("safety snapshot: %+v", snap)
				}
			})
		})
	}
}

// A progressCheck is told of progress. It must go on, source by source, to
// the bytes of each.
type progressCheck map[string]map[string]backup.Progress // by operation and source

func (c progressCheck) store(t *testing.T, w *world) *backup.Store {
	return w.store(t, func(cfg *backup.Config) {
		cfg.Progress = func(p backup.Progress) {
			if c[p.Op] == nil {
				c[p.Op] = make(map[string]backup.Progress)
			}
			last, ok := c[p.Op][p.Source]
			if p.Done < last.Done || p.Done > p.Total || ok && p.Total != last.Total {
				t.Errorf("%+v after %+v", p, last)
			}
			c[p.Op][p.Source] = p
		}
	})
}

func (c progressCheck) done(t *testing.T, op string, snap *backup.Snapshot) {
	t.Helper()
	want := make(map[string]backup.Progress)
	for _, src := range snap.Sources {
		want[src.Name] = backup.Progress{Op: op, Source: src.Name, Done: src.Bytes, Total: src.Bytes}
	}
	if diff := cmp.Diff(c[op], want); diff != "" {
		t.Errorf("%s, at last (-got +want):\n%s", op, diff)
	}
}

func TestRestoreReportsProgress(t *testing.T) {
	w := newWorld(t, afero.NewMemMapFs(), "/srv")
	w.seed(t)
	snap := w.create(t, w.store(t))
	check := make(progressCheck)
	w.restore(t, check.store(t, w), snap.Stamp)
	check.done(t, "validate", snap)
	check.done(t, "restore", snap)
}

// Nothing of a snapshot is ever taken while another is being put back: what
// is captured together belongs together.
func TestRestoreCreateAndCleanupSerialize(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		var mu sync.Mutex
		clock := func() time.Time {
			mu.Lock()
			defer mu.Unlock()
			return w.clock()
		}
		s := w.store(t, func(cfg *backup.Config) { cfg.Now = clock })
		var stamps []string
		for _, generation := range []string{"a", "b"} {
			w.exec(t, "data/atocore.db", "CREATE TABLE IF NOT EXISTS g (x); DELETE FROM g; INSERT INTO g VALUES ('"+generation+"')")
			w.write(t, "config/project-registry.json", generation)
			w.write(t, "chroma/generation", generation)
			stamps = append(stamps, w.create(t, s).Stamp)
		}
		var all sync.WaitGroup
		run := func(times int, operation func(i int) error) {
			all.Go(func() {
				for i := range times {
					if err := operation(i); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		var created []string
		run(4, func(i int) error {
			_, err := s.Restore(t.Context(), stamps[i%2], &backup.RestoreOptions{ConfirmServiceStopped: true, SkipSafetySnapshot: i%2 == 0})
			return err
		})
		run(6, func(int) error {
			snap, err := s.Create(t.Context(), &backup.CreateOptions{Include: []string{"chroma"}, Pin: true})
			if err == nil {
				created = append(created, snap.Stamp)
			}
			return err
		})
		run(6, func(int) error {
			_, err := s.Cleanup(t.Context(), &backup.CleanupOptions{Retention: &backup.Retention{Last: 100}, Confirm: true})
			return err
		})
		run(6, func(i int) error {
			r, err := s.Validate(t.Context(), stamps[i%2], quick)
			return errors.Join(err, r.Err())
		})
		all.Wait()
		for _, stamp := range created {
			generation := w.read(t, in(stamp, "chroma/generation"))
			if got := w.read(t, in(stamp, "config/project-registry.json")); got != generation {
				t.Errorf("%s: registry %q, vector store %q", stamp, got, generation)
			}
			w.copy(t, in(stamp, "db"), "copy")
			if got := w.query(t, "copy/atocore.db", "SELECT x FROM g"); got != generation {
				t.Errorf("%s: database %q, vector store %q", stamp, got, generation)
			}
			w.drop(t, "copy")
		}
	})
}
