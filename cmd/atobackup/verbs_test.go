package main

import (
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/atocore/backup"
)

func TestCreate(t *testing.T) {
	t.Run("table", func(t *testing.T) {
		w := newWorld(t)
		service := w.open(t) // goes on running
		if err := service.Exec("INSERT INTO memories VALUES ('in the WAL')"); err != nil {
			t.Fatal(err)
		}
		got := w.must(t, exitDone, "create")
		want := `created 20260411T130000Z: 2 files, 8.0 KiB, validated (full)
  SOURCE  KIND            SIZE  FILES  
  db      database     8.0 KiB      1  
  config  file            20 B      1  
  chroma  tree               -      -  not asked for: -include chroma
`
		if diff := cmp.Diff(got.stdout, want); diff != "" {
			t.Errorf("stdout (-got +want):\n%s", diff)
		}
		if got.stderr != "" {
			t.Errorf("stderr: %q, want nothing", got.stderr)
		}
	})
	t.Run("options", func(t *testing.T) {
		w := newWorld(t)
		var snap backup.Snapshot
		w.must(t, exitDone, "create", "-json", "--include", "chroma", "-pin", "-scheduled", "-label", "a=b", "-label", "c=d=e").decode(t, &snap)
		if src, _ := snap.Source("chroma"); !src.Captured || src.Files != 1 {
			t.Errorf("chroma: %+v, want it captured", src)
		}
		if !snap.Pinned || snap.Origin != backup.OriginScheduled {
			t.Errorf("pinned %v, origin %q", snap.Pinned, snap.Origin)
		}
		if diff := cmp.Diff(snap.Labels, map[string]string{"a": "b", "c": "d=e"}); diff != "" {
			t.Errorf("labels (-got +want):\n%s", diff)
		}
	})
	t.Run("optional_source_missing", func(t *testing.T) {
		w := newWorld(t)
		if err := os.Remove(w.path("config/registry.json")); err != nil {
			t.Fatal(err)
		}
		got := w.must(t, exitDone, "create", "-include", "chroma",
			"-source", "name=chroma,kind=tree,optional,on_request,path="+w.path("nowhere"))
		contains(t, got.stdout, "config  file               -      -  missing\n", "chroma  tree               -      -  missing\n")
	})
	t.Run("source_missing", func(t *testing.T) {
		w := newWorld(t)
		if err := os.RemoveAll(w.path("data")); err != nil {
			t.Fatal(err)
		}
		contains(t, w.must(t, exitFailed, "create").stderr, `atobackup: create: source "db"`, `is to be "optional"`)
	})
	t.Run("include_unknown", func(t *testing.T) {
		w := newWorld(t)
		contains(t, w.must(t, exitUsage, "create", "-include", "nope").stderr, `-include "nope"`, "db, config, chroma")
	})
	t.Run("database_locked", func(t *testing.T) {
		w := newWorld(t)
		w.exec(t, "PRAGMA journal_mode=DELETE")
		if err := w.open(t).Exec("BEGIN EXCLUSIVE"); err != nil {
			t.Fatal(err)
		}
		contains(t, w.must(t, exitFailed, "create", "-busy-timeout", "1ms").stderr, "busy", "-busy-timeout")
	})
}

// breaksItsRules makes a table that is not as its definition says.
const breaksItsRules = `CREATE TABLE t (n); INSERT INTO t VALUES (NULL); PRAGMA writable_schema=1;
	UPDATE sqlite_schema SET sql = 'CREATE TABLE t (n NOT NULL)' WHERE name = 't'`

// A database that breaks its own rules is copied, kept, and found out.
func TestCreateKeepsInvalidCopy(t *testing.T) {
	w := newWorld(t)
	w.exec(t, breaksItsRules)

	got := w.must(t, exitInvalid, "create")
	contains(t, got.stdout, "created 20260411T130000Z", "NOT VALID", "db_corrupt")
	contains(t, got.stderr, "20260411T130000Z: snapshot failed validation: db_corrupt")
	if diff := cmp.Diff(w.stamps(t), []string{"20260411T130000Z"}); diff != "" {
		t.Errorf("kept (-got +want):\n%s", diff)
	}
	fields := w.must(t, exitInvalid, "create", "-json").fields(t)
	if fields["validated"] != false || fields["error"] == nil {
		t.Errorf("validated %v, error %v", fields["validated"], fields["error"])
	}
	w.must(t, exitDone, "create", "-level", "structure") // which does not look
	contains(t, w.must(t, exitDone, "list").stdout, "invalid: db_corrupt  db, config\n")
}

