package backup_test

import (
	"context"
	"errors"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/afero"

	"github.com/atocore/backup"
)

// The usual reason to restore is a live database that is past saving. Its
// files are kept all the same, byte for byte, and come back by the undo.
func TestRestoreOverDamagedDatabase(t *testing.T) {
	const db = "data/atocore.db"
	garbage := strings.Repeat("garbage ", 1024)
	for _, tc := range []struct {
		name   string
		damage func(t *testing.T, w *world)
	}{
		{"zero_bytes", func(t *testing.T, w *world) { w.write(t, db, "") }},
		{"zero_bytes_beside_log", func(t *testing.T, w *world) {
			w.leaveLog(t, db)
			w.write(t, db, "")
		}},
		{"garbage", func(t *testing.T, w *world) { w.write(t, db, garbage) }},
		{"garbage_beside_log", func(t *testing.T, w *world) {
			w.leaveLog(t, db)
			w.write(t, db, garbage)
		}},
		{"garbage_in_all_files", func(t *testing.T, w *world) {
			for _, suffix := range []string{"", "-wal", "-journal"} {
				w.write(t, db+suffix, garbage)
			}
		}},
		{"short", func(t *testing.T, w *world) { w.write(t, db, "SQLite format 3\x00") }},
		{"truncated", func(t *testing.T, w *world) {
			w.edit(t, db, func(data []byte) []byte { return data[:len(data)-4096] })
		}},
		{"header_damaged_beside_log", func(t *testing.T, w *world) {
			w.leaveLog(t, db)
			w.edit(t, db, flip(0))
		}},
		{"page_damaged", func(t *testing.T, w *world) { w.edit(t, db, spoil(2)) }},
		{"page_damaged_beside_log", func(t *testing.T, w *world) {
			w.exec(t, db, "CREATE TABLE other (x); INSERT INTO other VALUES ('not in the log')")
			w.leaveLog(t, db)
			w.edit(t, db, spoil(4))
		}},
		{"index_damaged_beside_log", func(t *testing.T, w *world) {
			w.exec(t, db, inconsistentIndex)
			w.leaveLog(t, db)
		}},
		{"missing_beside_log", func(t *testing.T, w *world) {
			w.leaveLog(t, db)
			w.drop(t, db)
		}},
		{"missing_beside_journal", func(t *testing.T, w *world) {
			w.write(t, db+"-journal", garbage)
			w.drop(t, db)
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			memoryAndOs(t, func(t *testing.T, w *world) {
				w.seed(t)
				s := w.store(t)
				stamp := w.create(t, s).Stamp
				tc.damage(t, w)
				w.write(t, "config/project-registry.json", "mutated")
				before := w.liveState(t)

				r := w.restore(t, s, stamp)
				if got := w.query(t, db, "SELECT body FROM memories"); got != "baseline" || !r.IntegrityOK {
					t.Errorf("restored %q, integrity %v", got, r.IntegrityOK)
				}
				snap := w.listed(t, s, r.SafetyStamp)
				if diff := cmp.Diff(codes(snap.Problems), []backup.Code{backup.CodeRawCopy}); diff != "" || snap.Validated {
					t.Errorf("safety snapshot: validated %v (-got +want):\n%s", snap.Validated, diff)
				}
				undone := w.restore(t, s, r.SafetyStamp)
				if diff := cmp.Diff(w.liveState(t), before); diff != "" {
					t.Errorf("after undo (-got +want):\n%s", diff)
				}
				if undone.IntegrityOK {
					t.Error("a raw copy passes for sound")
				}
				w.restore(t, s, undone.SafetyStamp)
				if got := w.query(t, db, "SELECT body FROM memories"); got != "baseline" {
					t.Errorf("after undo of undo: %q", got)
				}
			})
		})
	}
}

// Rows that are in the log alone are part of what is saved.
func TestSafetySnapshotHasTheLog(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		w.seed(t)
		s := w.store(t)
		stamp := w.create(t, s).Stamp
		w.leaveLog(t, "data/atocore.db")
		r := w.restore(t, s, stamp)
		if snap := w.listed(t, s, r.SafetyStamp); !snap.Validated {
			t.Errorf("safety snapshot: %+v", snap)
		}
		w.restore(t, s, r.SafetyStamp)
		if got := w.query(t, "data/atocore.db", "SELECT body FROM memories"); got != "baseline\nin the log" {
			t.Errorf("after undo: %q", got)
		}
	})
}

// A restore that is not carried out leaves the log where it was.
func TestRefusedRestoreLeavesTheLog(t *testing.T) {
	w := newWorld(t, afero.NewMemMapFs(), "/srv")
	w.seed(t)
	stamp := w.create(t, w.store(t)).Stamp
	w.leaveLog(t, "data/atocore.db")
	before := w.liveState(t)
	s := w.faulty(t, func(op, p string) error {
		if op == "create" && strings.Contains(p, ".atobackup-") {
			return syscall.ENOSPC
		}
		return nil
	})
	if _, err := s.Restore(t.Context(), stamp, confirmed); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("error %v", err)
	}
	if diff := cmp.Diff(w.liveState(t), before); diff != "" {
		t.Errorf("(-after +before):\n%s", diff)
	}
}

func TestSafetySnapshot(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		w.seed(t)
		s := w.store(t)
		stamp := w.create(t, s).Stamp
		w.exec(t, "data/atocore.db", "INSERT INTO memories (body) VALUES ('mutation')")
		w.write(t, "config/project-registry.json", "mutated")
		w.write(t, "chroma/more", "mutated")
		before := w.liveState(t)
		r := w.restore(t, s, stamp)
		snap := w.listed(t, s, r.SafetyStamp)
		if snap.Origin != backup.OriginPreRestore || !snap.Validated || snap.Stamp == stamp {
			t.Errorf("got %+v", snap)
		}
		if report := w.validate(t, s, r.SafetyStamp, nil); !report.Valid {
			t.Errorf("got %+v", report)
		}
		w.restore(t, s, r.SafetyStamp)
		if got := w.query(t, "data/atocore.db", "SELECT body FROM memories"); got != "baseline\nmutation" {
			t.Errorf("database after undo: %q", got)
		}
		after := w.liveState(t)
		for name := range after {
			if strings.HasSuffix(name, "atocore.db") { // its rows are the same; its pages need not be
				after[name] = before[name]
			}
		}
		if diff := cmp.Diff(after, before); diff != "" {
			t.Errorf("after undo (-got +want):\n%s", diff)
		}
	})
}

// The service that Check, Quiesce and DB reach is stopped.
func TestSafetySnapshotDoesWithoutTheHost(t *testing.T) {
	w := newWorld(t, afero.NewMemMapFs(), "/srv")
	w.seed(t)
	stamp := w.create(t, w.store(t)).Stamp
	s := w.store(t, func(cfg *backup.Config) {
		cfg.Sources[0].Quiesce = func(context.Context) (func(), error) { return nil, errors.New("stopped") }
	})
	w.restore(t, s, stamp)
}
