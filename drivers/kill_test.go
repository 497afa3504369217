package drivers

import (
	"path/filepath"
	"runtime"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/atocore/backup"
)

// TestOtherProcess: a second process comes and goes after Create, and the
// host, which goes on, is then killed. All that was committed is there.
func TestOtherProcess(t *testing.T) {
	eachHost(t, func(t *testing.T, d driver, mode string) {
		dir := filepath.Join(t.TempDir(), "backups")
		got := otherProcess(t, d, mode, dir, []string{"commit", "create"}, []string{"commit"})
		if diff := cmp.Diff(got, sound(3)); diff != "" {
			t.Errorf("after kill -9 (-got +want):\n%s", diff)
		}
		for _, snap := range snapshots(t, dir) {
			checkCopy(t, snapshotFile(dir, snap, "db/app.db"), mode, 1, 1)
		}
	})
}

// TestOtherProcessDanger: the same, where somebody in the host's process has
// opened the files and closed them. In WAL mode the second process takes
// itself to be the last one and removes the WAL; the host goes on writing to
// the removed one. In rollback mode, it changes what the host has read and
// takes to be locked; the host writes what it makes of that over it.
func TestOtherProcessDanger(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("locks do not belong to the process")
	}
	eachHost(t, func(t *testing.T, d driver, mode string) {
		before, after := []string{"commit", "open-close"}, []string{"commit"}
		if mode == rollback {
			before, after = []string{"commit", "begin", "open-close"}, []string{"end"}
		}
		got := otherProcess(t, d, mode, "", before, after)
		if diff := cmp.Diff(got, sound(3)); diff == "" {
			t.Error("nothing was lost: it is no danger")
		}
		t.Logf("of three commits there are, after kill -9: %+v", got)
	})
}

// otherProcess has a host in a process of its own follow orders, then
// commits in this process and closes the database, has the host go on, and
// kills it. It returns what there is: three commits, if none was lost.
func otherProcess(t *testing.T, d driver, mode, dir string, before, after []string) account {
	t.Helper()
	path := filepath.Join(t.TempDir(), "app.db")
	c := startChild(t, task{Name: "host", Driver: d.name, Mode: mode, Path: path, Dir: dir})
	c.expect("ready")
	c.order(before...)

	db, err := d.open(path, patience)
	if err != nil {
		t.Fatal(err)
	}
	visitor := &host{driver: d, path: path, db: db}
	commit(t, visitor)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}

	c.order(after...)
	c.kill()
	return accountOf(t, d, path)
}

// TestKilledHost: a host that commits on and on is killed right after
// Create. What it said it had committed is there, and the snapshot is good.
func TestKilledHost(t *testing.T) {
	eachHost(t, func(t *testing.T, d driver, mode string) {
		dir := filepath.Join(t.TempDir(), "backups")
		path := filepath.Join(t.TempDir(), "app.db")
		c := startChild(t, task{Name: "host", Driver: d.name, Mode: mode, Path: path, Dir: dir})
		c.expect("ready")
		c.tell("write")
		var before, said int64
		count := func(line string) {
			if line == "commit" {
				said++
			}
		}
		for line := ""; line != "commit"; {
			line = c.next()
			count(line)
		}
		before = said
		c.tell("create")
		for line := ""; line != "done create"; {
			line = c.next()
			count(line)
		}
		after := said
		for _, line := range c.kill() {
			count(line)
		}

		got := accountOf(t, d, path)
		if diff := cmp.Diff(got, sound(got.A)); diff != "" {
			t.Errorf("after kill -9 (-got +want):\n%s", diff)
		}
		if got.A < said || got.A > said+1 {
			t.Errorf("after kill -9: %d commits, want the %d that the host spoke of, or one more", got.A, said)
		}
		for _, snap := range snapshots(t, dir) {
			// What the host says is a commit behind what it does.
			checkCopy(t, snapshotFile(dir, snap, "db/app.db"), mode, before, after+1)
		}
	})
}

// snapshots returns those of a store, which must all be good, and one at
// least.
func snapshots(t *testing.T, dir string) []*backup.Snapshot {
	t.Helper()
	s, err := backup.New(backup.Config{Dir: dir, Sources: []backup.Source{
		{Name: "db", Kind: backup.Database, Path: filepath.Join(t.TempDir(), "app.db")},
	}})
	if err != nil {
		t.Fatal(err)
	}
	found, err := s.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(found) == 0 {
		t.Error("no snapshot")
	}
	var snaps []*backup.Snapshot
	for _, snap := range found {
		report, err := s.Validate(t.Context(), snap.Stamp, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := report.Err(); err != nil {
			t.Error(err)
		}
		snaps = append(snaps, &snap)
	}
	return snaps
}
