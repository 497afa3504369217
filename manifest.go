package backup

import (
	"bufio"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

const (
	manifestName = "manifest.jsonl"
	metadataName = "backup-metadata.json"

	maxManifestBytes = 512 << 20 // some two million entries
	maxManifestLine  = 1 << 20   // a path, and what it may point to
	minManifestLine  = len(`{"path":"a","type":"dir","mode":"0700"}` + "\n")
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
func (e *entry) cut(line string) {
	c := jsonCutter{rest: line}
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
	hashed := isSHA256(e.SHA256)
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

// isSHA256 reports whether a string is a SHA-256 in hexadecimal.
func isSHA256(s string) bool {
	var sum [sha256.Size]byte
	if len(s) != hex.EncodedLen(len(sum)) {
		return false
	}
	_, err := hex.Decode(sum[:], []byte(s))
	return err == nil
}

// A manifest lists the entries of a snapshot, sorted by path.
type manifest []entry

func (m manifest) sort() {
	slices.SortFunc(m, func(a, b entry) int { return cmp.Compare(a.Path, b.Path) })
}

// find returns the entry at a path.
func (m manifest) find(p string) (*entry, bool) {
	c := cursor{in: m}
	return c.find(p)
}

// A cursor finds entries of a manifest: at once, if it is asked for one after the
// other in their order.
type cursor struct {
	in   manifest
	next int // the entry after the one that was found last
}

func (c *cursor) find(p string) (*entry, bool) {
	if c.next < len(c.in) && string(c.in[c.next].Path) == p {
		c.next++
		return &c.in[c.next-1], true
	}
	i, ok := slices.BinarySearchFunc(c.in, rawString(p), func(e entry, p rawString) int { return cmp.Compare(e.Path, p) })
	if !ok {
		return nil, false
	}
	c.next = i + 1
	return &c.in[i], true
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
	buf := bufio.NewWriterSize(w, manifestPartBytes)
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
	cased := false // without capitals, and letters beyond ASCII, no two are alike
	for i := range m {
		name := string(m[i].Path)
		if strings.Contains(name, `\`) {
			return true
		}
		cased = cased || strings.ContainsFunc(name, func(r rune) bool { return r >= utf8.RuneSelf || unicode.IsUpper(r) })
	}
	return cased && m.alikeButForCase()
}

func (m manifest) alikeButForCase() bool {
	seen := make(map[string]bool, len(m))
	for i := range m {
		folded := foldCase(string(m[i].Path))
		if seen[folded] {
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
		if r < utf8.RuneSelf { // as most are: the least is the capital letter
			return unicode.ToUpper(r)
		}
		least := r
		for next := unicode.SimpleFold(r); next != r; next = unicode.SimpleFold(next) {
			least = min(least, next)
		}
		return least
	}, name)
}
