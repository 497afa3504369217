package backup

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/ncruces/go-sqlite3"
)

// A verifier compares the entries of a snapshot with what is on disk.
type verifier struct {
	ctx     context.Context
	dir     *dir
	sources []Source // whose Checks are run
	level   Level

	legacy bool // the entries are an inventory: see there

	files    int
	bytes    int64
	problems []Problem

	meter *meter
}

func newVerifier(ctx context.Context, d *dir, sources []Source, level Level, m *meter) *verifier {
	return &verifier{ctx: ctx, dir: d, sources: sources, level: level, meter: m}
}

// verify examines every entry and looks for what is none. Its error is for
// not having come to the end.
func (v *verifier) verify(sources []SourceState, entries manifest) error {
	found, err := v.list(entries)
	if err != nil {
		return err
	}
	kinds := make(map[string]Kind)
	for _, src := range sources {
		kinds[src.Name] = src.Kind
	}
	missing := make(map[string]bool)
	for i := range entries {
		e := &entries[i]
		if err := v.ctx.Err(); err != nil {
			return err
		}
		fi, ok := found[string(e.Path)]
		if !ok {
			missing[string(e.Path)] = true
			if !missing[path.Dir(string(e.Path))] {
				v.add(e, missingCode(e, kinds[e.source()]), "")
			}
			continue
		}
		if err := v.entry(e, fi); err != nil {
			return err
		}
	}
	if v.legacy {
		v.totals(sources, entries)
	}
	return nil
}

// list returns what is on disk, by path, and notes what does not belong.
func (v *verifier) list(entries manifest) (map[string]fileInfo, error) {
	found := make(map[string]fileInfo)
	err := v.dir.walk(v.ctx, ".", func(_ place, name string, fi fileInfo) error {
		if name == "." || name == metadataName || name == manifestName {
			return nil
		}
		found[name] = fi
		if _, ok := entries.find(name); !ok && !v.legacy {
			src, _, _ := strings.Cut(name, "/")
			v.problems = append(v.problems, Problem{Code: CodeUnexpectedFile, Source: src, Path: name})
			if fi.isDir() {
				return fs.SkipDir
			}
		}
		return nil
	}, exceptGone) // what vanished is missing, if it belonged
	return found, err
}

// missingCode says what it is that is missing: of a source that has one
// file, its directory is as good as that.
func missingCode(e *entry, kind Kind) Code {
	switch {
	case string(e.Path) == e.source() && kind == Tree:
		return CodeTreeMissing
	case e.Type == typeDatabase || kind == Database:
		return CodeDatabaseMissing
	}
	return CodeFileMissing
}

func (v *verifier) add(e *entry, code Code, detail string) {
	v.problems = append(v.problems, Problem{Code: code, Source: e.source(), Path: string(e.Path), Detail: detail})
}

// entry examines one entry that is there.
func (v *verifier) entry(e *entry, fi fileInfo) error {
	switch {
	case e.Type == typeDir:
		if !fi.isDir() {
			v.add(e, CodeTypeMismatch, "not a directory")
		}
		return nil
	case e.Type == typeLink:
		target, err := v.dir.readlink(string(e.Path))
		if err != nil || target != string(e.Target) {
			v.add(e, CodeTypeMismatch, "not the link that was copied")
		}
		return nil
	case !fi.isRegular():
		v.add(e, CodeTypeMismatch, "not a regular file")
		return nil
	}
	v.files++
	v.bytes += fi.size
	if fi.size != e.Size {
		v.add(e, CodeSizeMismatch, fmt.Sprintf("%d bytes, and not %d", fi.size, e.Size))
		if e.Type != typeDatabase {
			return nil
		}
	}
	return v.content(e)
}

// content reads an entry's bytes, as far as the level asks.
func (v *verifier) content(e *entry) error {
	if v.level == ValidateStructure && e.Type != typeDatabase {
		return nil
	}
	f, info, err := v.dir.open(string(e.Path))
	if err != nil {
		v.add(e, CodeUnreadable, err.Error())
		return v.ctx.Err()
	}
	defer f.Close() // nothing was written
	if v.level != ValidateStructure && info.size == e.Size && e.SHA256 != "" {
		hash := sha256.New()
		if _, err := copyBytes(v.ctx, hash, io.NewSectionReader(f, 0, info.size), v.meter.of(e.source())); err != nil {
			v.add(e, CodeUnreadable, err.Error())
			return v.ctx.Err()
		}
		if hex.EncodeToString(hash.Sum(nil)) != e.SHA256 {
			v.add(e, CodeChecksumMismatch, "")
		}
	}
	if e.Type != typeDatabase {
		return nil
	}
	problems, err := checkCopy(v.ctx, f, info.size, v.level, v.hostCheck(e))
	for _, p := range problems {
		v.add(e, p.Code, p.Detail)
	}
	return err
}

// hostCheck returns the host's own test, if the entry is a Database's copy.
func (v *verifier) hostCheck(e *entry) func(context.Context, *sqlite3.Conn) error {
	for _, src := range v.sources {
		if src.Name == e.source() {
			return src.Check // which none but a Database has
		}
	}
	return nil
}

// totals compares the number of files and their bytes with what the Python
// module recorded, which is all that it did.
func (v *verifier) totals(sources []SourceState, entries manifest) {
	for _, src := range sources {
		damaged := slices.ContainsFunc(v.problems, func(p Problem) bool { return p.Source == src.Name })
		if !src.Captured || src.Kind == File || damaged {
			continue
		}
		files, bytes := entries.sum(src.Name)
		if files != src.Files || bytes != src.Bytes {
			v.problems = append(v.problems, Problem{
				Code: CodeSizeMismatch, Source: src.Name, Path: src.Path,
				Detail: fmt.Sprintf("%d files of %d bytes, and not %d of %d", files, bytes, src.Files, src.Bytes),
			})
		}
	}
}
