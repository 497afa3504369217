package backup_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
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

// newestOnly keeps as little as a Retention can.
var newestOnly = &backup.Retention{Last: 1}

var removeAllButNewest = &backup.CleanupOptions{Retention: newestOnly, Confirm: true}

// faulty returns a store on which fail is asked before every operation.
func (w *world) faulty(t *testing.T, fail func(op, path string) error, changes ...func(*backup.Config)) *backup.Store {
	t.Helper()
	return w.store(t, append(changes, func(cfg *backup.Config) { cfg.Fs = &faultFs{Fs: w.fs, fail: fail} })...)
}

// decision returns what was decided about a snapshot.
func decision(t *testing.T, c *backup.Cleanup, stamp string) backup.Decision {
	t.Helper()
	i := slices.IndexFunc(c.Decisions, func(d backup.Decision) bool { return d.Stamp == stamp })
	if i < 0 {
		t.Fatalf("no decision about %s in %+v", stamp, c.Decisions)
	}
	return c.Decisions[i]
}

func TestCleanupTakesItsRetentionFromTheOptions(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		s := w.small(t)
		stamps := w.createOn(t, s, day("2026-04-02"), day("2026-04-03"), day("2026-04-04"))
		w.cleanup(t, s, nil, backup.Cleanup{DryRun: true, Kept: 3})
		w.cleanup(t, s, &backup.CleanupOptions{Retention: newestOnly}, backup.Cleanup{DryRun: true, Kept: 1, WouldDelete: 2})
		own := w.store(t, func(cfg *backup.Config) { cfg.Retention = backup.Retention{Last: 2} })
		w.cleanup(t, own, nil, backup.Cleanup{DryRun: true, Kept: 2, WouldDelete: 1})
		w.cleanup(t, s, removeAllButNewest, backup.Cleanup{Kept: 1, Deleted: 2})
		if diff := cmp.Diff(w.stamps(t, s), stamps[2:]); diff != "" {
			t.Errorf("left (-got +want):\n%s", diff)
		}
		if _, err := s.Cleanup(t.Context(), &backup.CleanupOptions{Retention: &backup.Retention{Within: -1}}); err == nil {
			t.Error("a retention that makes no sense was accepted")
		}
	})
}

// Whoever sets no more than a minimum means to thin out, and would thin out
// nothing. The zero Retention, on purpose, keeps everything.
func TestCleanupWithoutRules(t *testing.T) {
	w := newWorld(t, afero.NewMemMapFs(), "/srv")
	s := w.small(t)
	w.createOn(t, s, day("2026-04-02"), day("2026-04-03"))
	for _, r := range []backup.Retention{{MinKeep: 1}, {MinKeep: -1}, {Calendar: backup.Newest}} {
		if _, err := s.Cleanup(t.Context(), &backup.CleanupOptions{Retention: &r}); err == nil || !strings.Contains(err.Error(), "no rule") {
			t.Errorf("%+v: %v", r, err)
		}
	}
	w.cleanup(t, s, &backup.CleanupOptions{Retention: &backup.Retention{}, Confirm: true}, backup.Cleanup{Kept: 2})
}

// A day begins and ends where Config.Location says.
func TestCleanupUsesTheLocation(t *testing.T) {
	w := newWorld(t, afero.NewMemMapFs(), "/srv")
	s := w.small(t)
	night := day("2026-04-05").Add(11*time.Hour + 30*time.Minute) // Sunday, 23:30 UTC; Monday in Berlin
	w.createOn(t, s, night, night.Add(24*time.Hour))
	for zone, kept := range map[string]int{"UTC": 2, "Europe/Berlin": 1} {
		location, err := time.LoadLocation(zone)
		if err != nil {
			t.Skipf("no time zones here: %v", err)
		}
		s := w.store(t, func(cfg *backup.Config) { cfg.Location = location })
		opts := &backup.CleanupOptions{Retention: &backup.Retention{Weekly: 1}}
		w.cleanup(t, s, opts, backup.Cleanup{DryRun: true, Kept: kept, WouldDelete: 2 - kept})
	}
}

func TestCleanupKeepsPinned(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		s := w.small(t)
		pinned, err := s.Create(t.Context(), &backup.CreateOptions{Pin: true})
		if err != nil {
			t.Fatal(err)
		}
		w.createOn(t, s, day("2026-05-02"), day("2026-05-03"))
		got := w.cleanup(t, s, removeAllButNewest, backup.Cleanup{Kept: 2, Deleted: 1})
		if d := decision(t, got, pinned.Stamp); !d.Keep || !slices.Contains(d.Reasons, "pinned") {
			t.Errorf("%+v", d)
		}
		if err := s.Delete(t.Context(), pinned.Stamp); err != nil {
			t.Errorf("delete by name: %v", err)
		}
	})
}

