package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/atocore/backup"
)

func TestHumanBytes(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 1536: "1.5 KiB", 1<<20 - 1: "1.0 MiB", 1023 * 1024: "1023.0 KiB",
		484 << 20: "484.0 MiB", 5 << 40: "5.0 TiB", 1<<63 - 1: "8.0 EiB",
	} {
		if got := humanBytes(n); got != want {
			t.Errorf("%d: %q, want %q", n, got, want)
		}
	}
}

func TestHumanAge(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Second: "future", 0: "0s", 59999 * time.Millisecond: "59s", time.Minute: "1m", 59 * time.Minute: "59m",
		time.Hour: "1h", 24*time.Hour - 1: "23h", 24 * time.Hour: "1d", 400 * 24 * time.Hour: "400d",
	} {
		if got := humanAge(d); got != want {
			t.Errorf("%v: %q, want %q", d, got, want)
		}
	}
}

func TestPrintable(t *testing.T) {
	if got, want := printable("ä \x1b[31m\t\u009b\n"), "ä "+`\x1b[31m\t\u009b`+"\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestState(t *testing.T) {
	problem := func(code backup.Code) []backup.Problem { return []backup.Problem{{Code: code}, {Code: code}} }
	for want, s := range map[string]backup.Snapshot{
		"ok":                          {HasMetadata: true, Validated: true},
		"ok, pinned, in use":          {HasMetadata: true, Validated: true, Pinned: true, InUse: true},
		"incomplete, in use":          {Problems: problem(backup.CodeMetadataMissing), InUse: true},
		"invalid: unreadable":         {Problems: problem(backup.CodeUnreadable)},
		"invalid: db_corrupt, pinned": {HasMetadata: true, Pinned: true, Problems: problem(backup.CodeDatabaseCorrupt)},
		"not validated":               {HasMetadata: true, Origin: backup.OriginATOCore},
	} {
		if got := state(&s); got != want {
			t.Errorf("%+v: %q, want %q", s, got, want)
		}
	}
}

func TestProblemsAreCut(t *testing.T) {
	var b strings.Builder
	writeProblems(&b, make([]backup.Problem, 22))
	if got := strings.Count(b.String(), "\n"); got != 21 {
		t.Errorf("%d lines, want 21", got)
	}
	contains(t, b.String(), "and 2 problems more: see -json")

	b.Reset()
	writeProblems(&b, []backup.Problem{{Code: backup.CodeDatabaseCorrupt, Detail: strings.Repeat("page\n", 99) + "page"}})
	contains(t, b.String(), "and 96 lines more: see -json")
}

// A screen is one line of a terminal.
type screen struct {
	bytes.Buffer
}

// line returns what can be seen: "\r" goes back to the beginning.
func (s *screen) line() string {
	var line []byte
	at := 0
	for _, c := range s.Bytes() {
		switch {
		case c == '\r':
			at = 0
			continue
		case at == len(line):
			line = append(line, c)
		default:
			line[at] = c
		}
		at++
	}
	return strings.TrimRight(string(line), " ")
}

func TestBar(t *testing.T) {
	var s screen
	now := time.Date(2026, 4, 11, 10, 0, 0, 0, time.UTC)
	b := &bar{w: &s, now: func() time.Time { return now }}
	b.erase()
	if s.Len() > 0 {
		t.Errorf("erased what was not there: %q", s.String())
	}

	b.draw(backup.Progress{Op: "restore", Source: "chroma", Total: 2 << 30})
	if got, want := s.line(), "restore chroma ["+strings.Repeat("-", 40)+"]   0%  0 B of 2.0 GiB"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	drawn := s.Len()
	now = now.Add(99 * time.Millisecond)
	b.draw(backup.Progress{Op: "restore", Source: "chroma", Done: 1 << 30, Total: 2 << 30})
	if s.Len() != drawn {
		t.Error("drawn again within 100 ms")
	}
	now = now.Add(time.Millisecond)
	b.draw(backup.Progress{Op: "create", Source: "db", Done: 1 << 30, Total: 2 << 30})
	if got, want := s.line(), "create db ["+strings.Repeat("#", 20)+strings.Repeat("-", 21)+"]  50%  1.0 GiB of 2.0 GiB"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	b.erase()
	if got := s.line(); got != "" {
		t.Errorf("after erase: %q", got)
	}
	if !strings.HasSuffix(s.String(), "\r") {
		t.Errorf("the cursor is not where it was: %q", s.String())
	}
}

func TestProgressLine(t *testing.T) {
	for _, p := range []backup.Progress{
		{},
		{Op: "validate", Source: strings.Repeat("x", 100), Done: 1023 << 50, Total: 1023 << 50},
		{Op: "validate", Source: "db", Done: 1023 << 30, Total: 1023 << 30},
	} {
		line := progressLine(p)
		if len(line) != lineWidth {
			t.Errorf("%d columns, want %d: %s", len(line), lineWidth, line)
		}
		if full := p.Total > 0; strings.Contains(line, "-]") == full || strings.Contains(line, "100%") != full {
			t.Errorf("%+v: %s", p, line)
		}
	}
}

// A bar is drawn on a terminal alone, and nothing is left of it.
func TestProgressOfRun(t *testing.T) {
	w := newWorld(t)
	if got := w.must(t, exitDone, "create").stderr; got != "" {
		t.Errorf("not on a terminal: %q", got)
	}
	w.terminal = true
	for _, args := range [][]string{{"create", "-json"}, {"validate", "latest"}, {"restore", "latest", "-confirm-service-stopped"}} {
		var s screen
		s.WriteString(w.must(t, exitDone, args...).stderr)
		contains(t, s.String(), "] ", "%  ")
		if got := s.line(); got != "" {
			t.Errorf("%q: left on the screen: %q", args, got)
		}
	}
}