func TestCreatedText(t *testing.T) {
	var b strings.Builder
	snap := &backup.Snapshot{Sources: []backup.SourceState{{Name: "c", Captured: true, Skipped: []string{"sock", "pipe"}}}}
	(&call{options: new(options)}).writeCreated(&b, snap)
	contains(t, b.String(), "2 special files left out")
}

func TestList(t *testing.T) {
	w := newWorld(t)
	contains(t, w.must(t, exitDone, "list").stdout, "no snapshots\n")
	contains(t, w.must(t, exitDone, "list", "-json").stdout, `"snapshots": []`)

	w.create(t, "-pin", "-include", "chroma") // 13:01
	w.now = w.now.Add(2 * 24 * time.Hour)
	damaged := w.create(t) // 13:02, two days later
	w.damage(t, damaged, "backup-metadata.json")
	w.now = w.now.Add(3 * time.Hour)
	w.create(t) // 16:03
	if err := os.Mkdir(w.snapshot("20260413T160430Z", ""), 0o700); err != nil {
		t.Fatal(err)
	}
	w.now = w.now.Add(2 * time.Minute)

	got := w.must(t, exitDone, "list")
	want := `STAMP              AGE        SIZE  FILES  ORIGIN  STATE                      SOURCES
20260413T160430Z   30s           -      -  -       incomplete                 -
20260413T160300Z    2m     8.0 KiB      2  manual  ok                         db, config
20260413T130200Z    3h           -      -  -       invalid: metadata_invalid  -
20260411T130100Z    2d     9.0 KiB      3  manual  ok, pinned                 db, config, chroma

4 snapshots, 17.0 KiB
`
	if diff := cmp.Diff(got.stdout, want); diff != "" {
		t.Errorf("stdout (-got +want):\n%s", diff)
	}
	var doc struct{ Snapshots []backup.Snapshot }
	w.must(t, exitDone, "list", "-json").decode(t, &doc)
	if len(doc.Snapshots) != 4 || !doc.Snapshots[3].Pinned {
		t.Errorf("-json: %+v", doc.Snapshots)
	}
}

func TestValidate(t *testing.T) {
	w := newWorld(t)
	contains(t, w.must(t, exitInvalid, "validate", "latest").stderr, "there is none")

	stamp := w.create(t)
	for _, args := range [][]string{
		{"validate", stamp},
		{"validate", "latest"},
		{"validate", "-level", "quick", stamp},
		{"validate", stamp, "--level", "structure"},
	} {
		contains(t, w.must(t, exitDone, args...).stdout, stamp+" is valid (")
	}

	w.damage(t, stamp, "config/registry.json")
	got := w.must(t, exitInvalid, "validate", stamp)
	contains(t, got.stdout, stamp+" is NOT VALID (full): 1 problem\n", `  checksum_mismatch: "config/registry.json"`)
	contains(t, got.stderr, stamp+": snapshot failed validation: checksum_mismatch")
	contains(t, w.must(t, exitDone, "validate", stamp, "-level", "structure").stdout, "is valid (structure)")

	contains(t, w.must(t, exitInvalid, "validate", "20200101T000000Z").stdout, "20200101T000000Z does not exist\n")
	contains(t, w.must(t, exitUsage, "validate", "../../etc").stderr, "invalid stamp", "atobackup list")
}