func TestCleanupKeepsYoungSafetySnapshots(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		s := w.small(t)
		r := w.restore(t, s, w.create(t, s).Stamp)
		taken := w.now
		w.createOn(t, s, taken.Add(time.Hour))
		for _, tc := range []struct {
			age  time.Duration
			want backup.Cleanup
		}{
			{6 * 24 * time.Hour, backup.Cleanup{Kept: 2, Deleted: 1}},
			{8 * 24 * time.Hour, backup.Cleanup{Kept: 1, Deleted: 1}},
		} {
			w.now = taken.Add(tc.age)
			w.cleanup(t, s, removeAllButNewest, tc.want)
		}
		if w.exists(t, in(r.SafetyStamp, "")) {
			t.Error("the safety snapshot is there after eight days")
		}
	})
}

func TestCleanupOfIncomplete(t *testing.T) {
	for _, tc := range []struct {
		name  string
		age   time.Duration
		newer bool // a good one is
		keep  bool
	}{
		{"young_kept", 23 * time.Hour, true, true},
		{"old_removed", 25 * time.Hour, true, false},
		{"old_kept_without_newer_good_one", 25 * time.Hour, false, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			memoryAndOs(t, func(t *testing.T, w *world) {
				s := w.small(t)
				w.createOn(t, s, day("2026-04-01")) // older, good
				incomplete := w.createOn(t, s, day("2026-04-02"))[0]
				w.drop(t, in(incomplete, metadataFile))
				w.drop(t, in(incomplete, manifestFile))
				if tc.newer {
					w.createOn(t, s, day("2026-04-02").Add(time.Hour))
				}
				w.now = day("2026-04-02").Add(tc.age)
				got, err := s.Cleanup(t.Context(), confirmedCleanup)
				if err != nil {
					t.Fatal(err)
				}
				d := decision(t, got, incomplete)
				if d.Keep != tc.keep || w.exists(t, in(incomplete, "")) != tc.keep {
					t.Errorf("%+v, want keep %v", d, tc.keep)
				}
			})
		})
	}
}

// A damaged snapshot takes no slot from a good one, and goes only when a
// newer one is good.
func TestCleanupOfInvalid(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		s := w.small(t)
		stamps := w.createOn(t, s, day("2026-04-01"), day("2026-04-02"), day("2026-04-03"))
		corrupt := func(text string) string {
			return strings.NewReplacer(
				`"problems": []`, "\"problems\": [\n    {\n      \"code\": \"db_corrupt\",\n      \"source\": \"db\"\n    }\n  ]",
				`"validated": true`, "\"validated\": false,\n  \"validation_errors\": [\n    \"db_corrupt\"\n  ]",
			).Replace(text)
		}
		w.forgeMetadata(t, stamps[0], corrupt)
		w.forgeMetadata(t, stamps[2], corrupt)
		w.cleanup(t, s, removeAllButNewest, backup.Cleanup{Kept: 2, Deleted: 1})
		if diff := cmp.Diff(w.stamps(t, s), []string{stamps[2], stamps[1]}); diff != "" {
			t.Errorf("left (-got +want):\n%s", diff)
		}
	})
}

// Whether a snapshot is pinned is in its metadata: a bit of them that rots,
// or a format that a later release writes, must not cost it the pin.
func TestCleanupKeepsWhatHasInvalidMetadata(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		s := w.small(t)
		pin := func() string {
			snap, err := s.Create(t.Context(), &backup.CreateOptions{Pin: true})
			if err != nil {
				t.Fatal(err)
			}
			return snap.Stamp
		}
		rotten, later := pin(), pin()
		w.edit(t, in(rotten, metadataFile), flip(200))
		w.forgeMetadata(t, later, func(text string) string {
			return strings.Replace(text, "atocore-backup/1", "atocore-backup/2", 1)
		})
		w.createOn(t, s, day("2026-05-02"), day("2026-05-03"))
		got := w.cleanup(t, s, removeAllButNewest, backup.Cleanup{Kept: 3, Deleted: 1})
		for _, stamp := range []string{rotten, later} {
			want := backup.Decision{Stamp: stamp, Keep: true, Reasons: []string{"its metadata cannot be read: only Delete removes it"}}
			if diff := cmp.Diff(decision(t, got, stamp), want); diff != "" {
				t.Errorf("(-got +want):\n%s", diff)
			}
			if err := s.Delete(t.Context(), stamp); err != nil {
				t.Errorf("delete by name: %v", err)
			}
		}
	})
}

