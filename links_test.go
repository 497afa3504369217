package backup_test

import (
	"errors"
	"io/fs"
	"strings"
	"testing"

	"github.com/spf13/afero"

	"github.com/atocore/backup"
)

// A relative link is resolved where it lies, and not where a link led to it.
func TestLinkBehindALinkIsFollowedAsTheSystemDoes(t *testing.T) {
	w := osWorld(t)
	w.exec(t, "app/shared/app.db", "CREATE TABLE t (x); INSERT INTO t VALUES ('the service''s')")
	w.exec(t, "shared/app.db", "CREATE TABLE t (x); INSERT INTO t VALUES ('somebody else''s')")
	w.mkdir(t, "app/releases/42")
	w.symlink(t, "../../shared/app.db", "app/releases/42/app.db")
	w.symlink(t, "releases/42", "app/current")
	s := w.store(t, withSources(w.database("app/current/app.db")))
	snap := mustCreate(t, s)
	if got := w.queryCopy(t, snap, "db/app.db", "SELECT x FROM t"); got != "the service's" {
		t.Errorf("copied %q", got)
	}
	w.exec(t, "app/shared/app.db", "DELETE FROM t")
	w.restore(t, s, snap.Stamp)
	if got := w.query(t, "app/shared/app.db", "SELECT x FROM t"); got != "the service's" {
		t.Errorf("restored %q", got)
	}
	if got := w.query(t, "shared/app.db", "SELECT x FROM t"); got != "somebody else's" {
		t.Errorf("the other one: %q", got)
	}
}

// With the tree the link changes, and with the link what it is that was
// restored.
func TestRestoreOfATreeWithTheLinkToAnotherSourceIsRefused(t *testing.T) {
	w := osWorld(t)
	w.exec(t, "app/releases/41/app.db", "CREATE TABLE t (x); INSERT INTO t VALUES (41)")
	w.symlink(t, "releases/41", "app/current")
	tree, db := w.treeSource("app"), w.database("app/current/app.db")
	s := w.store(t, withSources(tree, db))
	stamp := mustCreate(t, s).Stamp
	w.exec(t, "app/releases/42/app.db", "CREATE TABLE t (x); INSERT INTO t VALUES (42)")
	w.remove(t, "app/current")
	w.symlink(t, "releases/42", "app/current")
	before := w.tree(t, "app")
	r, err := s.Restore(t.Context(), stamp, confirmed)
	if r != nil || err == nil || !strings.Contains(err.Error(), w.path("app/current")) {
		t.Errorf("got %+v, %v, want an error that names the link", r, err)
	}
	mustBeSame(t, w.tree(t, "app"), before)
	for _, name := range []string{tree.Name, db.Name} { // as the error says
		if _, err := s.Restore(t.Context(), stamp, &backup.RestoreOptions{ConfirmServiceStopped: true, Sources: []string{name}}); err != nil {
			t.Fatal(err)
		}
	}
	if got := w.query(t, "app/current/app.db", "SELECT x FROM t"); got != "41" {
		t.Errorf("restored %q", got)
	}
}

// What a link in a source's path leads to belongs to that source, also when
// it is missing.
func TestMissingTargetOfALinkIntoATreeIsRestored(t *testing.T) {
	w := osWorld(t)
	w.write(t, "data/sub/f", "the file")
	w.write(t, "data/sub/other", "in the tree")
	w.mkdir(t, "x")
	w.symlink(t, "../data/sub/f", "x/f")
	s := w.store(t, withSources(w.treeSource("data"), w.file("x/f")))
	stamp := mustCreate(t, s).Stamp
	w.remove(t, "data/sub/f")
	w.restore(t, s, stamp)
	if got := w.read(t, "data/sub/f"); got != "the file" {
		t.Errorf("restored %q", got)
	}
}

// Config paths are not read as the system reads them if they go up again.
func TestPathThatGoesUpAgainIsRefused(t *testing.T) {
	for _, p := range []string{"link/../app.db", "/srv/link/../app.db"} {
		_, err := backup.New(backup.Config{Dir: "backups", Sources: []backup.Source{{Name: "db", Kind: backup.Database, Path: p}}})
		if err == nil || !strings.Contains(err.Error(), "..") {
			t.Errorf("%s: %v", p, err)
		}
	}
	if _, err := backup.New(backup.Config{Dir: "../backups", Sources: []backup.Source{{Name: "db", Kind: backup.Database, Path: "../app.db"}}}); err != nil {
		t.Error(err)
	}
}

func TestLinksInACircleAreRefused(t *testing.T) {
	w := osWorld(t)
	w.symlink(t, "b", "a")
	w.symlink(t, "a", "b")
	_, err := w.store(t, withSources(w.file("a"))).Create(t.Context(), nil)
	if _, ok := errors.AsType[*fs.PathError](err); !ok {
		t.Errorf("got %v", err)
	}
}

