package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/atocore/backup"
)

// TestMain lets the test binary stand in for the command: see child.
func TestMain(m *testing.M) {
	if os.Getenv("ATOBACKUP_TEST_MAIN") != "" {
		main()
	}
	os.Exit(m.Run())
}

// child returns the command as a process of its own.
func child(t *testing.T, args ...string) (cmd *exec.Cmd, stdout, stderr *bytes.Buffer) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd = exec.CommandContext(t.Context(), self, args...)
	cmd.Env = append(os.Environ(), "ATOBACKUP_TEST_MAIN=1")
	stdout, stderr = new(bytes.Buffer), new(bytes.Buffer)
	cmd.Stdout, cmd.Stderr = stdout, stderr
	return cmd, stdout, stderr
}

func TestProcess(t *testing.T) {
	w := newWorld(t)
	config := w.path("backup.json")
	for _, test := range []struct {
		args   []string
		code   int
		stdout string
		stderr string
	}{
		{[]string{"create", "-config", config}, exitDone, "created 2", ""},
		{[]string{"validate", "20200101T000000Z", "-config", config}, exitInvalid, "does not exist", "snapshot failed"},
		{[]string{"delete", "20200101T000000Z", "-config", config, "-confirm"}, exitFailed, "", "there is no snapshot"},
		{[]string{"list"}, exitUsage, "", "nothing to back up"},
	} {
		cmd, stdout, stderr := child(t, test.args...)
		err := cmd.Run()
		if _, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok {
			t.Fatal(err)
		}
		if got := cmd.ProcessState.ExitCode(); got != test.code {
			t.Errorf("%q: exit code %d, want %d", test.args, got, test.code)
		}
		contains(t, stdout.String(), test.stdout)
		contains(t, stderr.String(), test.stderr)
	}
}

// startBlocked starts a create that waits for a database, and returns once it
// does.
func startBlocked(t *testing.T, w *world, change func(*exec.Cmd)) (cmd *exec.Cmd, stdout, stderr *bytes.Buffer) {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("a process cannot be sent os.Interrupt on Windows")
	}
	w.exec(t, "PRAGMA journal_mode=DELETE")
	if err := w.open(t).Exec("BEGIN EXCLUSIVE"); err != nil {
		t.Fatal(err)
	}
	cmd, stdout, stderr = child(t, "create", "-json", "-busy-timeout", "1h", "-config", w.path("backup.json"))
	change(cmd)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() bool { return len(w.stamps(t)) > 0 })
	return cmd, stdout, stderr
}

// eventually asks another process's doings, again and again, until they are
// done.
func eventually(t *testing.T, done func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for range 30_000 {
		if done() {
			return
		}
		<-tick.C
	}
	t.Fatal("it never came about")
}

func TestSignal(t *testing.T) {
	w := newWorld(t)
	cmd, stdout, stderr := startBlocked(t, w, func(*exec.Cmd) {})
	contains(t, w.must(t, exitDone, "list").stdout, "incomplete, in use")
	contains(t, w.must(t, exitInvalid, "validate", "latest").stderr, "there is none") // that is done

	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); cmd.ProcessState.ExitCode() != exitFailed {
		t.Errorf("%v, want exit code %d\n%s%s", err, exitFailed, stdout, stderr)
	}
	contains(t, stderr.String(), "interrupt signal received", "interrupted before it was done")
	if got := w.stamps(t); len(got) > 0 {
		t.Errorf("left behind: %q", got)
	}
	fields := outcome{stdout: stdout.String()}.fields(t)
	contains(t, fields["error"].(string), "interrupt signal received")
}

// The second signal ends what the first one could not.
func TestSecondSignal(t *testing.T) {
	r, full, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer full.Close()
	full.SetWriteDeadline(time.Now().Add(10 * time.Millisecond))
	if _, err := full.Write(make([]byte, 8<<20)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Skipf("needs a pipe that gets full: %v", err)
	}
	cmd, _, _ := startBlocked(t, newWorld(t), func(cmd *exec.Cmd) { cmd.Stdout = full }) // it cannot tell its outcome
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	eventually(t, func() bool {
		cmd.Process.Signal(os.Interrupt) // no error but that it has ended
		return len(done) > 0
	})
	if err := <-done; cmd.ProcessState.ExitCode() != -1 {
		t.Errorf("%v, want an end by the signal", err)
	}
}

