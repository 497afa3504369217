package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/atocore/backup"
)

// isTerminal reports whether f is one that can redraw a line.
func isTerminal(f *os.File) bool {
	fi, err := f.Stat()
	return err == nil && fi.Mode()&os.ModeCharDevice != 0 && os.Getenv("TERM") != "dumb"
}

// A bar draws progress on one line of a terminal. What it writes may get
// lost: that is no reason to give up a backup.
type bar struct {
	w     io.Writer
	now   func() time.Time
	last  time.Time // when it was drawn
	width int       // of what is on the line
}

const (
	barInterval = 100 * time.Millisecond // between two drawings
	lineWidth   = 78                     // fits the narrowest terminal in use, and leaves the cursor on the line
)

func (b *bar) draw(p backup.Progress) {
	now := b.now()
	if now.Sub(b.last) < barInterval && b.width > 0 {
		return
	}
	b.last = now
	line := progressLine(p)
	b.put(line)
	b.width = len(line)
}

// erase leaves the line as it was before the first drawing.
func (b *bar) erase() {
	if b.width > 0 {
		b.put("")
		io.WriteString(b.w, "\r")
		b.width = 0
	}
}

// put overwrites the line, without escape sequences, which not every console
// knows.
func (b *bar) put(line string) {
	fmt.Fprintf(b.w, "\r%-*s", b.width, line)
}

// progressLine draws, in ASCII:
//
//	create db [###########--------]  58%  1.1 GiB of 1.9 GiB
func progressLine(p backup.Progress) string {
	const maxName = 24
	name := p.Source
	if len(name) > maxName {
		name = name[:maxName-3] + "..."
	}
	part := float64(p.Done) / float64(max(p.Total, p.Done, 1))
	head := fmt.Sprintf("%s %s [", p.Op, name)
	tail := fmt.Sprintf("] %3d%%  %s of %s", int(100*part), humanBytes(p.Done), humanBytes(p.Total))
	room := max(lineWidth-len(head)-len(tail), 0)
	filled := int(part * float64(room))
	return head + strings.Repeat("#", filled) + strings.Repeat("-", room-filled) + tail
}
