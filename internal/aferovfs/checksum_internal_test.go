package aferovfs

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"
)

// A page that has its checksum has one when it says that the database is in WAL
// mode, too; and one that has something else there keeps that.
func TestMarkWALKeepsChecksums(t *testing.T) {
	for _, hasOne := range []bool{true, false} {
		page := make([]byte, leastPage)
		copy(page, "SQLite format 3\x00")
		binary.BigEndian.PutUint16(page[16:], leastPage)
		page[18], page[19], page[20] = 1, 1, checksumBytes
		if hasOne {
			setChecksum(page)
		}
		f, err := os.Create(filepath.Join(t.TempDir(), "app.db"))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.Write(page); err != nil {
			t.Fatal(err)
		}
		if err := MarkWAL(f); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, leastPage)
		if _, err := f.ReadAt(got, 0); err != nil {
			t.Fatal(err)
		}
		if got[18] != 2 || got[19] != 2 {
			t.Error("not marked")
		}
		if hasChecksum(got) != hasOne {
			t.Errorf("has a checksum: %t, want %t", !hasOne, hasOne)
		}
	}
}

// A shortFile reads and says nothing of what it leaves out.
type shortFile struct{ *os.File }

func (f shortFile) ReadAt(p []byte, off int64) (int, error) {
	return f.File.ReadAt(p[:(len(p)+1)/2], off)
}

func TestChecksumsAreMadeOfWholePages(t *testing.T) {
	const pages = 3
	want := make([]byte, pages*leastPage)
	for i := range want {
		want[i] = byte(i / 7)
	}
	copy(want, "SQLite format 3\x00")
	binary.BigEndian.PutUint16(want[16:], leastPage)
	want[20] = checksumBytes
	f, err := os.Create(filepath.Join(t.TempDir(), "app.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Write(want); err != nil {
		t.Fatal(err)
	}
	for page := 0; page < len(want); page += leastPage {
		setChecksum(want[page : page+leastPage])
	}
	if err := CompleteChecksums(t.Context(), shortFile{f}); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(want))
	if _, err := f.ReadAt(got, 0); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Error("not the pages that there were, with their checksums")
	}
}