func TestCancelled(t *testing.T) {
	w := newWorld(t)
	stamp := w.create(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.Join(errors.New("the lights went out"), context.Canceled))
	for _, args := range [][]string{
		{"create"}, {"list"}, {"validate", stamp}, {"cleanup"}, {"restore", stamp, "-confirm-service-stopped"},
	} {
		var stdout, stderr bytes.Buffer
		p := &program{stdout: &stdout, stderr: &stderr, now: func() time.Time { return w.now }}
		code := p.run(ctx, append(args, "-config", w.path("backup.json")))
		if args[0] == "cleanup" && code == exitDone {
			continue // a dry run that has nothing to do may get done
		}
		if code != exitFailed {
			t.Errorf("%q: exit code %d, want %d", args, code, exitFailed)
		}
		contains(t, stderr.String(), "the lights went out", "interrupted before it was done")
	}
	if got := w.stamps(t); len(got) != 1 {
		t.Errorf("snapshots: %q, want one", got)
	}
}

// Whatever happens, -json prints one document, with "error" if it failed.
func TestJSONAlways(t *testing.T) {
	w := newWorld(t)
	stamp := w.create(t)
	damaged := w.create(t)
	w.damage(t, damaged, "db/app.db")
	for _, test := range []struct {
		code int
		args []string
		keys []string // beside "error"
	}{
		{exitDone, []string{"create"}, []string{"stamp", "sources", "validated"}},
		{exitDone, []string{"list"}, []string{"snapshots"}},
		{exitDone, []string{"validate", stamp}, []string{"stamp", "valid", "errors", "metadata"}},
		{exitDone, []string{"restore", stamp, "-dry-run"}, []string{"restored", "pre_restore_snapshot"}},
		{exitDone, []string{"recover"}, []string{"outcome"}},
		{exitDone, []string{"cleanup"}, []string{"dry_run", "decisions", "unparseable"}},
		{exitDone, []string{"delete", stamp, "-confirm"}, []string{"stamp", "deleted"}},
		{exitFailed, []string{"delete", stamp, "-confirm"}, nil},
		{exitInvalid, []string{"validate", damaged}, []string{"stamp", "valid", "errors", "problems"}},
		{exitInvalid, []string{"restore", damaged, "-dry-run"}, nil},
		{exitUsage, []string{"delete", stamp}, nil},
		{exitUsage, []string{"validate"}, nil},
		{exitUsage, []string{"validate", "nonsense"}, nil},
		{exitUsage, []string{"create", "-nonsense"}, nil},
		{exitUsage, []string{"create", "-json=true", "-nonsense"}, nil},
		{exitUsage, []string{"create", "-level", "nonsense"}, nil},
		{exitUsage, []string{"nonsense"}, nil},
		{exitUsage, []string{"create", "-source", "name=x"}, nil},
		{exitUsage, []string{"create", "-config", "/nonexistent"}, nil},
	} {
		if !slices.Contains(test.args, "-json=true") {
			test.args = append(test.args, "--json")
		}
		got := w.must(t, test.code, test.args...)
		fields := got.fields(t)
		if _, ok := fields["error"]; ok != (test.code != exitDone) {
			t.Errorf("%q: error is %v with exit code %d", test.args, fields["error"], test.code)
		}
		if (got.stderr != "") != (test.code != exitDone) {
			t.Errorf("%q: stderr is %q with exit code %d", test.args, got.stderr, test.code)
		}
		for _, key := range test.keys {
			if _, ok := fields[key]; !ok {
				t.Errorf("%q: no %q in %v", test.args, key, fields)
			}
		}
	}
}

