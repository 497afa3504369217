package backup_test

import (
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/atocore/backup"
)

// Here somebody replaces files between two looks at them, so that we would
// read what he must not, or write where it does not belong. What is swapped in
// while a tree is copied is tested with Create.

const theSecret = "the secret of somebody else"

// outside makes a directory that is nobody's business, with the names that a
// test might want, and returns a check that nobody was there.
func (w *world) outside(t *testing.T) (untouched func()) {
	t.Helper()
	for _, name := range []string{"a", "b", "dir/c", "project-registry.json"} {
		w.write(t, "outside/"+name, theSecret)
	}
	w.exec(t, "outside/x.db", "PRAGMA journal_mode=WAL; CREATE TABLE t (x); INSERT INTO t VALUES ('"+theSecret+"')")
	before := w.stat(t, "outside")
	return func() {
		t.Helper()
		if diff := cmp.Diff(w.stat(t, "outside"), before); diff != "" {
			t.Errorf("files of others (-after +before):\n%s", diff)
		}
		for _, name := range []string{"backups", "data", "config", "chroma"} {
			if w.exists(t, name) {
				w.mustNotHold(t, name, theSecret)
			}
		}
	}
}

// swaps are what may be swapped in, beside what is special.
var swaps = map[string]func(t *testing.T, w *world, name string){
	"link_to_file":      func(t *testing.T, w *world, name string) { w.symlink(t, w.path("outside/a"), name) },
	"link_to_directory": func(t *testing.T, w *world, name string) { w.symlink(t, w.path("outside"), name) },
	"link_to_database":  func(t *testing.T, w *world, name string) { w.symlink(t, w.path("outside/x.db"), name) },
	"empty_file":        func(t *testing.T, w *world, name string) { w.write(t, name, "") },
	"nothing":           func(*testing.T, *world, string) {},
	"fifo":              specials["fifo"],
	"directory":         specials["directory"],
}

// While a snapshot is validated, or what was found valid is staged, a part of
// it is replaced whose turn has not come yet.
func TestSnapshotSwappedUnderARestoreIsRefused(t *testing.T) {
	for op, at := range map[string]struct {
		source string
		places []string
	}{
		"validate": {"chroma", []string{"chroma/b", "config", "config/project-registry.json", "db/atocore.db"}},
		"restore":  {"db", []string{"chroma", "chroma/a", "config", "config/project-registry.json"}},
	} {
		for i, kind := range slices.Sorted(maps.Keys(swaps)) {
			for j, place := range at.places {
				if (i+j)%every(2) != 0 {
					continue
				}
				t.Run(op+"_"+kind+"_at_"+filepath.Base(place), func(t *testing.T) {
					w := osWorld(t)
					untouched := w.outside(t)
					stamp := w.create(t, w.small(t)).Stamp
					s := w.store(t, during(op, at.source, func() {
						w.remove(t, in(stamp, place))
						swaps[kind](t, w, in(stamp, place))
					}))
					before := w.liveState(t)
					err := endsSoon(t, func(ctx context.Context) error {
						_, err := s.Restore(ctx, stamp, confirmed)
						return err
					})
					if err == nil {
						t.Error("restored what was taken away")
					}
					if diff := cmp.Diff(w.liveState(t), before); diff != "" {
						t.Errorf("live state (-got +want):\n%s", diff)
					}
					if r := w.validate(t, s, stamp, nil); r.Valid {
						t.Error("a second look finds nothing")
					}
					untouched()
				})
			}
		}
	}
}

// What has been staged is replaced by a link that leads out.
func TestStagedFilesSwappedForALinkLeadNowhere(t *testing.T) {
	for _, place := range []string{"new", "new/dir", "new/a", "old", ""} {
		t.Run("at_"+strings.ReplaceAll(place, "/", "_"), func(t *testing.T) {
			w := osWorld(t)
			untouched := w.outside(t)
			w.write(t, "chroma/dir/c", "cccc")
			stamp := w.create(t, w.small(t)).Stamp
			swapped := false
			onOneCore(t) // on others, what is staged would be back at once
			s := w.store(t, during("restore", "chroma", func() {
				staging, err := filepath.Glob(w.path("chroma/.atobackup-*"))
				if err != nil || len(staging) != 1 {
					t.Errorf("staged in %v, %v", staging, err)
					return
				}
				at := filepath.Join(staging[0], place)
				err = errors.Join(os.RemoveAll(at), os.Symlink(w.path("outside"), at))
				if err != nil {
					t.Error(err)
				}
				swapped = true
			}))
			_, err := s.Restore(t.Context(), stamp, confirmed)
			t.Logf("restore: %v", err) // it may do without, or not
			untouched()
			_, err = s.Recover(t.Context())
			t.Logf("recover: %v", err)
			untouched()
			if !swapped {
				t.Error("nothing was staged")
			}
			for name, want := range map[string]string{"chroma/a": "aaaa", "chroma/dir/c": "cccc", "config/project-registry.json": `{"projects": []}`} {
				if got := w.read(t, name); got != want {
					t.Errorf("%s: %q, want %q", name, got, want)
				}
			}
		})
	}
}

