package backup

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

// FuzzEntry shows that what entries are written by, for the sake of speed, and
// encoding/json are of one mind.
func FuzzEntry(f *testing.F) {
	f.Add("tree/a", "file", "0644", int64(1_700_000_000), int64(5), int64(4096), fmt.Sprintf("%064x", 7), "", uint64(1)<<63)
	f.Add("tree/<&>\u2028\u2029\u00e4\ufffd", "link", "", int64(0), int64(0), int64(-1), "", "../\"\\\x00\x1f\x7f\t", uint64(1)<<63)
	f.Add("tree/\xff", "dir", "\xff", int64(-1)<<40, int64(0), int64(0), "<>", "\xed\xa0\x80", uint64(1)<<63)
	f.Add("", "", "", int64(-62135596800), int64(0), int64(0), "", "", uint64(1)<<63) // the zero time
	f.Add("a", "b", "c", int64(1)<<40, int64(100), int64(1), "", "", uint64(7))       // beyond the year 9999
	for c := range 0x80 {
		f.Add("a"+string(rune(c)), "file", "0644", int64(0), int64(0), int64(c), "", "b"+string(rune(c)), uint64(1)<<63)
	}
	f.Fuzz(func(t *testing.T, path, kind, mode string, sec, nsec, size int64, sum, target string, inode uint64) {
		e := entry{
			Path: rawString(path), Type: entryType(kind), Mode: mode, MTime: time.Unix(sec, nsec).UTC(),
			Size: size, SHA256: sum, Target: rawString(target), Inode: inode, CTime: time.Unix(nsec, sec).UTC(),
		}
		got, err := e.appendTo([]byte("before "))
		want, wantErr := json.Marshal(&e)
		if (err == nil) != (wantErr == nil) || err == nil && string(got) != "before "+string(want) {
			t.Errorf("got %s, %v\nwant %s, %v", got, err, want, wantErr)
		}
		var cut, decoded entry
		cut.cut(string(want))
		again, err := cut.appendTo(nil)
		if wantErr != nil || err != nil || !bytes.Equal(again, want) {
			return // cut does not claim to be right
		}
		if err := json.Unmarshal(want, &decoded); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(cut, decoded, cmp.AllowUnexported(entry{})); diff != "" {
			t.Errorf("cut (-got +want):\n%s", diff)
		}
	})
}

// A manifest that nobody would read is not written: the snapshot would be called
// good, and be lost.
func TestManifestThatIsTooLargeIsRefused(t *testing.T) {
	m := manifest{{Path: "a", Type: typeDir, Mode: "0755"}, {Path: "b", Type: typeDir, Mode: "0755"}}
	var buf bytes.Buffer
	if err := m.write(&buf, maxManifestBytes); err != nil {
		t.Fatal(err)
	}
	if err := m.write(io.Discard, buf.Len()); err != nil {
		t.Errorf("as large as may be: %v", err)
	}
	if err := m.write(io.Discard, buf.Len()-1); err == nil || !strings.Contains(err.Error(), "manifest of more than") {
		t.Errorf("too large: got %v", err)
	}
}

func TestNamesAlikeButForCaseFoldToTheSame(t *testing.T) {
	for r := range rune(unicode.MaxRune + 1) {
		if utf8.ValidRune(r) && foldCase(string(r)) != foldCase(string(unicode.SimpleFold(r))) {
			t.Errorf("%q and %q differ", r, unicode.SimpleFold(r))
		}
	}
	folded := make(map[string]rune)
	for r := range rune(utf8.RuneSelf) {
		if other, ok := folded[foldCase(string(r))]; ok && !strings.EqualFold(string(r), string(other)) {
			t.Errorf("%q and %q do not differ", other, r)
		}
		folded[foldCase(string(r))] = r
	}
}

func TestNamesThatOnlyPOSIXCanHold(t *testing.T) {
	for names, want := range map[string]bool{
		"a b":         false,
		"A b":         false,
		"a A":         true,
		"a/B b/a b/A": true,
		"ab a\\b":     true,
		"k \u212a":    true, // the sign for kelvin
		"s \u017f":    true, // a long s
		"\xff \xfe":   true, // both are U+FFFD to who reads UTF-8
		"\u00e4 a":    false,
	} {
		var m manifest
		for name := range strings.FieldsSeq(names) {
			m = append(m, entry{Path: rawString(name)})
		}
		if got := m.posixNames(); got != want {
			t.Errorf("%q: %v, want %v", names, got, want)
		}
	}
}

func TestManifestOfAnotherNumberOfLinesIsRefused(t *testing.T) {
	const line = `{"path":"a","type":"dir","mode":"0755"}` + "\n"
	for _, crewSize := range []int{1, 2} {
		for lines, want := range map[int]string{0: "more than the 0 lines", 1: "", 2: "1 lines, and not the 2"} {
			_, err := readManifest(t.Context(), newCrew(crewSize), strings.NewReader(line), lines, false)
			if got := fmt.Sprint(err); want == "" && err != nil || !strings.Contains(got, want) {
				t.Errorf("%d lines by a crew of %d: got %v, want %q", lines, crewSize, err, want)
			}
		}
	}
}

// The first line that cannot be parsed is told, whoever comes to an end first, and
// cancelling ends the reading.
func TestManifestIsReadByManyAsByOne(t *testing.T) {
	m := manyEntries(3000)
	m[1000].Mode, m[2500].Mode = "", ""
	var text bytes.Buffer
	if err := m.write(&text, maxManifestBytes); err != nil {
		t.Fatal(err)
	}
	_, want := readManifest(t.Context(), newCrew(1), bytes.NewReader(text.Bytes()), len(m), false)
	if want == nil || !strings.HasPrefix(want.Error(), "line 1001: ") {
		t.Fatalf("by one: %v", want)
	}
	for range 20 {
		if _, err := readManifest(t.Context(), newCrew(4), bytes.NewReader(text.Bytes()), len(m), false); err == nil || err.Error() != want.Error() {
			t.Fatalf("by four: got %v, want %v", err, want)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := readManifest(ctx, newCrew(4), bytes.NewReader(text.Bytes()), len(m), false); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func BenchmarkManifest(b *testing.B) {
	var text bytes.Buffer
	m := manyEntries(10_000)
	if err := m.write(&text, maxManifestBytes); err != nil {
		b.Fatal(err)
	}
	b.Run("read", func(b *testing.B) {
		for b.Loop() {
			if _, err := readManifest(b.Context(), newCrew(runtime.GOMAXPROCS(0)), bytes.NewReader(text.Bytes()), len(m), false); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(m)), "ns/line")
	})
	b.Run("write", func(b *testing.B) {
		for b.Loop() {
			if err := m.write(io.Discard, maxManifestBytes); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(m)), "ns/line")
	})
}

// manyEntries returns a manifest of so many files.
func manyEntries(files int) manifest {
	at := time.Date(2026, 4, 11, 10, 0, 0, 123_456_789, time.UTC)
	m := manifest{
		{Path: "tree", Type: typeDir, Mode: "0755", MTime: at},
		{Path: "tree/some directory", Type: typeDir, Mode: "0755", MTime: at},
	}
	for i := range files {
		m = append(m, entry{
			Path: rawString(fmt.Sprintf("tree/some directory/file-%07d.bin", i)), Type: typeFile,
			Mode: "0644", MTime: at.Add(time.Duration(i)), Size: int64(i), SHA256: fmt.Sprintf("%064x", i),
		})
	}
	return m
}
