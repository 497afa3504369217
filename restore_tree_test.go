package backup_test

import (
	"errors"
	"io/fs"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/atocore/backup"
)

// A tree that lies in another, and has other sources or the store in it, is not the
// outer one's to restore, with all that is in it.
func TestRestoreOfATreeAroundATreeAroundOthers(t *testing.T) {
	for _, dir := range []string{"backups", "srv/data/backups"} {
		for name, only := range map[string][]string{"all": nil, "outer": {"outer"}, "inner": {"inner"}} {
			t.Run(strings.ReplaceAll(dir, "/", "_")+"_"+name, func(t *testing.T) {
				memoryAndOs(t, func(t *testing.T, w *world) {
					files := map[string]string{"outer": "srv/f", "inner": "srv/data/f", "own": "srv/data/deep/er/own.json"}
					s := w.store(t, withSources(
						backup.Source{Name: "outer", Kind: backup.Tree, Path: w.path("srv")},
						backup.Source{Name: "inner", Kind: backup.Tree, Path: w.path("srv/data")},
						backup.Source{Name: "own", Kind: backup.File, Path: w.path(files["own"])},
					), func(cfg *backup.Config) { cfg.Dir = w.path(dir) })
					for _, f := range files {
						w.write(t, f, "snapshot")
					}
					stamp := mustCreate(t, s).Stamp
					for _, f := range files {
						w.write(t, f, "since")
						w.write(t, f+".since", "since")
					}
					_, err := s.Restore(t.Context(), stamp, &backup.RestoreOptions{ConfirmServiceStopped: true, Sources: only})
					if err != nil {
						t.Fatal(err)
					}
					for source, f := range files {
						want := "since"
						if only == nil || slices.Contains(only, source) {
							want = "snapshot"
						}
						if got := w.read(t, f); got != want {
							t.Errorf("%s: %q, want %q", f, got, want)
						}
						tree := map[string]string{"outer": "outer", "inner": "inner", "own": "inner"}[source]
						if kept := only != nil && !slices.Contains(only, tree); w.exists(t, f+".since") != kept {
							t.Errorf("%s.since is there: %v, want %v", f, !kept, kept)
						}
					}
				})
			})
		}
	}
}

func TestRestoreOfTree(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		w.seed(t)
		w.write(t, "chroma/ro/file", "read-only")
		w.write(t, "chroma/exec", "#!/bin/sh")
		w.write(t, "chroma/odd names/\"quoted\" and ünïcode\n", "odd")
		past := time.Date(2001, 2, 3, 4, 5, 6, 789000000, time.UTC)
		for name, perm := range map[string]fs.FileMode{"chroma/ro/file": 0o400, "chroma/exec": 0o755, "chroma/ro": 0o500, "chroma/empty": 0o711} {
			if err := errors.Join(w.fs.Chmod(w.path(name), perm), w.fs.Chtimes(w.path(name), past, past)); err != nil {
				t.Fatal(err)
			}
		}
		want := w.stat(t, "chroma")
		s := w.store(t)
		stamp := w.create(t, s).Stamp

		w.chmod(t, "chroma/ro", 0o700, 0o600)
		for _, gone := range []string{"chroma/ro", "chroma/empty", "chroma/exec", "chroma/collection-a/data.bin"} {
			w.drop(t, gone)
		}
		w.write(t, "chroma/ro", "a file where a directory was")
		w.write(t, "chroma/exec/deep/file", "a directory where a file was")
		w.write(t, "chroma/extra/file", "extra")
		w.write(t, "chroma/.hidden", "extra")
		w.write(t, "chroma/chroma.sqlite3-wal", "extra")
		w.restore(t, s, stamp)

		got := w.stat(t, "chroma")
		delete(got, ".") // its entries have been exchanged
		delete(want, ".")
		if diff := cmp.Diff(got, want); diff != "" {
			t.Errorf("(-got +want):\n%s", diff)
		}
	})
}

// Only what is named just like a restore's own directories is taken for one.
func TestTreeMayHaveNamesLikeARestores(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		w.write(t, "tree/.atobackup-notes", "n")
		w.write(t, "tree/.atobackup-x-tree/f", "f")
		w.write(t, "tree/.atobackup-0123456789abcdef/f", "f")
		w.write(t, "tree/sub/.atobackup-mine/f", "f")
		snap := w.roundTrip(t, "tree")
		w.restore(t, w.store(t, withSources(w.treeSource("tree"))), snap.Stamp)
		if diff := cmp.Diff([]string{".", ".atobackup-0123456789abcdef", ".atobackup-0123456789abcdef/f", ".atobackup-notes",
			".atobackup-x-tree", ".atobackup-x-tree/f", "sub", "sub/.atobackup-mine", "sub/.atobackup-mine/f"}, w.names(t, "tree")); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
}

// What the restore of another store has left may be all that there is of
// something.
func TestTreeWithWhatARestoreHasLeftIsNotReplaced(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		const left = "tree/sub/.atobackup-0123456789abcdef-other"
		w.write(t, "tree/a", "a")
		w.write(t, left+"/old/f", "f")
		s := w.store(t, withSources(w.treeSource("tree")))
		snap, err := s.Create(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]string{"file_changed " + left}, problemsOf(snap)); diff != "" {
			t.Errorf("noted (-want +got):\n%s", diff)
		}
		if w.exists(t, "backups/snapshots/"+snap.Stamp+"/"+left) {
			t.Error("it was copied")
		}
		r, err := s.Restore(t.Context(), snap.Stamp, &backup.RestoreOptions{
			ConfirmServiceStopped: true, Accept: []backup.Code{backup.CodeFileChanged},
		})
		if r != nil || err == nil || !strings.Contains(err.Error(), w.path(left)) || w.pending(t) {
			t.Errorf("got %+v, %v, want a refusal", r, err)
		}
		if got := w.read(t, left+"/old/f"); got != "f" {
			t.Errorf("it has %q", got)
		}
	})
}

func TestRestoreOfEmptyTree(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		w.seed(t)
		w.drop(t, "chroma")
		w.mkdir(t, "chroma")
		s := w.store(t)
		stamp := w.create(t, s).Stamp
		w.write(t, "chroma/extra", "extra")
		w.restore(t, s, stamp)
		if diff := cmp.Diff(w.names(t, "chroma"), []string{"."}); diff != "" {
			t.Errorf("(-got +want):\n%s", diff)
		}
		w.drop(t, "chroma")
		w.restore(t, s, stamp)
		if diff := cmp.Diff(w.names(t, "chroma"), []string{"."}); diff != "" {
			t.Errorf("onto nothing (-got +want):\n%s", diff)
		}
	})
}
