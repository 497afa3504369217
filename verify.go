package backup

import (
	"context"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"sync"

	"github.com/ncruces/go-sqlite3"
	"github.com/spf13/afero"
)

// A verifier compares the entries of a snapshot with what is on disk, once.
type verifier struct {
	ctx     context.Context
	sources []Source // whose Checks are run
	level   Level
	crew    *crew

	legacy bool // the entries are an inventory: see there

	files    int
	bytes    int64
	problems []Problem

	meter *meter

	mu     sync.Mutex // members of the crew add to what is known of entries
	wrong  map[*entry][]Problem
	sound  []*entry // databases that have passed: see entry.sound
	unread []error  // what the problems of what could not be read were
}

func newVerifier(ctx context.Context, crew *crew, sources []Source, level Level, m *meter) *verifier {
	return &verifier{
		ctx: ctx, crew: crew, sources: sources, level: level, meter: m,
		wrong: make(map[*entry][]Problem),
	}
}

// verify examines every entry and looks for what is none. Its error is for
// not having come to the end. What it finds is in the order of the entries,
// whatever has been examined first.
func (v *verifier) verify(d *dir, sources []SourceState, entries manifest) error {
	var present map[*entry]bool
	err := v.run(func() (err error) {
		present, err = v.walk(d, entries)
		return err
	})
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
		if !present[e] {
			missing[string(e.Path)] = true
			if !missing[path.Dir(string(e.Path))] {
				v.add(e, missingCode(e, kinds[e.source()]), "")
			}
		}
		v.problems = append(v.problems, v.wrong[e]...)
	}
	if v.legacy {
		v.totals(sources, entries)
	}
	return nil
}

// run waits for the crew to read what walk has handed over.
func (v *verifier) run(walk func() error) error {
	err := v.crew.run(v.ctx, func(ctx context.Context, _ func(error)) error {
		v.ctx = ctx
		return walk()
	})
	if err != nil {
		return err
	}
	for _, e := range v.sound { // by now nobody looks at the entries
		e.sound = true
	}
	return nil
}

// walk has every entry examined that is there, and notes what does not belong.
// It returns the entries that are there.
func (v *verifier) walk(d *dir, entries manifest) (present map[*entry]bool, err error) {
	present = make(map[*entry]bool, len(entries))
	files := v.reader(entries)
	known := cursor{in: entries}
	return present, files.gather(func() error {
		return d.walk(v.ctx, ".", func(at place, name string, fi fileInfo) error {
			if name == "." || name == metadataName || name == manifestName {
				return nil
			}
			if e, ok := known.find(name); ok {
				present[e] = true
				if v.entry(e, at, fi) {
					v.read(files, e, at, fi)
				}
				return nil
			}
			if v.legacy {
				return nil
			}
			return v.unexpected(name, fi)
		}, exceptGone) // what vanished is missing, if it belonged
	})
}

// unexpected notes what does not belong.
func (v *verifier) unexpected(name string, fi fileInfo) error {
	src, _, _ := strings.Cut(name, "/")
	v.problems = append(v.problems, Problem{Code: CodeUnexpectedFile, Source: src, Path: name})
	return skip(fi)
}

// read has the bytes of an entry read.
func (v *verifier) read(files *gatherer, e *entry, at place, fi fileInfo) {
	if e.Type == typeDatabase {
		files.addAlone(at, string(e.Path), fi)
	} else {
		files.add(at, string(e.Path), fi)
	}
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
	v.mu.Lock()
	defer v.mu.Unlock()
	v.wrong[e] = append(v.wrong[e], Problem{Code: code, Source: e.source(), Path: string(e.Path), Detail: detail})
}

// unreadable is add for what the file system would not read.
func (v *verifier) unreadable(e *entry, err error) {
	v.add(e, CodeUnreadable, err.Error())
	v.mu.Lock()
	defer v.mu.Unlock()
	v.unread = append(v.unread, err)
}