func TestCleanupKeepsWhatIsInUse(t *testing.T) {
	t.Run("validated", func(t *testing.T) {
		eachFs(t, func(t *testing.T, w *world) {
			s := w.small(t)
			stamp := w.createOn(t, s, day("2026-04-01"), day("2026-04-02"))[0]
			release := w.hold(t, func(s *backup.Store) error {
				r, err := s.Validate(t.Context(), stamp, nil)
				return errors.Join(err, r.Err())
			})
			got := w.cleanup(t, s, removeAllButNewest, backup.Cleanup{Kept: 2})
			if d := decision(t, got, stamp); !slices.Contains(d.Reasons, "in use") {
				t.Errorf("%+v", d)
			}
			err := s.Delete(t.Context(), stamp)
			if want := "backup: delete " + stamp + ": it is being created, validated, restored or shared with, or a cleanup rests on it: busy"; !errors.Is(err, backup.ErrBusy) || err.Error() != want {
				t.Errorf("delete: %v, want %s", err, want)
			}
			release()
			w.cleanup(t, s, removeAllButNewest, backup.Cleanup{Kept: 1, Deleted: 1})
		})
	})
	t.Run("created", func(t *testing.T) {
		eachFs(t, func(t *testing.T, w *world) {
			s := w.small(t)
			var snap *backup.Snapshot
			release := w.hold(t, func(s *backup.Store) (err error) {
				snap, err = s.Create(t.Context(), nil)
				return err
			})
			begun := w.stamps(t, s)[0]
			w.createOn(t, s, day("2026-05-01"))
			w.now = day("2026-05-03") // it would be removed for being unfinished
			got := w.cleanup(t, s, removeAllButNewest, backup.Cleanup{Kept: 2})
			if d := decision(t, got, begun); !slices.Contains(d.Reasons, "in use") {
				t.Errorf("%+v", d)
			}
			if err := s.Delete(t.Context(), begun); !errors.Is(err, backup.ErrBusy) {
				t.Errorf("delete: %v", err)
			}
			release()
			if snap.Stamp != begun || !snap.Validated {
				t.Errorf("created %+v", snap)
			}
			if r := w.validate(t, s, begun, nil); !r.Valid {
				t.Errorf("%+v", r)
			}
		})
	})
	t.Run("restored", func(t *testing.T) {
		eachFs(t, func(t *testing.T, w *world) {
			s := w.small(t)
			stamp := w.createOn(t, s, day("2026-04-01"), day("2026-04-02"))[0]
			release := w.hold(t, func(s *backup.Store) error {
				_, err := s.Restore(t.Context(), stamp, &backup.RestoreOptions{DryRun: true})
				return err
			})
			if err := s.Delete(t.Context(), stamp); !errors.Is(err, backup.ErrBusy) {
				t.Errorf("delete: %v", err)
			}
			release()
		})
	})
	t.Run("since_the_list_was_made", func(t *testing.T) {
		w := osWorld(t) // where a file system under another has the same locks
		stamps := w.createOn(t, w.small(t), day("2026-04-01"), day("2026-04-02"), day("2026-04-03"))
		var release func()
		s := w.faulty(t, func(op, p string) error {
			if op == "remove" && release == nil { // the oldest is being removed: the next one's turn comes
				release = w.hold(t, func(s *backup.Store) error {
					_, err := s.Validate(t.Context(), stamps[1], nil)
					return err
				})
			}
			return nil
		})
		got, err := s.Cleanup(t.Context(), removeAllButNewest)
		if err != nil {
			t.Fatal(err)
		}
		if d := decision(t, got, stamps[1]); !d.Keep || got.Kept != 2 || got.Deleted != 1 {
			t.Errorf("%+v", got)
		}
		release()
	})
}

