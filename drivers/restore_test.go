package drivers

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/atocore/backup"
)

var confirmed = &backup.RestoreOptions{ConfirmServiceStopped: true}

// TestRestore: once the host has closed its database, a snapshot that was
// taken through its driver is put back, and the host finds it good. What was
// there before can be put back too.
func TestRestore(t *testing.T) {
	eachHost(t, func(t *testing.T, driver driver, mode string) {
		h := startHost(t, driver, mode, filepath.Join(t.TempDir(), "app.db"))
		commit(t, h)
		d := newDrill(t, h.source())
		snap := d.create(t)
		commit(t, h)
		if err := h.db.Close(); err != nil {
			t.Fatal(err)
		}

		r, err := d.store.Restore(t.Context(), snap.Stamp, confirmed)
		if err != nil {
			t.Fatal(err)
		}
		if !r.IntegrityOK {
			t.Error("the restored database fails its check")
		}
		if diff := cmp.Diff(accountOf(t, driver, h.path), sound(1)); diff != "" {
			t.Errorf("restored (-got +want):\n%s", diff)
		}
		if _, err := d.store.Restore(t.Context(), r.SafetyStamp, confirmed); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(accountOf(t, driver, h.path), sound(2)); diff != "" {
			t.Errorf("undone (-got +want):\n%s", diff)
		}
	})
}

// TestRestoreKilledHost: the host was killed, and what it committed last is
// in its WAL. The safety snapshot has it.
func TestRestoreKilledHost(t *testing.T) {
	eachHost(t, func(t *testing.T, d driver, mode string) {
		dir := filepath.Join(t.TempDir(), "backups")
		path := filepath.Join(t.TempDir(), "app.db")
		c := startChild(t, task{Name: "host", Driver: d.name, Mode: mode, Path: path, Dir: dir})
		c.expect("ready")
		c.order("commit", "create", "commit")
		c.kill()

		s, err := backup.New(backup.Config{Dir: dir, Sources: []backup.Source{
			{Name: "db", Kind: backup.Database, Path: path},
		}})
		if err != nil {
			t.Fatal(err)
		}
		found, err := s.List(t.Context())
		if err != nil || len(found) != 1 {
			t.Fatal(found, err)
		}
		r, err := s.Restore(t.Context(), found[0].Stamp, confirmed)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(accountOf(t, d, path), sound(1)); diff != "" {
			t.Errorf("restored (-got +want):\n%s", diff)
		}
		if _, err := s.Restore(t.Context(), r.SafetyStamp, confirmed); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(accountOf(t, d, path), sound(2)); diff != "" {
			t.Errorf("undone (-got +want):\n%s", diff)
		}
	})
}

// TestRestoreRefused: a host that still has the database open in this
// process is seen, on Linux, and keeps its locks and its data. That somebody
// says it is stopped does not help.
func TestRestoreRefused(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("there is no telling here")
	}
	ways := map[string]struct {
		source func(h *host) backup.Source
		opts   backup.RestoreOptions
	}{
		"database":      {source: (*host).source},
		"database_only": {(*host).source, backup.RestoreOptions{SkipSafetySnapshot: true}},
		"file": {func(h *host) backup.Source {
			return backup.Source{Name: "db", Kind: backup.File, Path: h.path}
		}, backup.RestoreOptions{SkipSafetySnapshot: true}},
		"tree": {func(h *host) backup.Source {
			return backup.Source{Name: "db", Kind: backup.Tree, Path: filepath.Dir(h.path)}
		}, backup.RestoreOptions{SkipSafetySnapshot: true}},
	}
	for name, way := range ways {
		t.Run(name, func(t *testing.T) {
			eachState(t, func(t *testing.T, h *host, st state, mode string) {
				commit(t, h)
				if err := h.db.Close(); err != nil {
					t.Fatal(err)
				}
				src := way.source(h)
				src.DB = nil
				reveal := func() {}
				if src.Kind == backup.File {
					reveal = disguise(t, h.path)
				}
				d := newDrill(t, src)
				snap := d.create(t)
				reveal()
				h.reopen(t)
				commit(t, h)

				end := st.begin(t, h)
				before := heldLocks(t, h.path)
				w := newWatch(t, h.path)
				inode := stat(t, h.path)
				way.opts.ConfirmServiceStopped = true
				_, err := d.store.Restore(t.Context(), snap.Stamp, &way.opts)
				if !errors.Is(err, backup.ErrServiceRunning) && !errors.Is(err, backup.ErrForeignDriver) {
					t.Errorf("got %v, want %v or %v", err, backup.ErrServiceRunning, backup.ErrForeignDriver)
				}
				if events := w.seen(); len(events) > 0 {
					t.Errorf("during Restore: %q, want the host's files left alone", events)
				}
				checkLocks(t, "after Restore", h, before)
				if !os.SameFile(inode, stat(t, h.path)) {
					t.Fatal("the database was exchanged under its host")
				}
				if got := h.try(t, st.try); got != st.want[mode] {
					t.Errorf("after Restore: %s in another process: %s, want %s", st.try, got, st.want[mode])
				}
				end()
				if diff := cmp.Diff(h.reopened(t), sound(h.committed.Load())); diff != "" {
					t.Errorf("the host's database (-got +want):\n%s", diff)
				}
			})
		})
	}
}

// disguise puts a text in the place of a database until reveal is called: a
// File that is a database is refused for being one.
func disguise(t *testing.T, path string) (reveal func()) {
	t.Helper()
	aside := path + ".aside"
	err := errors.Join(os.Rename(path, aside), os.WriteFile(path, []byte("text"), 0o600))
	if err != nil {
		t.Fatal(err)
	}
	return func() {
		t.Helper()
		if err := os.Rename(aside, path); err != nil {
			t.Fatal(err)
		}
	}
}

func stat(t *testing.T, path string) os.FileInfo {
	t.Helper()
	fi, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return fi
}