// A directory of a tree that leads to another source has become a link since
// the snapshot was taken.
func TestRestoreFollowsNoLinkInATree(t *testing.T) {
	w := osWorld(t)
	w.write(t, "chroma/a", "aaaa")
	w.write(t, "chroma/dir/c", "cccc")
	w.write(t, "chroma/dir/state.json", "{}")
	s := w.store(t, withSources(w.treeSource("chroma"), w.file("chroma/dir/state.json")))
	stamp := mustCreate(t, s).Stamp
	untouched := w.outside(t)
	w.remove(t, "chroma/dir")
	w.symlink(t, w.path("outside"), "chroma/dir")
	opts := &backup.RestoreOptions{ConfirmServiceStopped: true, Sources: []string{"tree"}}
	if _, err := s.Restore(t.Context(), stamp, opts); err != nil {
		t.Fatal(err)
	}
	if got := w.read(t, "chroma/dir/c"); got != "cccc" {
		t.Errorf("restored %q", got)
	}
	untouched()
}

// A database of a tree has become a link to that of somebody who has it in
// use: that is neither our service, nor ours to look into.
func TestRestoreLooksAtNoDatabaseThroughALink(t *testing.T) {
	for _, place := range []string{"chroma/x.db", "chroma/dir/x.db", "chroma/dir"} {
		t.Run(strings.ReplaceAll(place, "/", "_"), func(t *testing.T) {
			w := osWorld(t)
			w.exec(t, "chroma/x.db", "CREATE TABLE t (x)")
			w.exec(t, "chroma/dir/x.db", "CREATE TABLE t (x)")
			s := w.store(t, withSources(w.treeSource("chroma")))
			stamp := mustCreate(t, s).Stamp
			w.exec(t, "outside/x.db", "CREATE TABLE t (x)")
			c := w.connect(t, "outside/x.db")
			mustExec(t, c, "BEGIN IMMEDIATE")
			w.remove(t, place)
			w.symlink(t, w.path(strings.Replace(strings.Replace(place, "dir/", "", 1), "chroma", "outside", 1)), place)
			w.restore(t, s, stamp)
			mustExec(t, c, "INSERT INTO t VALUES (1); COMMIT")
		})
	}
}

// A link is swapped in between the look at a tree and the opening of its
// databases, and out again before the copy.
func TestDatabaseOfATreeIsNotOpenedElsewhere(t *testing.T) {
	for _, place := range []string{"chroma/dir", "chroma/dir/x.db"} {
		t.Run(filepath.Base(place), func(t *testing.T) {
			w := osWorld(t)
			untouched := w.outside(t)
			w.write(t, "chroma/a", "aaaa")
			w.exec(t, "chroma/dir/x.db", "PRAGMA page_size=512; CREATE TABLE t (x)")
			w.exec(t, "data/app.db", "CREATE TABLE t (x)")
			app := w.database("data/app.db")
			app.Quiesce = func(context.Context) (func(), error) {
				w.rename(t, place, "aside")
				w.symlink(t, w.path(strings.Replace(place, "chroma/dir", "outside", 1)), place)
				return nil, nil
			}
			s := w.store(t, withSources(app, w.treeSource("chroma")), atFirst(t, "db", func() {
				w.remove(t, place)
				w.rename(t, "aside", place)
			}))
			snap, err := s.Create(t.Context(), nil)
			if err == nil && snap.Validated && w.queryCopy(t, snap, "tree/dir/x.db", "SELECT count(*) FROM t") != "0" {
				t.Error("it is not the tree's own database that was copied")
			}
			untouched()
		})
	}
}
