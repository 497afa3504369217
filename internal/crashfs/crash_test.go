package crashfs_test

import (
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/afero"

	"github.com/atocore/backup/internal/crashfs"
)

// FuzzCrash runs a script and checks what must hold of every state that a
// power cut may leave.
func FuzzCrash(f *testing.F) {
	for seed := range 60 {
		r := rand.New(rand.NewPCG(uint64(seed), 1))
		script := make([]byte, 3*30)
		for i := range script {
			script[i] = byte(r.Uint32())
		}
		f.Add(script, seed%3 == 0)
	}
	f.Fuzz(func(t *testing.T, script []byte, syncs bool) {
		h := newHistory(t)
		for len(script) >= 3 && h.steps < 40 {
			h.step(script[0], script[1], script[2], syncs)
			script = script[3:]
		}
		h.checkStates()
		h.checkPrefixes(syncs)
		h.checkSyncAll()
	})
}

// A history is a file system with what its crash states are known to have.
type history struct {
	*testing.T
	fsys  *crashfs.FS
	steps int

	trees   map[int]tree           // after each operation
	durable map[crashfs.Ino]bool   // inodes with a durable name, none of which was ever removed
	synced  map[crashfs.Ino]string // content of files not written since their sync
	rooted  map[string]crashfs.Ino // names in the root not changed since its sync
	names   map[crashfs.Ino]int    // before the step under way
}

func newHistory(t *testing.T) *history {
	h := &history{
		T:       t,
		fsys:    built(t, "a", "aaaa", "d/a", strings.Repeat("da", 3000), "d/e/a", "dea", "e/", "e/b", "eb"),
		trees:   map[int]tree{},
		durable: map[crashfs.Ino]bool{},
		synced:  map[crashfs.Ino]string{},
		rooted:  map[string]crashfs.Ino{},
	}
	_, h.names = inodes(t, h.fsys)
	for ino := range h.names {
		h.durable[ino] = true
	}
	h.trees[0] = exact(t, h.fsys)
	return h
}

// step runs one operation, and notes what it means for later states. Most
// operations may fail, as other file systems have tests for.
func (h *history) step(kind, x, y byte, syncs bool) {
	h.steps++
	names := []string{"a", "b", "d", "e", "d/a", "d/b", "d/e", "d/e/a", "e/b", "e/d", "e/d/e"}
	name, other := names[int(x)%len(names)], names[int(y)%len(names)]
	switch kind % 15 {
	case 0, 1:
		h.write(name, os.O_CREATE|os.O_TRUNC, int(y))
	case 2, 3:
		h.write(name, os.O_CREATE, int(y))
	case 4:
		_ = h.fsys.Mkdir(name, 0o755)
	case 5, 6, 7:
		_ = h.fsys.Rename(name, other)
	case 8:
		_ = h.fsys.Remove(name)
	case 9:
		_ = h.fsys.RemoveAll(name)
	case 10:
		_ = h.fsys.Chmod(name, 0o700+fs.FileMode(y%0o100))
	case 11, 12:
		if syncs {
			h.sync(name)
		}
	case 13, 14:
		_ = h.fsys.LinkIfPossible(name, other)
	}
	h.trees[len(h.fsys.Log())] = exact(h, h.fsys)
	h.noteNames()
}

func (h *history) write(name string, flag, n int) {
	f, err := h.fsys.OpenFile(name, os.O_RDWR|flag, 0o644)
	if err != nil {
		return
	}
	info, err := f.Stat()
	check(h, err)
	delete(h.synced, crashfs.InoOf(info))
	_, err = f.WriteAt([]byte(strings.Repeat(string(rune('a'+n%26)), n*9+1)), int64(n*7))
	check(h, err)
	if n%5 == 0 {
		check(h, f.Truncate(int64(n)))
	}
	check(h, f.Close())
}

// sync syncs a file, or, rather than any other directory, the root.
func (h *history) sync(name string) {
	content, err := afero.ReadFile(h.fsys, name)
	if err != nil {
		sync(h, h.fsys, "/")
		found, _ := inodes(h, h.fsys)
		for name, ino := range found {
			if !strings.Contains(name, "/") {
				h.rooted[name] = ino
			}
		}
		return
	}
	sync(h, h.fsys, name)
	info, err := h.fsys.Stat(name)
	check(h, err)
	h.synced[crashfs.InoOf(info)] = string(content)
}

