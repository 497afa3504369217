package backup

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
)

const (
	manifestName = "manifest.jsonl"
	metadataName = "backup-metadata.json"

	maxManifestBytes = 512 << 20 // some two million entries
	maxManifestLine  = 1 << 20   // a path, and what it may point to
)

// An entryType says what an entry of a snapshot is.
type entryType string

const (
	typeDir      entryType = "dir"
	typeFile     entryType = "file"
	typeDatabase entryType = "db"   // copied hot: SQLite's checks must pass
	typeRaw      entryType = "raw"  // a database's file, copied as it lay
	typeLink     entryType = "link" // a symbolic link
)

// holdsBytes reports whether the entry is a regular file in the snapshot.
func (t entryType) holdsBytes() bool {
	return t == typeFile || t == typeDatabase || t == typeRaw
}

// An entry is one line of a manifest. The first element of its path is the
// name of its source.
type entry struct {
	Path   rawString `json:"path"` // in the snapshot, slash-separated
	Type   entryType `json:"type"`
	Mode   string    `json:"mode,omitempty"` // permission bits of the source, octal
	MTime  time.Time `json:"mtime,omitzero"` // of the source
	Size   int64     `json:"size,omitempty"` // bytes
	SHA256 string    `json:"sha256,omitempty"`
	Target rawString `json:"target,omitempty"` // of a link

	// By which a later snapshot knows that the source has not changed: its
	// number, and when it was last changed in any way. They are left out if
	// that was too short a time before it was copied.
	Inode uint64    `json:"inode,omitempty"`
	CTime time.Time `json:"ctime,omitzero"`

	shared bool // in a new snapshot, with an earlier one

	// sound: bytes with this SHA256 have just passed SQLite's full checks, so
	// that others with the same need not be checked again.
	sound bool
}

func (e *entry) source() string {
	name, _, _ := strings.Cut(string(e.Path), "/")
	return name
}

// appendTo appends e as [json.Marshal] writes it, but several times as fast.
func (e *entry) appendTo(line []byte) ([]byte, error) {
	a := jsonAppender{text: line}
	a.addName(`{"path":`, e.Path)
	a.addString(`,"type":`, string(e.Type))
	a.addStringIfAny(`,"mode":`, e.Mode)
	a.addTimeIfAny(`,"mtime":`, e.MTime)
	a.addIntIfAny(`,"size":`, e.Size)
	a.addStringIfAny(`,"sha256":`, e.SHA256)
	a.addNameIfAny(`,"target":`, e.Target)
	a.addUintIfAny(`,"inode":`, e.Inode)
	a.addTimeIfAny(`,"ctime":`, e.CTime)
	return append(a.text, '}'), a.err
}

// cut takes apart what appendTo wrote of an entry without escapes. It is right
// if appendTo writes line again, and not before.
func (e *entry) cut(line []byte) {
	c := jsonCutter{rest: string(line)}
	e.Path = rawString(c.cutString(`{"path":`))
	e.Type = entryType(c.cutString(`,"type":`))
	e.Mode = c.cutString(`,"mode":`)
	e.MTime = c.cutTime(`,"mtime":`)
	e.Size = c.cutInt(`,"size":`)
	e.SHA256 = c.cutString(`,"sha256":`)
	e.Target = rawString(c.cutString(`,"target":`))
	e.Inode = c.cutUint(`,"inode":`)
	e.CTime = c.cutTime(`,"ctime":`)
}

func (e *entry) setAttributes(fi fileInfo) {
	e.Mode = formatPerm(fi.mode)
	if year := fi.mtime.UTC().Year(); year > 0 && year <= 9999 { // what RFC 3339 can say
		e.MTime = fi.mtime.UTC().Round(0)
	}
}

// setIdentity notes by what the source can be known again.
func (e *entry) setIdentity(fi fileInfo) {
	if year := fi.ctime.UTC().Year(); e.Type == typeFile && fi.inode != 0 && year > 1 && year <= 9999 && !e.MTime.IsZero() {
		e.Inode, e.CTime = fi.inode, fi.ctime.UTC().Round(0)
	}
}

func (e *entry) perm() fs.FileMode {
	perm, err := strconv.ParseUint(e.Mode, 8, 32)
	if err != nil {
		return 0 // of a link: validate has seen that others parse
	}
	return fs.FileMode(perm).Perm()
}

// formatPerm returns the permission bits as four octal digits.
func formatPerm(mode fs.FileMode) string {
	perm := mode.Perm()
	return string([]byte{'0', '0' + byte(perm>>6), '0' + byte(perm>>3&7), '0' + byte(perm&7)})
}