// The metadata go first: what a removal that was cut short leaves never
// passes for whole.
func TestRemovalCutShort(t *testing.T) {
	for _, tc := range []struct {
		name  string
		fails func(stamp, op, p string) bool
		whole bool
	}{
		{"at_the_metadata", func(stamp, op, p string) bool { return op == "remove" }, true},
		{"after_the_metadata", func(stamp, op, p string) bool { return op == "remove" && filepath.Base(p) != metadataFile }, false},
		{"at_the_last_directory", func(stamp, op, p string) bool { return op == "remove" && filepath.Base(p) == stamp }, false},
	} {
		for _, by := range []string{"cleanup", "delete"} {
			t.Run(tc.name+"_by_"+by, func(t *testing.T) {
				memoryAndOs(t, func(t *testing.T, w *world) {
					whole := w.small(t)
					stamp := w.createOn(t, whole, day("2026-04-01"), day("2026-04-02"))[0]
					s := w.faulty(t, func(op, p string) error {
						if strings.Contains(p, stamp) && tc.fails(stamp, op, p) {
							return syscall.EIO
						}
						return nil
					})
					var err error
					if by == "cleanup" {
						var got *backup.Cleanup
						got, err = s.Cleanup(t.Context(), removeAllButNewest)
						if got == nil || got.Kept != 2 || got.Deleted != 0 || !decision(t, got, stamp).Keep {
							t.Errorf("%+v", got)
						}
					} else {
						err = s.Delete(t.Context(), stamp)
					}
					if pathErr, ok := errors.AsType[*fs.PathError](err); !ok || !errors.Is(err, syscall.EIO) {
						t.Errorf("error %v, path error %v", err, pathErr)
					}
					snap := w.listed(t, whole, stamp)
					if snap.HasMetadata != tc.whole || snap.Validated != tc.whole {
						t.Errorf("listed as %+v", snap)
					}
					if r := w.validate(t, whole, stamp, nil); r.Valid != tc.whole {
						t.Errorf("validated as %+v", r)
					}
					if err := whole.Delete(t.Context(), stamp); err != nil {
						t.Errorf("the rest of it: %v", err)
					}
				})
			})
		}
	}
}

func TestCleanupGoesOnAfterAFailure(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		stamps := w.createOn(t, w.small(t), day("2026-04-01"), day("2026-04-02"), day("2026-04-03"), day("2026-04-04"))
		var order []string
		s := w.faulty(t, func(op, p string) error {
			if op != "remove" || filepath.Base(p) != metadataFile {
				return nil
			}
			order = append(order, filepath.Base(filepath.Dir(p)))
			if strings.Contains(p, stamps[1]) {
				return syscall.EIO
			}
			return nil
		})
		got, err := s.Cleanup(t.Context(), removeAllButNewest)
		if !errors.Is(err, syscall.EIO) || !strings.Contains(fmt.Sprint(err), stamps[1]) || strings.Contains(fmt.Sprint(err), stamps[0]) {
			t.Errorf("error %v", err)
		}
		if got == nil || got.Kept != 2 || got.Deleted != 2 {
			t.Errorf("%+v", got)
		}
		if diff := cmp.Diff(order, stamps[:3]); diff != "" {
			t.Errorf("not oldest first (-got +want):\n%s", diff)
		}
		if diff := cmp.Diff(w.stamps(t, s), []string{stamps[3], stamps[1]}); diff != "" {
			t.Errorf("left (-got +want):\n%s", diff)
		}
	})
}

// Somebody else may clean up at the same time, and is quicker.
func TestCleanupOfWhatIsGoneAlready(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		stamps := w.createOn(t, w.small(t), day("2026-04-01"), day("2026-04-02"), day("2026-04-03"), day("2026-04-04"))
		s := w.faulty(t, func(op, p string) error {
			if op == "remove" && p == w.snapshot(stamps[0], metadataFile) {
				return w.fs.RemoveAll(w.snapshot(stamps[1], ""))
			}
			return nil
		})
		got := w.cleanup(t, s, removeAllButNewest, backup.Cleanup{Kept: 1, Deleted: 2})
		want := backup.Decision{Stamp: stamps[1], Reasons: []string{"no rule keeps it", "gone already"}}
		if diff := cmp.Diff(got.Decisions[2], want); diff != "" {
			t.Errorf("decision (-got +want):\n%s", diff)
		}
		if diff := cmp.Diff(w.stamps(t, s), stamps[3:]); diff != "" {
			t.Errorf("left (-got +want):\n%s", diff)
		}
	})
}

func TestListOfWhatIsGoneAlready(t *testing.T) {
	for name, seen := range map[string]string{"before_it_is_looked_at": "", "before_it_is_read": metadataFile} {
		t.Run(name, func(t *testing.T) {
			eachFs(t, func(t *testing.T, w *world) {
				stamps := w.createOn(t, w.small(t), day("2026-04-01"), day("2026-04-02"))
				s := w.faulty(t, func(op, p string) error {
					if op == "stat" && p == w.snapshot(stamps[0], seen) {
						return w.fs.RemoveAll(w.snapshot(stamps[0], ""))
					}
					return nil
				})
				if diff := cmp.Diff(w.stamps(t, s), stamps[1:]); diff != "" {
					t.Errorf("listed (-got +want):\n%s", diff)
				}
			})
		})
	}
}

