package aferovfs

import (
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