// entry examines one entry that is there, and reports whether its bytes are
// to be read.
func (v *verifier) entry(e *entry, at place, fi fileInfo) bool {
	switch {
	case e.Type == typeDir:
		if !fi.isDir() {
			v.add(e, CodeTypeMismatch, "not a directory")
		}
		return false
	case e.Type == typeLink:
		target, err := at.dir.readlink(at.name)
		if isShortage(err) {
			v.unreadable(e, err)
		} else if err != nil || target != string(e.Target) {
			v.add(e, CodeTypeMismatch, "not the link that was copied")
		}
		return false
	case !fi.isRegular():
		v.add(e, CodeTypeMismatch, "not a regular file")
		return false
	}
	v.files++
	v.bytes += fi.size
	if fi.size != e.Size {
		v.add(e, CodeSizeMismatch, fmt.Sprintf("%d bytes, and not %d", fi.size, e.Size))
	}
	return e.Type == typeDatabase || fi.size == e.Size && v.level != ValidateStructure
}

// reader has the crew read the bytes of entries, which it is given by their
// paths.
func (v *verifier) reader(entries manifest) *gatherer {
	return &gatherer{crew: v.crew, work: func(files []found) {
		t := tally{ctx: v.ctx, crew: v.crew, meter: v.meter}
		defer t.report()
		known := cursor{in: entries}
		for _, f := range files {
			e, _ := known.find(f.path)
			t.of(e.source())
			v.content(e, f.place, f.info, &t)
		}
	}}
}

// content reads an entry's bytes, as far as the level asks.
func (v *verifier) content(e *entry, at place, fi fileInfo, read *tally) {
	if v.ctx.Err() != nil {
		return
	}
	f, info, err := at.openSeen(v.ctx, fi)
	if err != nil {
		v.unreadable(e, err)
		return
	}
	defer f.Close() // nothing was written
	if info.size != fi.size {
		v.add(e, CodeSizeMismatch, "it is being written to")
	}
	compare := func() {}
	if v.level != ValidateStructure && info.size == e.Size && e.SHA256 != "" {
		compare = func() { v.compareHash(e, f, read.count) }
	}
	if e.Type != typeDatabase || e.sound {
		compare()
		return
	}
	var problems []Problem
	check := func() {
		var err error
		if problems, err = checkCopy(v.ctx, v.crew, f, info.size, v.level, v.hostCheck(e)); isShortage(err) {
			v.unreadable(e, err)
		} // any other is the context's
	}
	if info.size < handfulBytes {
		compare()
		read.report()
		check()
	} else {
		v.crew.together(compare, check)
	}
	for _, p := range problems {
		v.add(e, p.Code, p.Detail)
	}
	v.passed(e)
}

// passed notes a database whose bytes were compared and checked in full, unless
// something is wrong with it.
func (v *verifier) passed(e *entry) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.level == ValidateFull && e.SHA256 != "" && len(v.wrong[e]) == 0 && v.ctx.Err() == nil {
		v.sound = append(v.sound, e)
	}
}

func (v *verifier) compareHash(e *entry, f afero.File, read func(n int64)) {
	sum, err := hashOf(v.ctx, io.NewSectionReader(f, 0, e.Size), read)
	if err != nil {
		v.unreadable(e, err)
	} else if sum != e.SHA256 {
		v.add(e, CodeChecksumMismatch, "")
	}
}

// hostCheck returns the host's own test, if the entry is a Database's copy. It
// is run by the goroutine of the operation.
func (v *verifier) hostCheck(e *entry) hostCheck {
	i := slices.IndexFunc(v.sources, func(src Source) bool { return src.Name == e.source() })
	if i < 0 || v.sources[i].Check == nil { // which none but a Database has
		return nil
	}
	return func(ctx context.Context, c *sqlite3.Conn) (err error) {
		if !v.crew.callAndWait(func() { err = v.sources[i].Check(ctx, c) }) {
			return context.Canceled
		}
		return err
	}
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