// What cannot be read at the moment may be good: a want of file descriptors
// must not cost anybody his snapshots.
func TestCleanupKeepsWhatItCannotRead(t *testing.T) {
	for _, op := range []string{"open", "read", "stat"} {
		w := newWorld(t, afero.NewMemMapFs(), "/srv")
		stamps := w.createOn(t, w.small(t), day("2026-04-01"), day("2026-04-02"), day("2026-04-03"))
		s := w.faulty(t, func(o, p string) error {
			if o == op && p == w.snapshot(stamps[0], metadataFile) {
				return syscall.EMFILE
			}
			return nil
		})
		got, err := s.Cleanup(t.Context(), removeAllButNewest)
		if err != nil {
			t.Fatalf("%s: %v", op, err)
		}
		if d := decision(t, got, stamps[0]); !d.Keep || got.Deleted != 1 {
			t.Errorf("%s: %+v", op, got)
		}
		if r := w.validate(t, w.store(t), stamps[0], nil); !r.Valid {
			t.Errorf("%s: %+v", op, r)
		}
	}
}

// What the metadata say was true when they were taken. Before anything goes
// for being older than a good snapshot, that one is looked at again.
func TestCleanupLooksAtTheNewestGoodOnes(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		s := w.small(t)
		stamps := w.createOn(t, s, day("2026-04-01"), day("2026-04-02"), day("2026-04-03"), day("2026-04-04"))
		w.drop(t, in(stamps[3], "db/atocore.db"))
		w.drop(t, in(stamps[2], "config"))
		got := w.cleanup(t, s, removeAllButNewest, backup.Cleanup{Kept: 3, Deleted: 1})
		want := []backup.Decision{
			{Stamp: stamps[3], Keep: true, Reasons: []string{"invalid: db_missing, and nothing newer is good"}},
			{Stamp: stamps[2], Keep: true, Reasons: []string{"invalid: file_missing, and nothing newer is good"}},
			{Stamp: stamps[1], Keep: true, Reasons: []string{"last 1", "newest good"}},
			{Stamp: stamps[0], Reasons: []string{"no rule keeps it"}},
		}
		if diff := cmp.Diff(got.Decisions, want); diff != "" {
			t.Errorf("decisions (-got +want):\n%s", diff)
		}
		if diff := cmp.Diff(w.stamps(t, s), []string{stamps[3], stamps[2], stamps[1]}); diff != "" {
			t.Errorf("left (-got +want):\n%s", diff)
		}
	})
}

// One that has lost its database does not count as one of those that are to be
// left.
func TestCleanupLooksAtTheMinimum(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		s := w.small(t)
		stamps := w.createOn(t, s, day("2026-04-02"), day("2026-04-03"), day("2026-04-04"), day("2026-04-05"))
		w.drop(t, in(stamps[2], "db"))
		keepTwo := &backup.CleanupOptions{Confirm: true, Retention: &backup.Retention{Last: 1, MinKeep: 2}}
		w.cleanup(t, s, keepTwo, backup.Cleanup{Kept: 2, Deleted: 2})
		if diff := cmp.Diff(w.stamps(t, s), []string{stamps[3], stamps[1]}); diff != "" {
			t.Errorf("left (-got +want):\n%s", diff)
		}
	})
}

func TestCleanupLooksAtTheNewestGoodOneOfEachSource(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		s := w.small(t)
		stamps := w.createOn(t, s, day("2026-04-01"), day("2026-04-02"), day("2026-04-03")) // with the tree
		for _, at := range []time.Time{day("2026-04-04"), day("2026-04-05"), day("2026-04-06")} {
			w.now = at
			snap, err := s.Create(t.Context(), nil) // without
			if err != nil {
				t.Fatal(err)
			}
			stamps = append(stamps, snap.Stamp)
		}
		w.edit(t, in(stamps[5], "db/atocore.db"), grow)
		w.edit(t, in(stamps[2], "chroma/a"), grow)
		got := w.cleanup(t, s, removeAllButNewest, backup.Cleanup{Kept: 4, Deleted: 2})
		want := []backup.Decision{
			{Stamp: stamps[5], Keep: true, Reasons: []string{"invalid: size_mismatch, and nothing newer is good"}},
			{Stamp: stamps[4], Keep: true, Reasons: []string{"last 1", "newest good"}},
			{Stamp: stamps[3], Reasons: []string{"no rule keeps it"}},
			{Stamp: stamps[2], Keep: true, Reasons: []string{"invalid: size_mismatch, and no newer good one has chroma"}},
			{Stamp: stamps[1], Keep: true, Reasons: []string{"newest good one with chroma"}},
			{Stamp: stamps[0], Reasons: []string{"no rule keeps it"}},
		}
		if diff := cmp.Diff(got.Decisions, want); diff != "" {
			t.Errorf("decisions (-got +want):\n%s", diff)
		}
	})
}

