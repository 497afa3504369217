package crashfs_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/afero"

	"github.com/atocore/backup/internal/crashfs"
)

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func checkIs(t testing.TB, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("error %v, want %v", err, want)
	}
}

// write makes a file or replaces what is in it, without a sync.
func write(t testing.TB, fsys afero.Fs, name, content string) {
	t.Helper()
	check(t, afero.WriteFile(fsys, name, []byte(content), 0o644))
}

// sync syncs a file or directory.
func sync(t testing.TB, fsys afero.Fs, name string) {
	t.Helper()
	f, err := fsys.Open(name)
	check(t, err)
	check(t, f.Sync())
	check(t, f.Close())
}

func open(t testing.TB, fsys afero.Fs, name string, flag int) afero.File {
	t.Helper()
	f, err := fsys.OpenFile(name, flag, 0o644)
	check(t, err)
	return f
}

// built returns a file system with the files, each named and filled with
// what follows it, and all of it durable. A name that ends in a slash is a
// directory, and nothing follows it.
func built(t testing.TB, files ...string) *crashfs.FS {
	t.Helper()
	fsys := crashfs.New(crashfs.Options{})
	for i := 0; i < len(files); i++ {
		name := files[i]
		if name[len(name)-1] == '/' {
			check(t, fsys.MkdirAll(name, 0o755))
			continue
		}
		i++
		check(t, fsys.MkdirAll(path.Dir(name), 0o755))
		write(t, fsys, name, files[i])
	}
	check(t, fsys.SyncAll())
	return fsys.Clone()
}

// tree is what is in a file system: for each path a description, and its
// inode.
type tree map[string]string

// dump reads all of fsys below dir.
func dump(t testing.TB, fsys afero.Fs, dir string) tree {
	t.Helper()
	found := tree{}
	walk(t, fsys, dir, func(name string, info fs.FileInfo) {
		found[name] = describe(t, fsys, path.Join(dir, name), info)
	})
	return found
}

// walk visits everything below dir, by its name relative to dir.
func walk(t testing.TB, fsys afero.Fs, dir string, visit func(name string, info fs.FileInfo)) {
	t.Helper()
	var below func(rel string)
	below = func(rel string) {
		infos, err := afero.ReadDir(fsys, path.Join(dir, rel))
		check(t, err)
		for _, info := range infos {
			name := path.Join(rel, info.Name())
			visit(name, info)
			if info.IsDir() {
				below(name)
			}
		}
	}
	below("")
}

func describe(t testing.TB, fsys afero.Fs, name string, info fs.FileInfo) string {
	t.Helper()
	switch {
	case info.IsDir():
		return info.Mode().String()
	case info.Mode()&os.ModeSymlink != 0:
		target, err := fsys.(afero.LinkReader).ReadlinkIfPossible(name)
		check(t, err)
		return "-> " + target
	}
	content, err := afero.ReadFile(fsys, name)
	check(t, err)
	if int64(len(content)) != info.Size() {
		t.Errorf("%s: read %d bytes, size is %d", name, len(content), info.Size())
	}
	return fmt.Sprintf("%v %q", info.Mode(), content)
}

// texts returns what is in the files of fsys; directories have "/".
func texts(t testing.TB, fsys afero.Fs) map[string]string {
	t.Helper()
	found := map[string]string{}
	walk(t, fsys, "/", func(name string, info fs.FileInfo) {
		if info.IsDir() {
			found[name] = "/"
		}
		if !info.Mode().IsRegular() {
			return
		}
		content, err := afero.ReadFile(fsys, "/"+name)
		check(t, err)
		found[name] = string(content)
	})
	return found
}

func checkTexts(t testing.TB, fsys afero.Fs, want map[string]string) {
	t.Helper()
	if diff := cmp.Diff(texts(t, fsys), want); diff != "" {
		t.Errorf("files (-got +want):\n%s", diff)
	}
}

// states counts the crash states of fsys by what is in their files.
func states(t testing.TB, fsys *crashfs.FS, limit int) map[string]int {
	t.Helper()
	count := map[string]int{}
	for _, state := range fsys.CrashStates(limit) {
		count[fmt.Sprint(texts(t, state))]++
	}
	return count
}

// checkStates compares the distinct crash states with want: texts of each.
func checkStates(t testing.TB, fsys *crashfs.FS, want ...map[string]string) {
	t.Helper()
	got, expected := map[string]bool{}, map[string]bool{}
	for state := range states(t, fsys, 12) {
		got[state] = true
	}
	for _, state := range want {
		expected[fmt.Sprint(state)] = true
	}
	if diff := cmp.Diff(got, expected); diff != "" {
		t.Errorf("states (-got +want):\n%s", diff)
	}
}

func lose(int, crashfs.Effect) crashfs.Fate { return crashfs.Lost }
func keep(int, crashfs.Effect) crashfs.Fate { return crashfs.Kept }

// only keeps the effects of some kinds.
func only(kinds ...crashfs.EffectKind) func(int, crashfs.Effect) crashfs.Fate {
	return func(_ int, e crashfs.Effect) crashfs.Fate {
		for _, kind := range kinds {
			if e.Kind == kind {
				return crashfs.Kept
			}
		}
		return crashfs.Lost
	}
}
