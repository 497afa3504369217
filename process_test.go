package backup_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/afero"

	"github.com/atocore/backup"
)

// These tests have one store used by many at once: by goroutines, and by
// processes, some of which are killed. The processes are this test binary
// again, and are kept in step through pipes.

// A peerOrder is what a peer process is to do.
type peerOrder struct {
	Root string
	Do   string    // "chaos", "create", or what is to stop in the middle: "hold create", "hold validate", "hold restore"
	Of   string    // the stamp of what is held
	Seed uint64    // of chaos
	Now  time.Time // of create and hold
}

const peerEnv = "BACKUP_TEST_PEER" // a peerOrder

// TestPeerProcess is a part of other tests; by itself it is no test.
func TestPeerProcess(t *testing.T) {
	order := os.Getenv(peerEnv)
	if order == "" {
		t.Skip("a part of other tests")
	}
	var o peerOrder
	if err := json.Unmarshal([]byte(order), &o); err != nil {
		t.Fatal(err)
	}
	if err := o.carryOut(t); err != nil {
		say("error: %v", err)
	}
	say("done")
}

func (o *peerOrder) carryOut(t *testing.T) error {
	w := &world{fs: afero.NewOsFs(), root: o.Root, now: o.Now}
	op, held := strings.CutPrefix(o.Do, "hold ")
	switch {
	case held:
		s := w.peerStore(t, during(op, "db", func() {
			say("held")
			await()
		}))
		return holdable[op](t.Context(), s, o.Of)
	case o.Do == "create":
		s := w.peerStore(t, func(cfg *backup.Config) { cfg.Now = func() time.Time { return o.Now } })
		say("ready")
		await()
		snap, err := s.Create(t.Context(), nil)
		if err == nil {
			say("created %s", snap.Stamp)
		}
		return err
	}
	rng := rand.New(rand.NewPCG(o.Seed, 1))
	s := w.peerStore(t, fastClock, func(cfg *backup.Config) { cfg.Progress = func(backup.Progress) { say("progress") } })
	for range 6 {
		say("progress")
		if err := anything(t.Context(), s, rng); err != nil {
			return err
		}
	}
	return nil
}

// holdable are the operations that are stopped in their middle.
var holdable = map[string]func(ctx context.Context, s *backup.Store, stamp string) error{
	"create": func(ctx context.Context, s *backup.Store, _ string) error {
		_, err := s.Create(ctx, nil)
		return err
	},
	"validate": func(ctx context.Context, s *backup.Store, stamp string) error {
		r, err := s.Validate(ctx, stamp, nil)
		if err == nil {
			err = r.Err()
		}
		return err
	},
	"restore": func(ctx context.Context, s *backup.Store, stamp string) error {
		_, err := s.Restore(ctx, stamp, &backup.RestoreOptions{ConfirmServiceStopped: true, SkipSafetySnapshot: true})
		return err
	},
}

// during returns a change of a Config that calls hook at the first progress
// of an operation with a source.
func during(op, source string, hook func()) func(*backup.Config) {
	hook = sync.OnceFunc(hook)
	return func(cfg *backup.Config) {
		cfg.Progress = func(p backup.Progress) {
			if p.Op == op && p.Source == source {
				hook()
			}
		}
	}
}

// say tells the parent. Its lines are told from what package testing prints
// by how they begin.
func say(format string, args ...any) { fmt.Printf("\n> "+format+"\n", args...) }

// await waits for a word from the parent, or for its end.
func await() { fmt.Scanln() }

// A peer is a process that a test has started.
type peer struct {
	cmd   *exec.Cmd
	stdin io.WriteCloser
	lines *bufio.Scanner
}

func startPeer(t *testing.T, o peerOrder) *peer {
	t.Helper()
	order, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	p := &peer{cmd: rerun(t, "TestPeerProcess", peerEnv+"="+string(order))}
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.lines = bufio.NewScanner(out)
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.cmd.Process.Kill() }) // unless it has ended
	return p
}

// next returns what the peer says next, and "" at its end.
func (p *peer) next() string {
	for p.lines.Scan() {
		if line, ok := strings.CutPrefix(p.lines.Text(), "> "); ok {
			return line
		}
	}
	return ""
}

// expect returns what follows a word that the peer must say next.
func (p *peer) expect(t *testing.T, word string) string {
	t.Helper()
	said := p.next()
	rest, ok := strings.CutPrefix(said, word)
	if !ok {
		t.Fatalf("the peer says %q, and not %s", said, word)
	}
	return strings.TrimSpace(rest)
}

