package backup_test

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/afero"

	"github.com/atocore/backup"
)

// These tests damage a snapshot in every small way that there is. Whatever is
// done to any of its bytes, Validate must find it and Restore refuse.

var rotFull = flag.Bool("rot.full", false, "damage every bit and every byte, and not a sample")

// every returns n, or 1 if all cases are to be tried.
func every(n int) int {
	switch {
	case *rotFull:
		return 1
	case testing.Short():
		return 7 * n
	}
	return n
}

// A rot is a snapshot of all kinds of sources, as small as can be for the
// sake of the number of its bits, that is damaged and mended again.
type rot struct {
	*world
	s       *backup.Store
	stamp   string
	before  map[string]string // all but the store's own
	intact  map[string]string // the snapshots
	damages int
}

// rotFiles are the files of the snapshot.
var rotFiles = []string{metadataFile, manifestFile, "chroma/a", "config/project-registry.json", "db/atocore.db"}

func newRot(t *testing.T, w *world) *rot {
	t.Helper()
	w.exec(t, "data/atocore.db", "PRAGMA page_size=512; PRAGMA user_version=7") // one page
	w.write(t, "config/project-registry.json", `{"a": 1}`)
	w.write(t, "chroma/a", "content of a")
	r := &rot{world: w, s: w.store(t)}
	r.stamp = w.create(t, r.s).Stamp
	r.before, r.intact = w.liveState(t), w.tree(t, "backups/snapshots")
	return r
}

// damage has a file hold other bytes for as long as it takes to look: with
// each damage in another way, or it would take too long.
func (r *rot) damage(t *testing.T, name, what string, data []byte) {
	t.Helper()
	good := r.read(t, in(r.stamp, name))
	r.write(t, in(r.stamp, name), string(data))
	r.damages++
	switch r.damages % 3 {
	case 0:
		r.mustBeRefused(t, name+": "+what)
	case 1:
		r.mustBeFound(t, name+": "+what, nil)
	case 2:
		r.mustBeFound(t, name+": "+what, quick)
	}
	r.write(t, in(r.stamp, name), good)
}

func (r *rot) mustBeFound(t *testing.T, what string, opts *backup.ValidateOptions) {
	t.Helper()
	if report := r.validate(t, r.s, r.stamp, opts); report.Valid || report.Err() == nil {
		t.Errorf("%s: validate %+v: nothing was found", what, opts)
	}
}

func (r *rot) mustBeRefused(t *testing.T, what string) {
	t.Helper()
	if _, err := r.s.Restore(t.Context(), r.stamp, confirmed); !errors.Is(err, backup.ErrInvalidSnapshot) {
		t.Errorf("%s: restore: got %v, want %v", what, err, backup.ErrInvalidSnapshot)
	}
}

// end checks that the damage was all that was wrong, and that nothing came of
// all the attempts.
func (r *rot) end(t *testing.T) {
	t.Helper()
	mustBeValid(t, r.s, r.stamp)
	if diff := cmp.Diff(r.tree(t, "backups/snapshots"), r.intact); diff != "" {
		t.Errorf("snapshots (-got +want):\n%s", diff)
	}
	if diff := cmp.Diff(r.liveState(t), r.before); diff != "" {
		t.Errorf("live state (-got +want):\n%s", diff)
	}
	t.Logf("%d damages", r.damages)
}

func TestEveryFlippedBitIsFound(t *testing.T) {
	flipAll := func(t *testing.T, w *world, step int) {
		r := newRot(t, w)
		for _, name := range rotFiles {
			data := []byte(r.read(t, in(r.stamp, name)))
			for bit := 0; bit < 8*len(data); bit += step {
				data[bit/8] ^= 1 << (bit % 8)
				r.damage(t, name, fmt.Sprintf("bit %d of byte %d", bit%8, bit/8), data)
				data[bit/8] ^= 1 << (bit % 8)
			}
		}
		r.end(t)
	}
	t.Run("memory", func(t *testing.T) {
		step := 1
		if testing.Short() {
			step = every(1)
		}
		flipAll(t, newWorld(t, afero.NewMemMapFs(), "/srv"), step)
	})
	t.Run("os", func(t *testing.T) { flipAll(t, osWorld(t), every(211)) })
}

// edits are what else may become of the bytes of a file, at position i.
var edits = []struct {
	name string
	edit func(data []byte, i int) []byte
}{
	{"truncated", func(data []byte, i int) []byte { return data[:i] }},
	{"byte_deleted", func(data []byte, i int) []byte { return slices.Delete(data, i, i+1) }},
	{"byte_doubled", func(data []byte, i int) []byte { return slices.Insert(data, i, data[i]) }},
	{"zero_added", func(data []byte, i int) []byte { return slices.Insert(data, i, 0) }},
	{"blank_added", func(data []byte, i int) []byte { return slices.Insert(data, i, ' ') }},
	{"bytes_swapped", func(data []byte, i int) []byte {
		j := (i + 1) % len(data)
		data[i], data[j] = data[j], data[i]
		return data
	}},
	{"zeros_from_here", func(data []byte, i int) []byte { clear(data[i:]); return data }},
	{"extended_by_itself", func(data []byte, i int) []byte { return append(data, data[:i+1]...) }},
	{"extended_by_zeros", func(data []byte, i int) []byte { return append(data, make([]byte, i+1)...) }},
}

func TestEveryChangedByteIsFound(t *testing.T) {
	r := newRot(t, newWorld(t, afero.NewMemMapFs(), "/srv"))
	for _, name := range rotFiles {
		data := []byte(r.read(t, in(r.stamp, name)))
		step := 1
		if name == "db/atocore.db" || testing.Short() { // SQLite is slow
			step = every(7)
		}
		for _, e := range edits {
			for i := 0; i < len(data); i += step {
				if damaged := e.edit(slices.Clone(data), i); !bytes.Equal(damaged, data) {
					r.damage(t, name, fmt.Sprintf("%s at %d", e.name, i), damaged)
				}
			}
		}
	}
	r.end(t)
}

// Two snapshots that differ by a little exchange a file, whole and sound in
// itself.
func TestFileOfAnotherSnapshotIsFound(t *testing.T) {
	memoryAndOs(t, func(t *testing.T, w *world) {
		first := newRot(t, w)
		w.exec(t, "data/atocore.db", "PRAGMA user_version=8")
		w.write(t, "config/project-registry.json", `{"a": 2}`)
		w.write(t, "chroma/a", "CONTENT of a")
		second := *first
		second.stamp = w.create(t, first.s).Stamp
		for _, name := range rotFiles {
			a, b := in(first.stamp, name), in(second.stamp, name)
			ofFirst, ofSecond := w.read(t, a), w.read(t, b)
			if ofFirst == ofSecond {
				t.Fatalf("%s is the same in both", name)
			}
			w.write(t, a, ofSecond)
			w.write(t, b, ofFirst)
			for _, r := range []*rot{first, &second} {
				r.mustBeFound(t, name, nil)
				r.mustBeFound(t, name, quick)
				r.mustBeRefused(t, name)
			}
			w.write(t, a, ofFirst)
			w.write(t, b, ofSecond)
		}
		mustBeValid(t, first.s, first.stamp)
		mustBeValid(t, first.s, second.stamp)
	})
}