// noteNames forgets what the last step made undetermined. An inode that lost
// one name of two may be gone: the other is not durable for that.
func (h *history) noteNames() {
	live, names := inodes(h, h.fsys)
	for ino := range h.durable {
		if names[ino] < h.names[ino] {
			delete(h.durable, ino)
		}
	}
	for name, ino := range h.rooted {
		if live[name] != ino {
			delete(h.rooted, name)
		}
	}
	h.names = names
}

func (h *history) checkStates() {
	before := exact(h, h.fsys)
	labels := map[string]bool{}
	for label, left := range h.fsys.CrashStates(6) {
		if labels[label] {
			h.Errorf("two states are %q", label)
		}
		labels[label] = true
		h.checkState(label, left)
		if h.Failed() {
			h.Fatalf("pending: %v", h.fsys.Pending())
		}
	}
	if diff := cmp.Diff(exact(h, h.fsys), before); diff != "" {
		h.Errorf("crashing changed the file system (-got +want):\n%s", diff)
	}
}

func (h *history) checkState(label string, left *crashfs.FS) {
	found, names := inodes(h, left)
	for ino := range h.durable {
		if names[ino] == 0 {
			h.Errorf("%s: inode %d is gone", label, ino)
		}
	}
	for name, ino := range h.rooted {
		if found[name] != ino {
			h.Errorf("%s: %q is not inode %d but %d", label, name, ino, found[name])
		}
	}
	for name, ino := range found {
		want, synced := h.synced[ino]
		if !synced {
			continue
		}
		got, err := afero.ReadFile(left, name)
		if err != nil || string(got) != want {
			h.Errorf("%s: synced file %q has %q, %v, want %q", label, name, got, err, want)
		}
	}
	if pending := left.Pending(); len(pending) > 0 {
		h.Errorf("%s: pending %v", label, pending)
	}
}

// checkPrefixes compares what is left of the first operations with what
// there was after them; with syncs, only of all operations.
func (h *history) checkPrefixes(syncs bool) {
	for n, want := range h.trees {
		if syncs && n != len(h.fsys.Log()) {
			continue
		}
		left := h.fsys.CrashKeeping(func(_ int, e crashfs.Effect) crashfs.Fate {
			if e.Op <= n {
				return crashfs.Kept
			}
			return crashfs.Lost
		})
		if diff := cmp.Diff(exact(h, left), want); diff != "" {
			h.Errorf("first %d operations (-got +want):\n%s", n, diff)
		}
	}
	if diff := cmp.Diff(exact(h, h.fsys.Clone()), exact(h, h.fsys)); diff != "" {
		h.Errorf("clone (-got +want):\n%s", diff)
	}
}

func (h *history) checkSyncAll() {
	check(h, h.fsys.SyncAll())
	n := 0
	for label, left := range h.fsys.CrashStates(6) {
		n++
		if diff := cmp.Diff(exact(h, left), exact(h, h.fsys)); diff != "" {
			h.Errorf("%s, after syncing all (-got +want):\n%s", label, diff)
		}
	}
	if n != 1 {
		h.Errorf("%d states after syncing all", n)
	}
}

// exact is dump with inodes, change times, and the times of files.
func exact(t testing.TB, fsys *crashfs.FS) tree {
	t.Helper()
	found := tree{}
	walk(t, fsys, "/", func(name string, info fs.FileInfo) {
		found[name] = fmt.Sprint(crashfs.InoOf(info), " ", describe(t, fsys, path.Join("/", name), info), crashfs.CtimeOf(info))
		if !info.IsDir() {
			found[name] += info.ModTime().String()
		}
	})
	return found
}

// inodes returns the inode of each path and how many names each inode has. It
// fails if those are not as many as the inode says; a directory says one.
func inodes(t testing.TB, fsys *crashfs.FS) (found map[string]crashfs.Ino, names map[crashfs.Ino]int) {
	t.Helper()
	found, names = map[string]crashfs.Ino{}, map[crashfs.Ino]int{}
	links := map[crashfs.Ino]int{}
	walk(t, fsys, "/", func(name string, info fs.FileInfo) {
		ino := crashfs.InoOf(info)
		found[name], links[ino] = ino, crashfs.LinksOf(info)
		names[ino]++
	})
	if diff := cmp.Diff(names, links); diff != "" {
		t.Fatalf("names of each inode (-found +what it says):\n%s", diff)
	}
	return found, names
}