// A look costs as much as a validation of the structure: it is not taken in
// vain.
func TestCleanupLooksOnlyBeforeItRemoves(t *testing.T) {
	w := newWorld(t, afero.NewMemMapFs(), "/srv")
	w.createOn(t, w.small(t), day("2026-04-01"), day("2026-04-02"))
	looked := false
	s := w.faulty(t, func(op, p string) error {
		looked = looked || op == "open" && filepath.Base(p) == manifestFile
		return nil
	})
	w.cleanup(t, s, &backup.CleanupOptions{Retention: newestOnly}, backup.Cleanup{DryRun: true, Kept: 1, WouldDelete: 1})
	w.cleanup(t, s, &backup.CleanupOptions{Retention: &backup.Retention{Last: 2}, Confirm: true}, backup.Cleanup{Kept: 2})
	if looked {
		t.Error("it has looked without being about to remove anything")
	}
	w.cleanup(t, s, removeAllButNewest, backup.Cleanup{Kept: 1, Deleted: 1})
	if !looked {
		t.Error("it has not looked")
	}
}

// What cannot be looked at is no reason to remove another.
func TestCleanupWhereItCannotLook(t *testing.T) {
	w := newWorld(t, afero.NewMemMapFs(), "/srv")
	stamps := w.createOn(t, w.small(t), day("2026-04-01"), day("2026-04-02"), day("2026-04-03"))
	ctx, cancel := context.WithCancel(t.Context())
	fail := func() error { return syscall.EIO }
	s := w.faulty(t, func(op, p string) error {
		if op == "readdir" && p == w.snapshot(stamps[2], "db") {
			return fail()
		}
		return nil
	})
	got := w.cleanup(t, s, removeAllButNewest, backup.Cleanup{Kept: 2, Deleted: 1})
	want := backup.Decision{Stamp: stamps[2], Keep: true, Reasons: []string{"could not be read", "invalid: unreadable, and nothing newer is good"}}
	if diff := cmp.Diff(decision(t, got, stamps[2]), want); diff != "" {
		t.Errorf("(-got +want):\n%s", diff)
	}

	w.createOn(t, w.store(t), day("2026-04-02").Add(time.Hour))
	w.now = day("2026-05-01")
	fail = func() error { cancel(); return nil }
	if got, err := s.Cleanup(ctx, removeAllButNewest); !errors.Is(err, context.Canceled) || got != nil {
		t.Errorf("cancelled: %+v, %v", got, err)
	}
	if left := w.stamps(t, s); len(left) != 3 {
		t.Errorf("left: %q", left)
	}
}

func TestDeleteCancelled(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		s := w.small(t)
		stamp := w.create(t, s).Stamp
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := s.Delete(ctx, stamp); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		mustBeValid(t, s, stamp)
	})
}

func TestCleanupCancelled(t *testing.T) {
	w := newWorld(t, afero.NewMemMapFs(), "/srv")
	stamps := w.createOn(t, w.small(t), day("2026-04-01"), day("2026-04-02"), day("2026-04-03"))
	ctx, cancel := context.WithCancel(t.Context())
	s := w.faulty(t, func(op, p string) error {
		if op == "remove" {
			cancel()
		}
		return nil
	})
	got, err := s.Cleanup(ctx, removeAllButNewest)
	if !errors.Is(err, context.Canceled) || got == nil || got.Deleted != 1 || got.Kept != 2 {
		t.Errorf("%+v, %v", got, err)
	}
	if diff := cmp.Diff(w.stamps(t, s), []string{stamps[2], stamps[1]}); diff != "" {
		t.Errorf("left (-got +want):\n%s", diff)
	}
}

// A dry run writes nothing, wherever it runs.
func TestCleanupDryRunOfReadOnlyStore(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		w.createOn(t, w.small(t), day("2026-04-01"), day("2026-04-02"))
		s := w.store(t, func(cfg *backup.Config) { cfg.Fs = afero.NewReadOnlyFs(w.fs) })
		w.cleanup(t, s, &backup.CleanupOptions{Retention: newestOnly}, backup.Cleanup{DryRun: true, Kept: 1, WouldDelete: 1})
		if got, err := s.Cleanup(t.Context(), removeAllButNewest); err == nil || got == nil || got.Deleted != 0 {
			t.Errorf("confirmed: %+v, %v", got, err)
		}
	})
}

