package backup

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"sync/atomic"
)

// readManifest reads what write wrote, of so many lines, and refuses anything
// else: entries out of order, entries without their directory, paths that lead
// out of the snapshot and, unless posixNames was recorded, paths that another
// system would take for such or for each other. The crew parses it.
func readManifest(ctx context.Context, crew *crew, r io.Reader, lines int, posixNames bool) (manifest, error) {
	m := make(manifest, lines)
	var parts []*manifestPart
	var refused atomic.Bool
	err := crew.run(ctx, func(ctx context.Context, _ func(error)) error {
		return m.eachPart(r, func(p *manifestPart) error {
			if refused.Load() {
				return errRefused
			}
			parts = append(parts, p)
			crew.start(func() {
				if p.parse(); p.err != nil {
					refused.Store(true)
				}
			})
			return ctx.Err()
		})
	})
	for _, p := range parts { // of which the first tells, whoever came first to its end
		if p.err != nil {
			return nil, p.err
		}
	}
	if err != nil {
		return nil, err
	}
	if err := m.checkPaths(); err != nil {
		return nil, err
	}
	if !posixNames && m.posixNames() {
		return nil, errors.New("paths with a backslash, or alike but for case")
	}
	return m, nil
}

// errRefused: a part is no manifest's, so that no more need be read.
var errRefused = errors.New("refused")

// A manifestPart is some lines of a manifest.
type manifestPart struct {
	text    string
	first   int     // the number of its first line, from 1
	entries []entry // one for each line, to be parsed
	err     error
}

// eachPart has all lines of a manifest used that has room for so many.
func (m manifest) eachPart(r io.Reader, use func(*manifestPart) error) error {
	in := bufio.NewReaderSize(r, manifestPartBytes)
	for read := 0; ; {
		text, lines, err := readLines(in)
		switch {
		case err != nil:
			return fmt.Errorf("line %d: %w", read+lines+1, err)
		case read+lines > len(m):
			return fmt.Errorf("more than the %d lines that there were", len(m))
		case lines == 0 && read < len(m):
			return fmt.Errorf("%d lines, and not the %d that there were", read, len(m))
		case lines == 0:
			return nil
		}
		if err := use(&manifestPart{text: text, first: read + 1, entries: m[read : read+lines]}); err != nil {
			return err
		}
		read += lines
	}
}

// So much is worth the while of handing it over.
const manifestPartBytes = 64 << 10

// readLines reads some lines, and returns how many: none at the end.
func readLines(r *bufio.Reader) (text string, lines int, err error) {
	var b strings.Builder
	b.Grow(manifestPartBytes + 1<<10)
	for begun := 0; b.Len() < manifestPartBytes || begun < b.Len(); {
		piece, err := r.ReadSlice('\n')
		b.Write(piece) // never fails
		switch {
		case b.Len()-begun > maxManifestLine:
			return "", lines, errors.New("it is too long")
		case err == nil:
			lines, begun = lines+1, b.Len()
		case err == bufio.ErrBufferFull: // the line goes on
		case err == io.EOF && begun == b.Len():
			return b.String(), lines, nil
		case err == io.EOF:
			return "", lines, io.ErrUnexpectedEOF
		default:
			return "", lines, err
		}
	}
	return b.String(), lines, nil
}

func (p *manifestPart) parse() {
	var again []byte
	rest := p.text
	for i := range p.entries {
		var line string
		line, rest, _ = strings.Cut(rest, "\n")
		if again, p.err = p.entries[i].parse(line, again); p.err != nil {
			p.err = fmt.Errorf("line %d: %w", p.first+i, p.err)
			return
		}
	}
}

// checkPaths refuses entries out of order, or without their directory.
func (m manifest) checkPaths() error {
	dirs := make(map[rawString]bool)
	for i := range m {
		e := &m[i]
		if i > 0 && e.Path <= m[i-1].Path {
			return fmt.Errorf("line %d: out of order", i+1)
		}
		if parent := path.Dir(string(e.Path)); parent != "." && !dirs[rawString(parent)] {
			return fmt.Errorf("line %d: %q is in no directory of the manifest", i+1, e.Path)
		}
		if e.Type == typeDir {
			dirs[e.Path] = true
		}
	}
	return nil
}

// A lineCounter counts the lines of what is written to it.
type lineCounter int

func (c *lineCounter) Write(p []byte) (int, error) {
	*c += lineCounter(bytes.Count(p, []byte("\n")))
	return len(p), nil
}

// parse reads what appendTo wrote. Nearly all lines can simply be cut at
// their keys and quotes, in a third of the time: whatever else one says, or
// says twice, is missing when it is written again. That is done to a buffer,
// which may be used again.
func (e *entry) parse(line string, buf []byte) ([]byte, error) {
	e.cut(line)
	buf, err := e.appendTo(buf[:0])
	if err == nil && string(buf) == line {
		return buf, e.validate()
	}
	*e = entry{}
	if err := parseJSON([]byte(line), e); err != nil {
		return buf, err
	}
	if buf, err = e.appendTo(buf[:0]); err != nil {
		return buf, err
	}
	if string(buf) != line {
		return buf, errNotCanonical
	}
	return buf, e.validate()
}