// validate refuses what no manifest of ours says.
func (e *entry) validate() error {
	if !localName(string(e.Path)) {
		return fmt.Errorf("path %q is not local", e.Path)
	}
	if e.Type != typeLink && formatPerm(e.perm()) != e.Mode {
		return fmt.Errorf("%q: no sound mode", e.Path)
	}
	sum, err := hex.DecodeString(e.SHA256)
	hashed := err == nil && len(sum) == sha256.Size
	known := e.Inode != 0 && !e.CTime.IsZero()
	if unknown := e.Inode == 0 && e.CTime.IsZero(); !unknown && (!known || e.Type != typeFile) {
		return fmt.Errorf("%q: inode %d and ctime %v of type %q", e.Path, e.Inode, e.CTime, e.Type)
	}
	switch {
	case e.Type.holdsBytes() && hashed && e.Size >= 0 && e.Target == "":
	case e.Type == typeDir && e.SHA256 == "" && e.Size == 0 && e.Target == "":
	case e.Type == typeLink && e.SHA256 == "" && e.Size == 0 && e.Target != "":
	default:
		return fmt.Errorf("%q: no sound entry of type %q", e.Path, e.Type)
	}
	return nil
}

// A manifest lists the entries of a snapshot, sorted by path.
type manifest []entry

func (m manifest) sort() {
	slices.SortFunc(m, func(a, b entry) int { return cmp.Compare(a.Path, b.Path) })
}

// find returns the entry at a path.
func (m manifest) find(p string) (*entry, bool) {
	i, ok := slices.BinarySearchFunc(m, rawString(p), func(e entry, p rawString) int { return cmp.Compare(e.Path, p) })
	if !ok {
		return nil, false
	}
	return &m[i], true
}

// sum returns how many files and bytes m has of a source.
func (m manifest) sum(source string) (files int, bytes int64) {
	for i := range m {
		if e := &m[i]; e.source() == source && e.Type.holdsBytes() {
			files++
			bytes += e.Size
		}
	}
	return files, bytes
}

// write writes one line per entry, and nothing that readers refuse: no more
// than limit bytes, which is maxManifestBytes.
func (m manifest) write(w io.Writer, limit int) error {
	buf := bufio.NewWriter(w)
	var line []byte
	size := 0 // bytes
	for i := range m {
		var err error
		if line, err = m[i].appendTo(line[:0]); err != nil {
			return err
		}
		if len(line) >= maxManifestLine {
			return fmt.Errorf("%.100q…: a path of %d bytes is too long", m[i].Path, len(m[i].Path))
		}
		if size += len(line) + len("\n"); size > limit {
			return fmt.Errorf("%d files and directories need a manifest of more than %d bytes: divide them among several stores", len(m), limit)
		}
		buf.Write(line) // its error stays and comes back from Flush
		buf.WriteByte('\n')
	}
	return buf.Flush()
}

// posixNames reports whether m has names that only a case-sensitive POSIX
// file system can hold: with a backslash, or alike but for case.
func (m manifest) posixNames() bool {
	seen := make(map[string]bool, len(m))
	for i := range m {
		folded := foldCase(string(m[i].Path))
		if seen[folded] || strings.Contains(folded, `\`) {
			return true
		}
		seen[folded] = true
	}
	return false
}

// foldCase returns the same for all names that are alike but for case: as
// [strings.EqualFold] has it, with the least rune for each.
func foldCase(name string) string {
	return strings.Map(func(r rune) rune {
		least := r
		for next := unicode.SimpleFold(r); next != r; next = unicode.SimpleFold(next) {
			least = min(least, next)
		}
		return least
	}, name)
}

// readManifest reads what write wrote, and refuses anything else: entries
// out of order, entries without their directory, paths that lead out of the
// snapshot and, unless posixNames was recorded, paths that another system
// would take for such or for each other. It has so many bytes, about.
func readManifest(r io.Reader, posixNames bool, size int64) (manifest, error) {
	const typicalLine = 200 // bytes
	m := make(manifest, 0, size/typicalLine)
	dirs := make(map[rawString]bool)
	lines := bufio.NewReaderSize(r, maxManifestLine)
	for {
		line, err := lines.ReadSlice('\n')
		if err == io.EOF && len(line) == 0 {
			if !posixNames && m.posixNames() {
				return nil, errors.New("paths with a backslash, or alike but for case")
			}
			return m, nil
		}
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", len(m)+1, err)
		}
		e, err := parseEntry(bytes.TrimSuffix(line, []byte("\n")))
		if err == nil && len(m) > 0 && e.Path <= m[len(m)-1].Path {
			err = errors.New("out of order")
		}
		if parent := path.Dir(string(e.Path)); err == nil && parent != "." && !dirs[rawString(parent)] {
			err = fmt.Errorf("%q is in no directory of the manifest", e.Path)
		}
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", len(m)+1, err)
		}
		if e.Type == typeDir {
			dirs[e.Path] = true
		}
		m = append(m, e)
	}
}

// parseEntry reads what appendTo wrote. Nearly all lines can simply be cut at
// their keys and quotes, in a third of the time: whatever else one says, or
// says twice, is missing when it is written again.
func parseEntry(line []byte) (entry, error) {
	var e entry
	e.cut(line)
	again, err := e.appendTo(make([]byte, 0, len(line)))
	if err == nil && bytes.Equal(again, line) {
		return e, e.validate()
	}
	e = entry{}
	if err := parseJSON(line, &e); err != nil {
		return entry{}, err
	}
	again, err = e.appendTo(again[:0])
	if err != nil {
		return entry{}, err
	}
	if !bytes.Equal(again, line) {
		return entry{}, errNotCanonical
	}
	return e, e.validate()
}