func (p *peer) goOn(t *testing.T) {
	t.Helper()
	if _, err := io.WriteString(p.stdin, "\n"); err != nil {
		t.Error(err)
	}
}

// kill ends the peer as the kernel ends who has used too much memory.
func (p *peer) kill(t *testing.T) {
	t.Helper()
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Error(err)
	}
	p.mustSayNoError(t)
	_ = p.cmd.Wait() // it was killed
}

// end waits for a peer to end by itself.
func (p *peer) end(t *testing.T) {
	t.Helper()
	p.mustSayNoError(t)
	if err := p.cmd.Wait(); err != nil {
		t.Errorf("peer: %v", err)
	}
}

// mustSayNoError hears the peer to its end.
func (p *peer) mustSayNoError(t *testing.T) {
	t.Helper()
	for line := p.next(); line != ""; line = p.next() {
		if strings.HasPrefix(line, "error") {
			t.Error(line)
		}
	}
}

// fastClock runs a thousand times as fast as time does, and alike in all
// processes: many snapshots have a second each.
func fastClock(cfg *backup.Config) {
	cfg.Now = func() time.Time { return start.Add(time.Since(start) % (24 * time.Hour) * 1000) }
}

// peerStore is a store of a world in which everything is captured always.
func (w *world) peerStore(t *testing.T, changes ...func(*backup.Config)) *backup.Store {
	t.Helper()
	always := func(cfg *backup.Config) { cfg.Sources[2].OnRequest = false }
	return w.store(t, append([]func(*backup.Config){always}, changes...)...)
}

// anything does one thing to a store that others use too. What may come of
// that is no error.
func anything(ctx context.Context, s *backup.Store, rng *rand.Rand) error {
	list, err := s.List(ctx)
	if err != nil {
		return err
	}
	op := rng.IntN(7)
	if len(list) == 0 {
		op = 0
	}
	pick := func() string { return list[rng.IntN(len(list))].Stamp }
	switch op {
	case 0, 1:
		_, err = s.Create(ctx, nil)
	case 2:
		err = soundOrGone(s.Validate(ctx, pick(), &backup.ValidateOptions{Level: backup.Level(rng.IntN(3))}))
	case 3, 4:
		_, err = s.Restore(ctx, pick(), &backup.RestoreOptions{ConfirmServiceStopped: true, SkipSafetySnapshot: op == 3})
	case 5:
		_, err = s.Cleanup(ctx, &backup.CleanupOptions{Confirm: true, Retention: &backup.Retention{Last: 3}})
	case 6:
		err = s.Delete(ctx, list[len(list)-1].Stamp)
	}
	if errors.Is(err, backup.ErrRecoveryPending) {
		_, err = s.Recover(ctx)
	}
	if err == nil || errors.Is(err, backup.ErrBusy) || isGone(err) {
		return nil
	}
	return fmt.Errorf("operation %d: %w", op, err)
}

// isGone reports whether an error says no more than that somebody has removed
// a snapshot, or never finished it.
func isGone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) && !errors.Is(err, backup.CodeFileMissing) && !errors.Is(err, backup.CodeDatabaseMissing)
}

// soundOrGone returns an error for a snapshot that is neither: nobody may
// remove one while it is looked at.
func soundOrGone(r *backup.Report, err error) error {
	if err != nil {
		return err
	}
	for _, p := range r.Problems {
		if p.Code != backup.CodeSnapshotMissing && p.Code != backup.CodeMetadataMissing {
			return fmt.Errorf("snapshot %s: %w", r.Stamp, r.Err())
		}
	}
	return nil
}

// writeGeneration gives every source the same number.
func (w *world) writeGeneration(t *testing.T, n int) {
	t.Helper()
	w.exec(t, "data/atocore.db", fmt.Sprintf(`PRAGMA page_size=512; PRAGMA journal_mode=WAL;
		CREATE TABLE IF NOT EXISTS g (x, pad); DELETE FROM g; INSERT INTO g VALUES (%d, zeroblob(20000))`, n))
	for _, name := range []string{"config/project-registry.json", "chroma/a", "chroma/dir/b"} {
		w.write(t, name, fmt.Sprint(n))
	}
}

