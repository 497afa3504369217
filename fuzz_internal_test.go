package backup

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/afero"
)

// The parsers of what may come from anybody: none panics, what one accepts
// is what would be written for it, byte for byte, and no path in it leads
// anywhere but down. More seeds are in testdata/fuzz.

func FuzzParseStamp(f *testing.F) {
	for _, stamp := range []string{fuzzStamp, "00010101T000000Z", "2026-04-11T10:01:00Z", "20260411T100100Z\x00", "+0260411T100100Z"} {
		f.Add(stamp)
	}
	f.Fuzz(func(t *testing.T, stamp string) {
		at, err := parseStamp(stamp)
		if err != nil {
			return
		}
		if got := formatStamp(at); got != stamp {
			t.Errorf("%q is written %q", stamp, got)
		}
		if !localName(stamp) || strings.ContainsAny(stamp, `/\`) {
			t.Errorf("%q is no name of a directory", stamp)
		}
		if lock := snapshotLock(at); lock <= stateLock {
			t.Errorf("%q has lock %d", stamp, lock)
		}
	})
}

// fuzzStamp is what the seeds of metadata have.
const fuzzStamp = "20260411T100100Z"

// FuzzMetadata tries the bytes as they are, and as the body of a description
// that is sealed: no fuzzer guesses a checksum.
func FuzzMetadata(f *testing.F) {
	for _, seed := range []string{"", "{}", "[]", `{"created_at": "2026-04-11T10:01:00Z"}`, `{"format": "atocore-backup/1"}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		checkMetadata(t, data)
		checkMetadata(t, sealRaw(data))
	})
}

// sealRaw is seal for what is JSON already, but for its end.
func sealRaw(body []byte) []byte {
	return fmt.Appendf(bytes.Clone(body), "%s%x\"\n}\n", sealKey, sha256.Sum256(body))
}

func checkMetadata(t *testing.T, data []byte) {
	own, legacy, err := parseMetadata(data, fuzzStamp)
	if err != nil {
		return
	}
	var snap Snapshot
	if own != nil {
		again, err := seal(own)
		if err != nil || !bytes.Equal(again, data) {
			t.Errorf("sealed again: %v\n%s\nwas:\n%s", err, again, data)
		}
		snap = own.snapshot()
	} else if snap, err = legacy.snapshot(fuzzStamp); err != nil {
		return
	}
	if snap.Stamp != fuzzStamp {
		t.Errorf("it is of %q", snap.Stamp)
	}
	for _, src := range snap.Sources {
		if src.Captured && (!localName(src.Path) || src.Path != src.Name && filepath.Dir(src.Path) != src.Name) {
			t.Errorf("source %q is at %q", src.Name, src.Path)
		}
		if src.Files < 0 || src.Bytes < 0 {
			t.Errorf("source %q has %d files of %d bytes", src.Name, src.Files, src.Bytes)
		}
	}
}

func FuzzManifest(f *testing.F) {
	const dir = `{"path":"a","type":"dir","mode":"0700"}` + "\n"
	for _, seed := range []string{dir, dir + dir, "\n", "null\n", "{}\n", strings.Repeat("[", 100) + "\n"} {
		f.Add([]byte(seed), false)
	}
	f.Fuzz(func(t *testing.T, data []byte, posixNames bool) {
		m, err := readManifest(t.Context(), newCrew(2), bytes.NewReader(data), bytes.Count(data, []byte("\n")), posixNames)
		if err != nil {
			return
		}
		var again bytes.Buffer
		if err := m.write(&again, maxManifestBytes); err != nil || !bytes.Equal(again.Bytes(), data) {
			t.Errorf("written again: %v\n%s\nwas:\n%s", err, again.Bytes(), data)
		}
		if !posixNames && m.posixNames() {
			t.Error("names that are alike, or with a backslash")
		}
		for i := range m {
			e := &m[i]
			if p := string(e.Path); !localName(p) || !filepath.IsLocal(p) || filepath.Clean(p) != p || strings.ContainsRune(p, 0) {
				t.Errorf("path %q", p)
			}
			if e.Size < 0 || e.perm() != e.perm().Perm() {
				t.Errorf("%q: %d bytes, mode %v", e.Path, e.Size, e.perm())
			}
			if found, ok := m.find(string(e.Path)); !ok || found != e {
				t.Errorf("%q is not found", e.Path)
			}
		}
	})
}

// FuzzJournal has a store recover from a journal of any bytes, and from one
// of any content that is sealed. Whatever it says, nothing but the sources
// and what a restore stages beside them is touched.
func FuzzJournal(f *testing.F) {
	for _, seed := range []string{"", "null", "{}", `{"swaps": [null]}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		checkJournal(t, data, false)
		checkJournal(t, sealRaw(data), true)
	})
}

// fuzzSources are those that the seeds of journals speak of.
var fuzzSources = []Source{
	{Name: "app", Kind: Database, Path: "/srv/data/app.db"},
	{Name: "reg", Kind: File, Path: "/srv/reg.json"},
	{Name: "tree", Kind: Tree, Path: "/srv/tree"},
}

func checkJournal(t *testing.T, data []byte, isSealed bool) {
	fsys := afero.NewMemMapFs()
	for _, name := range []string{
		"/srv/data/app.db", "/srv/data/app.db-wal", "/srv/data/others", "/srv/reg.json", "/srv/tree/a", "/srv/tree/d/b", "/srv/others", "/others/a",
		"/srv/data/.atobackup-0123456789abcdef-app/new/app.db", "/srv/data/.atobackup-0123456789abcdef-app/old/app.db",
		"/srv/.atobackup-0123456789abcdef-reg/new/reg.json", "/srv/tree/.atobackup-0123456789abcdef-tree/new/a",
		"/srv/tree/.atobackup-0123456789abcdef-tree/old/c", "/backups/snapshots/" + fuzzStamp + "/backup-metadata.json",
		"/backups/" + journalName,
	} {
		content := []byte("of " + name)
		if strings.HasSuffix(name, journalName) {
			content = data
		}
		if err := errors.Join(fsys.MkdirAll(filepath.Dir(name), 0o700), afero.WriteFile(fsys, name, content, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	before := filesOf(t, fsys)
	s, err := New(Config{Dir: "/backups", Fs: fsys, Sources: fuzzSources})
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.Recover(t.Context())
	compareFiles(t, before, filesOf(t, fsys), func(name string) bool {
		if !isSealed && err != nil {
			return false
		}
		return strings.HasPrefix(name, "/srv/tree/") || name == "/srv/reg.json" || name == "/backups/"+journalName ||
			strings.HasPrefix(name, "/srv/data/app.db") || strings.Contains(name, "/"+stagingPrefix)
	})
}

func filesOf(t *testing.T, fsys afero.Fs) map[string]string {
	files := make(map[string]string)
	err := afero.Walk(fsys, "/", func(p string, fi fs.FileInfo, err error) error {
		if err != nil || fi.IsDir() {
			return err
		}
		data, err := afero.ReadFile(fsys, p)
		files[p] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// compareFiles complains of files that were added, removed or changed, but
// for those that may.
func compareFiles(t *testing.T, before, after map[string]string, may func(name string) bool) {
	t.Helper()
	for name, content := range before {
		if got, ok := after[name]; (!ok || got != content) && !may(name) {
			t.Errorf("%s: %q, and was %q", name, got, content)
		}
	}
	for name := range after {
		if _, ok := before[name]; !ok && !may(name) {
			t.Errorf("%s: is new", name)
		}
	}
}