// ".." in a link is the parent of what the elements before it lead to, which may
// lie elsewhere: see path_resolution(7).
func TestParentInALink(t *testing.T) {
	w := osWorld(t)
	w.exec(t, "real.db", "CREATE TABLE t (x); INSERT INTO t VALUES ('stranger')")
	w.exec(t, "v2/real.db", "CREATE TABLE t (x); INSERT INTO t VALUES ('live')")
	w.mkdir(t, "v2/current")
	w.symlink(t, "v2/current", "current")
	w.symlink(t, "current/../real.db", "app.db")
	s := w.store(t, withSources(w.database("app.db")))
	snap := mustCreate(t, s)
	if got := w.queryCopy(t, snap, "db/app.db", "SELECT x FROM t"); got != "live" {
		t.Errorf("copied that of %q", got)
	}
	w.exec(t, "v2/real.db", "UPDATE t SET x = 'later'")
	w.restore(t, s, snap.Stamp)
	for name, want := range map[string]string{"v2/real.db": "live", "real.db": "stranger"} {
		if got := w.query(t, name, "SELECT x FROM t"); got != want {
			t.Errorf("%s is that of %q, want %q", name, got, want)
		}
	}
}

// Nothing is written past an afero.ReadOnlyFs, whatever it is wrapped in.
func TestStoreOnAReadOnlyFsIsReadOnly(t *testing.T) {
	w := osWorld(t)
	w.write(t, "f", "x")
	w.mkdir(t, "backups/snapshots")
	for name, fsys := range map[string]afero.Fs{
		"wrapped":       afero.NewBasePathFs(afero.NewReadOnlyFs(afero.NewOsFs()), w.root),
		"wrapped_twice": afero.NewBasePathFs(afero.NewBasePathFs(afero.NewReadOnlyFs(afero.NewOsFs()), "/"), w.root),
	} {
		s, err := backup.New(backup.Config{Dir: "/backups", Fs: fsys, Sources: []backup.Source{{Name: "f", Kind: backup.File, Path: "/f"}}})
		if err != nil {
			t.Fatal(err)
		}
		if snap, err := s.Create(t.Context(), nil); err == nil {
			t.Errorf("%s: created %s", name, snap.Stamp)
		}
	}
	w.mustHaveNoSnapshots(t)
}

// Two sources that lead to one file would be pinned under one name, and be restored
// over each other.
func TestSourcesThatLeadToOnePlaceAreRefused(t *testing.T) {
	w := osWorld(t)
	w.seed(t)
	w.symlink(t, "data", "linked")
	w.symlink(t, "../data/atocore.db", "links/current.db")
	alias := w.database("links/current.db")
	alias.Name = "alias"
	for name, other := range map[string]backup.Source{
		"by_its_own_link": alias,
		"by_a_directory":  {Name: "alias", Kind: backup.Database, Path: w.path("linked/atocore.db")},
	} {
		t.Run(name, func(t *testing.T) {
			db := w.database("data/atocore.db")
			snap, err := w.store(t, withSources(db, other)).Create(t.Context(), nil)
			if err == nil || !strings.Contains(err.Error(), `"db" and "alias"`) {
				t.Errorf("create: %v, %v", snap, err)
			}
			other.OnRequest = true // so that a snapshot may have the one, and then the other
			s := w.store(t, withSources(db, other))
			stamp := mustCreate(t, s).Stamp
			if _, err := s.Restore(t.Context(), stamp, confirmed); err != nil {
				t.Errorf("restore of the one: %v", err)
			}
		})
	}
	// A backup of one file under two names is of use. Its restore, as of two, is not.
	both := withSources(w.file("config/project-registry.json"), backup.Source{Name: "alias", Kind: backup.File, Path: w.path("config/copy.json")})
	w.write(t, "config/copy.json", "another")
	stamps := []string{mustCreate(t, w.store(t, both)).Stamp}
	w.drop(t, "config/copy.json")
	w.symlink(t, "project-registry.json", "config/copy.json")
	stamps = append(stamps, mustCreate(t, w.store(t, both)).Stamp)
	for _, stamp := range stamps {
		for _, dry := range []bool{true, false} {
			_, err := w.store(t, both).Restore(t.Context(), stamp, &backup.RestoreOptions{ConfirmServiceStopped: true, DryRun: dry})
			if err == nil || !strings.Contains(err.Error(), `"file" and "alias"`) {
				t.Errorf("restore of both: %v", err)
			}
		}
		if _, err := w.store(t, both).Restore(t.Context(), stamp, &backup.RestoreOptions{ConfirmServiceStopped: true, Sources: []string{"file"}}); err != nil {
			t.Errorf("restore of the one: %v", err)
		}
	}
}