// mustBeOneGeneration checks that all of the live state is of one.
func (w *world) mustBeOneGeneration(t *testing.T) {
	t.Helper()
	n := w.read(t, "config/project-registry.json")
	want := map[string]string{"database": n, "integrity": "ok", "chroma/a": n, "chroma/dir/b": n}
	got := map[string]string{
		"database": w.query(t, "data/atocore.db", "SELECT x FROM g"), "integrity": w.query(t, "data/atocore.db", "PRAGMA integrity_check"),
		"chroma/a": w.read(t, "chroma/a"), "chroma/dir/b": w.read(t, "chroma/dir/b"),
	}
	if diff := cmp.Diff(got, want); diff != "" {
		t.Errorf("live state (-got +want):\n%s", diff)
	}
	if left, err := filepath.Glob(w.path("*/.atobackup-*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// mustHaveWholeSnapshots checks that what lists as whole is, and of one
// generation each, and that nobody holds anything.
func (w *world) mustHaveWholeSnapshots(t *testing.T, s *backup.Store) {
	t.Helper()
	whole := 0
	for _, snap := range w.list(t, s) {
		if snap.InUse {
			t.Errorf("%s is in use, and nobody is there", snap.Stamp)
		}
		if !snap.HasMetadata {
			continue
		}
		whole++
		if r := w.validate(t, s, snap.Stamp, nil); !r.Valid || !snap.Validated {
			t.Errorf("%s lists as whole, with %v, and is %v", snap.Stamp, snap.Problems, r.Err())
		}
		n := w.read(t, in(snap.Stamp, "config/project-registry.json"))
		for _, name := range []string{"chroma/a", "chroma/dir/b"} {
			if got := w.read(t, in(snap.Stamp, name)); got != n {
				t.Errorf("%s: %s is of generation %s, and the file of %s", snap.Stamp, name, got, n)
			}
		}
		if got := w.queryCopy(t, &snap, "db/atocore.db", "SELECT x FROM g"); got != n {
			t.Errorf("%s: the database is of generation %s, and the file of %s", snap.Stamp, got, n)
		}
	}
	if whole == 0 {
		t.Error("no snapshot is left")
	}
}

// Processes do everything at once, and most are killed at any instant.
func TestStoreSurvivesKilledProcesses(t *testing.T) {
	w := osWorld(t)
	s := w.peerStore(t, fastClock)
	rng := rand.New(rand.NewPCG(2026, 4))
	rounds := 4
	if *rotFull {
		rounds = 100
	}
	pending := 0
	for round := range rounds {
		w.writeGeneration(t, round)
		if _, err := s.Create(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		var peers sync.WaitGroup
		for range 4 {
			p, instant := startPeer(t, peerOrder{Root: w.root, Do: "chaos", Seed: rng.Uint64()}), rng.IntN(60)
			peers.Go(func() {
				for range instant {
					if line := p.next(); strings.HasPrefix(line, "error") {
						t.Error(line)
					}
				}
				if instant%4 == 0 {
					p.end(t)
				} else {
					p.kill(t)
				}
			})
		}
		for range 3 {
			if err := anything(t.Context(), s, rng); err != nil {
				t.Errorf("the parent: %v", err)
			}
		}
		peers.Wait()
		r, err := s.Recover(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if r.Outcome != backup.NothingPending {
			pending++
		}
		w.mustBeOneGeneration(t)
		w.mustHaveWholeSnapshots(t, s)
	}
	t.Logf("%d of %d rounds left a restore pending", pending, rounds)
	for _, stamp := range w.stamps(t, s) { // what was killed holds none of them
		if err := s.Delete(t.Context(), stamp); err != nil {
			t.Errorf("delete: %v", err)
		}
	}
}

// Processes want the same second at the same moment.
func TestProcessesThatRaceForAStampGetOneEach(t *testing.T) {
	w := osWorld(t)
	w.writeGeneration(t, 1)
	var want []string
	for round := range 3 {
		now := start.Add(time.Duration(round)*time.Hour + 123*time.Millisecond)
		var peers []*peer
		for i := range 3 {
			p := startPeer(t, peerOrder{Root: w.root, Do: "create", Now: now})
			p.expect(t, "ready")
			peers = append(peers, p)
			want = append(want, now.Add(time.Duration(i)*time.Second).Format("20060102T150405Z"))
		}
		for _, p := range peers {
			p.goOn(t)
		}
		var got []string
		for _, p := range peers {
			got = append(got, p.expect(t, "created"))
			p.end(t)
		}
		slices.Sort(got)
		if diff := cmp.Diff(got, want[3*round:]); diff != "" {
			t.Errorf("created (-got +want):\n%s", diff)
		}
	}
	s := w.peerStore(t)
	list := w.list(t, s)
	if len(list) != len(want) {
		t.Errorf("%d snapshots, want %d", len(list), len(want))
	}
	for _, snap := range list {
		if snap.CreatedAt.Second() != 0 || snap.CreatedAt.Nanosecond() != 123e6 {
			t.Errorf("%s: created at %v, and not at the true time", snap.Stamp, snap.CreatedAt)
		}
	}
	w.mustHaveWholeSnapshots(t, s)
}

// mustNotBeRemoved tries to remove a snapshot that somebody uses. What is
// locked is not waited for; during a restore that is the whole store.
func (w *world) mustNotBeRemoved(t *testing.T, s *backup.Store, stamp string, store bool) {
	t.Helper()
	before := w.tree(t, in(stamp, ""))
	impatient := func() context.Context {
		ctx, cancel := context.WithCancel(t.Context())
		return &waiting{Context: ctx, enough: 1, waited: cancel}
	}
	if err := s.Delete(impatient(), stamp); !errors.Is(err, backup.ErrBusy) {
		t.Errorf("delete: got %v, want %v", err, backup.ErrBusy)
	}
	if store {
		if _, err := s.Cleanup(impatient(), removeAllButNewest); !errors.Is(err, backup.ErrBusy) {
			t.Errorf("cleanup: got %v, want %v", err, backup.ErrBusy)
		}
	} else if _, err := s.Cleanup(t.Context(), removeAllButNewest); err != nil {
		t.Errorf("cleanup: %v", err)
	}
	if snap := w.listed(t, s, stamp); !snap.InUse {
		t.Errorf("it lists as free: %+v", snap)
	}
	if diff := cmp.Diff(w.tree(t, in(stamp, "")), before); diff != "" {
		t.Errorf("%s (-got +want):\n%s", stamp, diff)
	}
}

// Another process is stopped in the middle of an operation: what it uses
// cannot be removed, until it goes on or is killed.
func TestNothingIsRemovedThatAnotherProcessUses(t *testing.T) {
	for op := range holdable {
		for _, end := range []string{"goes_on", "is_killed"} {
			t.Run(op+"_"+end, func(t *testing.T) {
				w := osWorld(t)
				w.writeGeneration(t, 1)
				stamps := w.createOn(t, w.peerStore(t), day("2026-04-01"), day("2026-04-02"))
				used := stamps[0]
				if op == "create" {
					used = "20260301T120100Z" // by the peer's clock
				}
				p := startPeer(t, peerOrder{Root: w.root, Do: "hold " + op, Of: used, Now: day("2026-03-01")})
				p.expect(t, "held")

				w.now = day("2027-04-01") // all is old
				s := w.peerStore(t)
				w.mustNotBeRemoved(t, s, used, op == "restore")
				if end == "is_killed" {
					p.kill(t)
				} else {
					p.goOn(t)
					p.end(t)
				}
				if _, err := s.Recover(t.Context()); err != nil {
					t.Fatal(err)
				}
				w.mustBeOneGeneration(t)
				w.mustHaveWholeSnapshots(t, s)
				if _, err := s.Cleanup(t.Context(), removeAllButNewest); err != nil {
					t.Error(err)
				}
				if diff := cmp.Diff(w.stamps(t, s), stamps[1:]); diff != "" {
					t.Errorf("left by Cleanup (-got +want):\n%s", diff)
				}
			})
		}
	}
}

// Goroutines do everything at once, through one store and through others.
func TestStoreServesManyGoroutines(t *testing.T) {
	memoryAndOs(t, func(t *testing.T, w *world) {
		w.writeGeneration(t, 1)
		w.exec(t, "data/atocore.db", "PRAGMA journal_mode=DELETE") // in memory, readers of a WAL take turns
		shared := w.peerStore(t, fastClock)
		mustCreate(t, shared)
		var all sync.WaitGroup
		for i := range uint64(16) {
			s := shared
			if i%2 == 0 {
				s = w.peerStore(t, fastClock)
			}
			all.Go(func() {
				rng := rand.New(rand.NewPCG(i, 3))
				for range 2 {
					if err := anything(t.Context(), s, rng); err != nil {
						t.Error(err)
					}
				}
			})
		}
		all.Wait()
		w.mustBeOneGeneration(t)
		w.mustHaveWholeSnapshots(t, shared)
	})
}