func TestCleanupJSON(t *testing.T) {
	w := newWorld(t, afero.NewMemMapFs(), "/srv")
	s := w.small(t)
	stamp := w.create(t, s).Stamp
	var got map[string]any
	remarshal(t, w.cleanup(t, s, nil, backup.Cleanup{DryRun: true, Kept: 1}), &got)
	reasons := got["decisions"].([]any)[0].(map[string]any)["reasons"]
	want := map[string]any{
		"dry_run": true, "kept": 1.0, "would_delete": 0.0, "deleted": 0.0, "unparseable": []any{},
		"decisions": []any{map[string]any{"stamp": stamp, "keep": true, "reasons": reasons}},
	}
	if diff := cmp.Diff(got, want); diff != "" {
		t.Errorf("(-got +want):\n%s", diff)
	}
	empty := newWorld(t, afero.NewMemMapFs(), "/srv")
	clear(got)
	remarshal(t, empty.cleanup(t, empty.store(t), nil, backup.Cleanup{DryRun: true}), &got)
	if diff := cmp.Diff(got["decisions"], []any{}); diff != "" {
		t.Errorf("decisions about nothing (-got +want):\n%s", diff)
	}
}

func TestDelete(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		s := w.small(t)
		stamps := w.createOn(t, s, day("2026-04-01"), day("2026-04-02"))
		if err := s.Delete(t.Context(), stamps[1]); err != nil { // the newest, and good
			t.Fatal(err)
		}
		if diff := cmp.Diff(w.stamps(t, s), stamps[:1]); diff != "" || w.exists(t, in(stamps[1], "")) {
			t.Errorf("left (-got +want):\n%s", diff)
		}
		before := w.stat(t, "backups")
		for _, stamp := range []string{stamps[1], missingStamp} {
			if err := s.Delete(t.Context(), stamp); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s: %v", stamp, err)
			}
		}
		for _, bad := range badStamps {
			if err := s.Delete(t.Context(), bad); !errors.Is(err, backup.ErrInvalidStamp) {
				t.Errorf("stamp %q: %v", bad, err)
			}
		}
		w.write(t, in("20260101T000000Z", ""), "a file")
		if err := s.Delete(t.Context(), "20260101T000000Z"); err == nil || w.read(t, in("20260101T000000Z", "")) != "a file" {
			t.Errorf("a file: %v", err)
		}
		w.drop(t, in("20260101T000000Z", ""))
		after := w.stat(t, "backups")
		delete(before, "snapshots") // its time has changed
		delete(after, "snapshots")
		if diff := cmp.Diff(after, before); diff != "" {
			t.Errorf("(-after +before):\n%s", diff)
		}
	})
}

func TestDeleteOfNoStore(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		s := w.store(t)
		if err := s.Delete(t.Context(), missingStamp); !errors.Is(err, fs.ErrNotExist) {
			t.Error(err)
		}
		if w.exists(t, "backups") {
			t.Error("it made a store")
		}
	})
}

// Who finds nothing in Dir, as where nothing is mounted yet, leaves nothing there.
func TestNothingIsMadeInAnEmptyDir(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		w.mkdir(t, "backups")
		s := w.store(t)
		if err := s.Delete(t.Context(), missingStamp); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("delete: %v", err)
		}
		for _, opts := range []*backup.RestoreOptions{{DryRun: true}, confirmed} {
			if r, err := s.Restore(t.Context(), missingStamp, opts); !errors.Is(err, backup.ErrInvalidSnapshot) {
				t.Errorf("restore: %+v, %v", r, err)
			}
		}
		w.cleanup(t, s, &backup.CleanupOptions{Confirm: true}, backup.Cleanup{})
		if _, err := s.Create(t.Context(), nil); !errors.Is(err, fs.ErrNotExist) { // the sources
			t.Errorf("create: %v", err)
		}
		if diff := cmp.Diff(w.names(t, "backups"), []string{"."}); diff != "" {
			t.Errorf("(-got +want):\n%s", diff)
		}
	})
}

// A symbolic link that is named like a stamp is nobody's snapshot.
func TestCleanupFollowsNoLinks(t *testing.T) {
	w := osWorld(t)
	s := w.small(t)
	stamps := w.createOn(t, s, day("2026-04-01"), day("2026-04-02"))
	w.rename(t, in(stamps[0], ""), "elsewhere")
	if err := os.Symlink(w.path("elsewhere"), w.snapshot(stamps[0], "")); err != nil {
		t.Fatal(err)
	}
	before := w.stat(t, "elsewhere")
	w.cleanup(t, s, removeAllButNewest, backup.Cleanup{Kept: 1, Unparseable: stamps[:1]})
	if diff := cmp.Diff(w.stamps(t, s), stamps[1:]); diff != "" {
		t.Errorf("listed (-got +want):\n%s", diff)
	}
	if err := s.Delete(t.Context(), stamps[0]); err == nil {
		t.Error("deleted")
	}
	if r := w.validate(t, s, stamps[0], nil); r.Exists {
		t.Errorf("validated: %+v", r)
	}
	if _, err := s.Restore(t.Context(), stamps[0], confirmed); !errors.Is(err, backup.ErrInvalidSnapshot) {
		t.Errorf("restored: %v", err)
	}
	if diff := cmp.Diff(w.stat(t, "elsewhere"), before); diff != "" {
		t.Errorf("(-after +before):\n%s", diff)
	}
}