func TestCrashStates(t *testing.T) {
	t.Run("none_twice", func(t *testing.T) {
		fsys := built(t, "c", "111")
		check(t, fsys.Mkdir("a", 0o755))
		write(t, fsys, "b", "1")
		write(t, fsys, "c", "2")
		check(t, fsys.Remove("c"))
		seen := map[string]string{}
		for label, left := range fsys.CrashStates(12) {
			key := fmt.Sprint(exact(t, left))
			if other, ok := seen[key]; ok {
				t.Errorf("%q and %q are the same", label, other)
			}
			seen[key] = label
		}
	})
	t.Run("too_many_for_subsets", func(t *testing.T) {
		const n = 12
		fsys := built(t)
		check(t, fsys.MkdirAll("p/q", 0o755))
		content := strings.Repeat("x", 2000)
		name := func(i int) string { return fmt.Sprint("p/q/", i) }
		for i := range n {
			write(t, fsys, name(i)+".tmp", content)
			check(t, fsys.Rename(name(i)+".tmp", name(i)))
		}
		found := states(t, fsys, 8)
		if len(found) < 160 || len(found) > 250 {
			t.Errorf("%d states of %d effects", len(found), len(fsys.Pending()))
		}
		for i := range n {
			first := files{"p": "/", "p/q": "/"}
			others := files{"p": "/", "p/q": "/"}
			for j := range n {
				if j < i {
					first[name(j)] = content
				}
				if j != i {
					others[name(j)] = content
				}
			}
			for what, state := range map[string]files{
				"only its creation": {"p": "/", "p/q": "/", name(i) + ".tmp": ""},
				"only its content":  {"p": "/", "p/q": "/", name(i) + ".tmp": content},
				"those before it":   first,
				"all others":        others,
			} {
				if found[fmt.Sprint(state)] == 0 {
					t.Errorf("file %d: no state with %s", i, what)
				}
			}
		}
	})
	t.Run("break", func(t *testing.T) {
		fsys := built(t)
		write(t, fsys, "a", "1")
		n := 0
		for range fsys.CrashStates(8) {
			n++
			break
		}
		if n != 1 {
			t.Errorf("went on for %d states", n)
		}
	})
	t.Run("changed_meanwhile", func(t *testing.T) {
		defer func() {
			if recover() == nil {
				t.Error("no panic")
			}
		}()
		fsys := built(t)
		write(t, fsys, "a", "1")
		for range fsys.CrashStates(8) {
			write(t, fsys, "b", "1")
		}
	})
}

// BenchmarkCrash crashes a file system of 60 files, three of them databases of
// 64 KB, with 40 writes and 20 names pending.
func BenchmarkCrash(b *testing.B) {
	fsys := built(b)
	page := strings.Repeat("p", 4096)
	for i := range 60 {
		check(b, fsys.MkdirAll(fmt.Sprint("dir", i%6), 0o755))
		write(b, fsys, fmt.Sprintf("dir%d/%d", i%6, i), page)
	}
	for _, name := range []string{"x.db", "y.db", "z.db"} {
		write(b, fsys, name, strings.Repeat(page, 16))
	}
	fsys = fsys.Clone()
	for i := range 20 {
		write(b, fsys, fmt.Sprint("dir1/new", i), page)
		f := open(b, fsys, "x.db", os.O_RDWR)
		_, err := f.WriteAt([]byte(page), int64(i%16)*4096)
		check(b, err)
	}
	half := func(i int, _ crashfs.Effect) crashfs.Fate {
		if i%2 == 0 {
			return crashfs.Kept
		}
		return crashfs.Lost
	}
	for name, fates := range map[string]func(int, crashfs.Effect) crashfs.Fate{"clone": keep, "none": lose, "half": half} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				fsys.CrashKeeping(fates)
			}
		})
	}
	b.Run("states", func(b *testing.B) {
		n := 0
		for b.Loop() {
			for range fsys.CrashStates(8) {
				n++
			}
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(n), "ns/state")
	})
}