func TestHelp(t *testing.T) {
	w := newWorld(t)
	w.noConfig = true
	for _, args := range [][]string{{"help"}, {"-h"}, {"--help"}} {
		got := w.must(t, exitDone, args...)
		contains(t, got.stdout, "usage: atobackup VERB", "  restore STAMP|latest  ", "  delete STAMP  ")
	}
	for _, args := range [][]string{{"help", "restore"}, {"restore", "-h"}, {"restore", "latest", "--help"}} {
		got := w.must(t, exitDone, args...)
		contains(t, got.stdout, "usage: atobackup restore -config FILE [flags] STAMP|latest\n", "  -no-pre-snapshot  ", "  -config FILE  ", "  -keep-daily N  ")
	}
	contains(t, w.must(t, exitUsage, "help", "nonsense").stderr, `"nonsense" is no verb`)

	var stdout, stderr bytes.Buffer
	if code := (&program{stdout: &stdout, stderr: &stderr}).run(t.Context(), nil); code != exitUsage {
		t.Errorf("without arguments: exit code %d, want %d", code, exitUsage)
	}
	contains(t, stderr.String(), "usage: atobackup VERB")
}

func TestOperands(t *testing.T) {
	w := newWorld(t)
	for _, test := range []struct {
		want string
		args []string
	}{
		{`list: unexpected argument "20260411T130100Z"`, []string{"list", "20260411T130100Z"}},
		{"validate: want one STAMP", []string{"validate", "-json"}},
		{"and not 2", []string{"validate", "20260411T130100Z", "-json", "latest"}},
		{"flag provided but not defined: -confirm", []string{"validate", "latest", "-confirm"}},
		{"want KEY=TEXT", []string{"create", "-label", "x"}},
		{"want KEY=TEXT", []string{"create", "-label", "x=1", "-label", "x=2"}},
		{"want one of [full quick structure]", []string{"create", "-level", "deep"}},
	} {
		contains(t, w.must(t, exitUsage, test.args...).stderr, test.want)
	}
}

func TestOutputIsPrintable(t *testing.T) {
	var stdout, stderr bytes.Buffer
	p := &program{stdout: &stdout, stderr: &stderr}
	p.report(&output{text: func(w io.Writer) { io.WriteString(w, "out\x1b[2J\n") }}, errors.New("err\x1b[2J"), false)
	if got, want := stdout.String(), "out\\x1b[2J\n"; got != want {
		t.Errorf("stdout %q, want %q", got, want)
	}
	if got, want := stderr.String(), "atobackup: err\\x1b[2J\n"; got != want {
		t.Errorf("stderr %q, want %q", got, want)
	}
}

// A failure to tell the outcome is a failure.
func TestStdoutFails(t *testing.T) {
	w := newWorld(t)
	var stderr bytes.Buffer
	p := &program{stdout: brokenWriter{}, stderr: &stderr, now: func() time.Time { return w.now }}
	if code := p.run(t.Context(), []string{"create", "-config", w.path("backup.json")}); code != exitFailed {
		t.Errorf("exit code %d, want %d", code, exitFailed)
	}
	contains(t, stderr.String(), "print the outcome: broken")
}

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, errors.New("broken") }

func TestExitCodeAndAdvice(t *testing.T) {
	for _, test := range []struct {
		err    error
		code   int
		advice string
	}{
		{nil, exitDone, ""},
		{errors.New("x"), exitFailed, ""},
		{usagef("x"), exitUsage, "atobackup help"},
		{backup.ErrInvalidStamp, exitUsage, "atobackup list"},
		{backup.ErrUnknownSource, exitUsage, "atobackup list"},
		{backup.ErrInvalidSnapshot, exitInvalid, "atobackup validate"},
		{backup.ErrRecoveryPending, exitFailed, "atobackup recover"},
		{backup.ErrServiceRunning, exitFailed, "stop everything"},
		{backup.ErrBusy, exitFailed, "-busy-timeout"},
		{errors.Join(backup.ErrBusy, context.Canceled), exitFailed, "interrupted"},
		{backup.ErrNoSpace, exitFailed, "atobackup cleanup"},
		{backup.ErrDurabilityUnknown, exitFailed, "power cut"},
		{os.ErrPermission, exitFailed, "run it as a user"},
	} {
		if got := exitCode(test.err); got != test.code {
			t.Errorf("%v: exit code %d, want %d", test.err, got, test.code)
		}
		if test.err == nil {
			continue
		}
		if got := advice(test.err); !strings.Contains(got, test.advice) || (got == "") != (test.advice == "") {
			t.Errorf("%v: advice %q, want %q", test.err, got, test.advice)
		}
	}
}