// Nor is one in a snapshot followed when that is removed.
func TestDeleteRemovesLinksAndNotTheirTargets(t *testing.T) {
	w := osWorld(t)
	w.small(t)
	w.write(t, "outside/precious", "precious")
	if err := os.Symlink(w.path("outside"), w.path("chroma/link")); err != nil {
		t.Fatal(err)
	}
	s := w.store(t)
	stamp := w.create(t, s).Stamp
	if err := s.Delete(t.Context(), stamp); err != nil {
		t.Fatal(err)
	}
	if got := slices.Sorted(maps.Keys(w.tree(t, "outside"))); !cmp.Equal(got, []string{".", "precious"}) {
		t.Errorf("outside: %q", got)
	}
}

// onRemoval returns a store that calls fn as soon as a Cleanup has removed the first
// snapshot.
func (w *world) onRemoval(t *testing.T, fn func()) *backup.Store {
	t.Helper()
	once := sync.OnceFunc(fn)
	return w.store(t, func(cfg *backup.Config) {
		cfg.Logger = slog.New(slog.NewTextHandler(writerFunc(func(line []byte) {
			if bytes.Contains(line, []byte("snapshot removed")) {
				once()
			}
		}), nil))
	})
}

// All that are older go because the newest is there: it must not go itself
// meanwhile, as somebody who takes it for no good might have it.
func TestCleanupHoldsWhatItsPlanRestsOn(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		other := w.small(t)
		stamps := w.createOn(t, other, day("2026-04-01"), day("2026-04-02"), day("2026-04-03"), day("2026-04-04"))
		var deleted error
		s := w.onRemoval(t, func() { deleted = other.Delete(t.Context(), stamps[3]) })
		w.cleanup(t, s, removeAllButNewest, backup.Cleanup{Kept: 1, Deleted: 3})
		if !errors.Is(deleted, backup.ErrBusy) {
			t.Errorf("delete of the newest meanwhile: got %v, want %v", deleted, backup.ErrBusy)
		}
		if r := w.validate(t, other, stamps[3], nil); !r.Valid {
			t.Errorf("the newest: %+v", r)
		}
		if err := other.Delete(t.Context(), stamps[3]); err != nil {
			t.Errorf("afterwards: %v", err)
		}
	})
}

// A stamp that somebody has freed may be another snapshot's by the time that its
// turn comes.
func TestCleanupRemovesNothingButWhatItListed(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		other := w.small(t)
		stamps := w.createOn(t, other, day("2026-04-01"), day("2026-04-02"), day("2026-04-03"))
		var made *backup.Snapshot
		s := w.onRemoval(t, func() {
			listed := w.listed(t, other, stamps[1])
			if err := other.Delete(t.Context(), stamps[1]); err != nil {
				t.Error(err)
				return
			}
			w.create(t, w.store(t, func(cfg *backup.Config) {
				cfg.Now = func() time.Time { return listed.CreatedAt.Add(time.Second / 2) }
			}))
			made = w.listed(t, other, stamps[1])
		})
		got := w.cleanup(t, s, removeAllButNewest, backup.Cleanup{Kept: 2, Deleted: 1})
		want := backup.Decision{Stamp: stamps[1], Keep: true, Reasons: []string{"has changed since it was listed"}}
		if diff := cmp.Diff(decision(t, got, stamps[1]), want); diff != "" {
			t.Errorf("decision (-got +want):\n%s", diff)
		}
		if diff := cmp.Diff(w.listed(t, other, stamps[1]), made); diff != "" {
			t.Errorf("the other (-got +want):\n%s", diff)
		}
	})
}

func TestDeleteOfWhatHasADirectoryForMetadata(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		s := w.small(t)
		stamp := w.create(t, s).Stamp
		w.drop(t, in(stamp, metadataFile))
		w.write(t, in(stamp, metadataFile+"/file"), "")
		if err := s.Delete(t.Context(), stamp); err != nil {
			t.Fatal(err)
		}
		if left := w.stamps(t, s); len(left) > 0 {
			t.Errorf("left: %v", left)
		}
	})
}