// A safety snapshot is newer than the one that was restored, and what a crash
// left newer than both, but nobody who asks for the latest means them.
func TestLatest(t *testing.T) {
	w := newWorld(t)
	w.create(t)
	stamp := w.create(t)
	w.now = w.now.Add(time.Minute)
	w.must(t, exitDone, "restore", stamp, "-confirm-service-stopped")
	if err := os.Mkdir(w.snapshot("20260411T130330Z", ""), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"validate", "latest"}, {"restore", "latest", "-confirm-service-stopped"}, {"restore", "latest", "-dry-run", "-json"}} {
		got := w.must(t, exitDone, args...)
		contains(t, got.stdout, stamp)
		if want := "atobackup: latest is " + stamp + "\n"; got.stderr != want {
			t.Errorf("%q: stderr: %q, want %q", args, got.stderr, want)
		}
	}

	// Nor does it matter that somebody else validates it just now.
	asked := false
	store, err := backup.New(backup.Config{
		Dir:     w.path("backups"),
		Sources: []backup.Source{{Name: "db", Kind: backup.Database, Path: w.path("data/app.db")}},
		Progress: func(backup.Progress) {
			asked = true
			contains(t, w.must(t, exitDone, "validate", "latest").stdout, stamp)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := store.Validate(t.Context(), stamp, nil); err != nil || !asked {
		t.Errorf("asked for the latest: %v; %v", asked, err)
	}

	// One that is finished and damaged is the answer all the same.
	w.damage(t, stamp, "backup-metadata.json")
	contains(t, w.must(t, exitInvalid, "validate", "latest").stdout, stamp+" is NOT VALID")
}

// The clock may have been wrong for a while: what was taken then is not the
// latest for years to come.
func TestLatestIsNotOfTheFuture(t *testing.T) {
	w := newWorld(t)
	stamp := w.create(t)
	w.now = w.now.AddDate(5, 0, 0)
	future := w.create(t)
	w.now = w.now.AddDate(-5, 0, 0)
	got := w.must(t, exitDone, "validate", "latest")
	contains(t, got.stdout, stamp)
	want := "atobackup: " + future + " is dated in the future, and not taken for the latest\n" +
		"atobackup: latest is " + stamp + "\n"
	if diff := cmp.Diff(got.stderr, want); diff != "" {
		t.Errorf("stderr (-got +want):\n%s", diff)
	}
	contains(t, w.must(t, exitDone, "validate", future).stdout, future) // it is good, for who names it
	w.must(t, exitDone, "delete", "-confirm", stamp)
	contains(t, w.must(t, exitInvalid, "validate", "latest").stderr, future, "there is none")
}

func TestRestore(t *testing.T) {
	mutated := func(t *testing.T) (*world, string) {
		w := newWorld(t)
		stamp := w.create(t)
		w.exec(t, "INSERT INTO memories VALUES ('mutation')")
		w.write(t, "config/registry.json", "mutation")
		w.now = w.now.Add(time.Minute)
		return w, stamp
	}
	t.Run("and_undo", func(t *testing.T) {
		w, stamp := mutated(t)
		got := w.must(t, exitDone, "restore", "latest", "--confirm-service-stopped")
		want := "restored " + stamp + ": db, config (8.0 KiB)\n" +
			"What was replaced is in 20260411T130200Z; to undo, run: atobackup restore -config " + w.path("backup.json") +
			" -confirm-service-stopped 20260411T130200Z\n"
		if diff := cmp.Diff(got.stdout, want); diff != "" {
			t.Errorf("stdout (-got +want):\n%s", diff)
		}
		if got := w.memories(t); got != "baseline" {
			t.Errorf("restored %q", got)
		}
		fields := w.must(t, exitDone, "restore", "-json", "20260411T130200Z", "-confirm-service-stopped").fields(t)
		if fields["restored_integrity_ok"] != true || fields["stamp"] != "20260411T130200Z" {
			t.Errorf("-json: %v", fields)
		}
		if got := w.memories(t); got != "baseline,mutation" {
			t.Errorf("after undo: %q", got)
		}
	})
	t.Run("not_confirmed", func(t *testing.T) {
		w, stamp := mutated(t)
		contains(t, w.must(t, exitUsage, "restore", stamp).stderr, "-confirm-service-stopped")
		if got := w.memories(t); got != "baseline,mutation" {
			t.Errorf("the state was changed: %q", got)
		}
	})
	t.Run("dry_run", func(t *testing.T) {
		w, stamp := mutated(t)
		got := w.must(t, exitDone, "restore", stamp, "-dry-run", "-confirm-service-stopped")
		contains(t, got.stdout, "would restore "+stamp+": db, config (", "Nothing was changed")
		if got := w.memories(t); got != "baseline,mutation" {
			t.Errorf("the state was changed: %q", got)
		}
	})
	t.Run("only", func(t *testing.T) {
		w, stamp := mutated(t)
		w.must(t, exitDone, "restore", "--only", "config", stamp, "-confirm-service-stopped")
		if got := w.memories(t); got != "baseline,mutation" {
			t.Errorf("the database was changed: %q", got)
		}
		if got := w.read(t, "config/registry.json"); got != `{"projects": ["p1"]}` {
			t.Errorf("the file was not restored: %q", got)
		}
		contains(t, w.must(t, exitUsage, "restore", "-only", "nope", stamp, "-confirm-service-stopped").stderr, `-only "nope"`)
		contains(t, w.must(t, exitUsage, "restore", "-only", "chroma", stamp, "-confirm-service-stopped").stderr, "did not capture")
	})
	t.Run("no_pre_snapshot", func(t *testing.T) {
		w, stamp := mutated(t)
		got := w.must(t, exitDone, "restore", "--no-pre-snapshot", stamp, "-confirm-service-stopped")
		contains(t, got.stdout, "No safety snapshot was taken")
		if diff := cmp.Diff(w.stamps(t), []string{stamp}); diff != "" {
			t.Errorf("snapshots (-got +want):\n%s", diff)
		}
	})
	t.Run("damaged", func(t *testing.T) {
		w, stamp := mutated(t)
		w.damage(t, stamp, "db/app.db")
		contains(t, w.must(t, exitInvalid, "restore", stamp, "-confirm-service-stopped").stderr,
			"snapshot failed validation: checksum_mismatch", "atobackup list")
		w.must(t, exitInvalid, "restore", "20200101T000000Z", "-confirm-service-stopped")
	})
	t.Run("service_running", func(t *testing.T) {
		w, stamp := mutated(t)
		if err := w.open(t).Exec("BEGIN; SELECT * FROM memories"); err != nil {
			t.Fatal(err)
		}
		contains(t, w.must(t, exitFailed, "restore", stamp, "-confirm-service-stopped").stderr,
			"the service is still running", "stop everything that has the database open")
	})
}

func TestRestoreAccepts(t *testing.T) {
	w := newWorld(t)
	// It has a database's header, and cannot be copied as one.
	w.write(t, "chroma/fake.db", "SQLite format 3\x00"+strings.Repeat("x", 1024))
	got := w.must(t, exitInvalid, "create", "-include", "chroma")
	contains(t, got.stdout, "raw_copy")
	contains(t, got.stderr, "-accept CODE")

	restore := []string{"restore", "latest", "-only", "chroma", "-confirm-service-stopped"}
	contains(t, w.must(t, exitInvalid, restore...).stderr, "raw_copy", "-accept CODE")
	w.must(t, exitInvalid, append(restore, "-accept", "file_changed")...)
	contains(t, w.must(t, exitDone, append(restore, "-accept", "file_changed", "-accept", "raw_copy")...).stdout, "was put back as it had been found",
		"It has 1 problem, and the undo brings back no more than it has:\n  raw_copy: \"chroma/fake.db\": ")
	if w.must(t, exitDone, append(restore, "-accept", "raw_copy", "-json")...).fields(t)["pre_restore_problems"] == nil {
		t.Error("-json: the problems of the safety snapshot are not there")
	}
	contains(t, w.must(t, exitUsage, append(restore, "-accept", "db_missing")...).stderr, "want one of [file_changed file_vanished raw_copy db_corrupt check_failed]")
}

func TestRestoreAcceptsADatabaseThatFailsItsChecks(t *testing.T) {
	w := newWorld(t)
	w.exec(t, breaksItsRules)
	w.must(t, exitInvalid, "create")
	restore := []string{"restore", "latest", "-only", "db", "-confirm-service-stopped"}
	contains(t, w.must(t, exitInvalid, restore...).stderr, "db_corrupt", "-accept CODE")
	contains(t, w.must(t, exitDone, append(restore, "-accept", "db_corrupt")...).stdout, "was put back as it had been found")
}

func TestRecover(t *testing.T) {
	w := newWorld(t)
	contains(t, w.must(t, exitDone, "recover").stdout, "nothing to recover")
	if got := w.must(t, exitDone, "recover", "-json").fields(t)["outcome"]; got != "nothing_pending" {
		t.Errorf("-json: outcome %v", got)
	}

	stamp := w.create(t)
	w.write(t, "backups/restore-journal.json", "{}") // one that nobody can follow
	for _, args := range [][]string{
		{"recover"}, {"create"}, {"cleanup", "-confirm"}, {"delete", stamp, "-confirm"},
		{"restore", stamp, "-confirm-service-stopped"},
	} {
		contains(t, w.must(t, exitFailed, args...).stderr, "an interrupted restore is pending", "run: atobackup recover")
	}
}

func TestRecoveryText(t *testing.T) {
	for outcome, want := range map[backup.Outcome]string{
		backup.RestoreFinished: "finished the interrupted restore of S (a, b)\nWhat was to be replaced is in P.\n",
		backup.RestoreUndone:   "undid the interrupted restore of S (a, b): the state is as it was before\nWhat was to be replaced is in P.\n",
		backup.Discarded:       "tidied up after the interrupted restore of S (a, b): the state was whole already\nWhat was to be replaced is in P.\n",
	} {
		var b strings.Builder
		writeRecovery(&b, &backup.Recovery{Stamp: "S", SafetyStamp: "P", Outcome: outcome, Sources: []string{"a", "b"}})
		if diff := cmp.Diff(b.String(), want); diff != "" {
			t.Errorf("%s (-got +want):\n%s", outcome, diff)
		}
	}
}

func TestCleanup(t *testing.T) {
	w := newWorld(t)
	old := w.create(t)
	kept := w.create(t)
	w.write(t, "backups/snapshots/notes\x1b[31m.txt", "")

	got := w.must(t, exitDone, "cleanup", "-keep-last", "1")
	want := `STAMP             DECISION      REASONS
20260411T130200Z  keep          last 1; newest good
20260411T130100Z  would delete  no rule keeps it

not snapshots, left alone: ["notes\x1b[31m.txt"]
1 kept, 1 would be deleted
Nothing was deleted: this was a dry run. To delete, add -confirm.
`
	if diff := cmp.Diff(got.stdout, want); diff != "" {
		t.Errorf("stdout (-got +want):\n%s", diff)
	}
	if got := len(w.stamps(t)); got != 3 {
		t.Errorf("%d names are left after a dry run, want 3", got)
	}

	var doc backup.Cleanup
	w.must(t, exitDone, "cleanup", "-json").decode(t, &doc)
	if !doc.DryRun || doc.WouldDelete != 1 || doc.Kept != 1 {
		t.Errorf("-json: %+v", doc)
	}

	got = w.must(t, exitDone, "cleanup", "--confirm")
	contains(t, got.stdout, old+"  deleted   no rule keeps it", "1 kept, 1 deleted\n")
	if strings.Contains(got.stdout, "dry run") {
		t.Errorf("calls itself a dry run:\n%s", got.stdout)
	}
	if diff := cmp.Diff(w.stamps(t), []string{kept, "notes\x1b[31m.txt"}); diff != "" {
		t.Errorf("left (-got +want):\n%s", diff)
	}
}

// A removal that fails is in the table, and an error.
func TestCleanupPartial(t *testing.T) {
	if runtime.GOOS == "windows" || os.Geteuid() == 0 {
		t.Skip("needs a directory that this user may not write to: run as somebody other than root, on Unix")
	}
	w := newWorld(t)
	old := w.create(t)
	w.create(t)
	if err := os.Chmod(w.snapshot(old, ""), 0o500); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Chmod(w.snapshot(old, ""), 0o700) })
	got := w.must(t, exitFailed, "cleanup", "-confirm")
	contains(t, got.stdout, old+"  keep      not removed: ", "2 kept, 0 deleted")
	contains(t, got.stderr, "permission denied")
}

func TestDelete(t *testing.T) {
	w := newWorld(t)
	stamp := w.create(t, "-pin")
	contains(t, w.must(t, exitUsage, "delete", stamp).stderr, "-confirm")
	contains(t, w.must(t, exitUsage, "delete", "latest", "-confirm").stderr, "want the STAMP itself")
	if got := len(w.stamps(t)); got != 1 {
		t.Fatalf("%d snapshots are left, want 1", got)
	}
	if got := w.must(t, exitDone, "delete", stamp, "--confirm", "--json").fields(t); got["stamp"] != stamp || got["deleted"] != true {
		t.Errorf("-json: %v", got)
	}
	if got := len(w.stamps(t)); got != 0 {
		t.Errorf("%d snapshots are left, want none", got)
	}
	contains(t, w.must(t, exitFailed, "delete", "-confirm", stamp).stderr, "there is no snapshot "+stamp)
}
