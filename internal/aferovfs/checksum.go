package aferovfs

import (
	"context"
	"encoding/binary"
	"io"
)

// The driver takes 8 reserved bytes at the end of each page for a checksum of
// it, see https://sqlite.org/cksumvfs.html, and writes them once it has seen,
// or written, the first page.

// checksumBytes is how many are reserved then.
const checksumBytes = 8

// ReservesForOthers reports whether the pages of a database have so many
// reserved bytes, and something else in them than checksums, going by the first
// page.
func ReservesForOthers(r io.ReaderAt) (bool, error) {
	page, err := firstPage(r)
	return err == nil && page != nil && !hasChecksum(page), err
}

// CompleteChecksums gives the pages of a new database the checksums that it
// has room for: those that were written before the first one have none yet.
func CompleteChecksums(ctx context.Context, f File) error {
	page, err := firstPage(f)
	if err != nil || page == nil {
		return err
	}
	for off := int64(0); ; off += int64(len(page)) {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := readAll(f, page, off); isEOF(err) {
			return nil
		} else if err != nil {
			return err
		}
		if hasChecksum(page) {
			continue
		}
		setChecksum(page)
		if _, err := writeFull(f, page, off); err != nil {
			return err
		}
	}
}

// MarkWAL has a new database in rollback mode say that it is in WAL mode, by the
// two versions in its header, which is all that it takes: see
// https://sqlite.org/fileformat.html#file_format_version_numbers.
func MarkWAL(f File) error {
	const versions, wal = 18, 2
	page, err := firstPage(f)
	if err != nil {
		return err
	}
	isSummed := page != nil && hasChecksum(page)
	if _, err := writeFull(f, []byte{wal, wal}, versions); err != nil || !isSummed {
		return err
	}
	page[versions], page[versions+1] = wal, wal
	setChecksum(page)
	_, err = writeFull(f, page, 0)
	return err
}

// firstPage returns the first page of a database, or nil if it has no room for
// a checksum, or is cut. See https://sqlite.org/fileformat.html#the_database_header.
func firstPage(r io.ReaderAt) ([]byte, error) {
	header := make([]byte, 100)
	if err := readAll(r, header, 0); isEOF(err) {
		return nil, nil
	} else if err != nil || !reservesChecksums(header) {
		return nil, err
	}
	size := int(binary.BigEndian.Uint16(header[16:]))
	if size == 1 {
		size = 65536
	}
	page := make([]byte, max(leastPage, size))
	if err := readAll(r, page, 0); isEOF(err) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	return page, nil
}

// readAll fills p, also where reads run short.
func readAll(r io.ReaderAt, p []byte, off int64) error {
	_, err := io.ReadFull(io.NewSectionReader(r, off, int64(len(p))), p)
	return err
}

// leastPage is the size of the smallest page.
const leastPage = 512 // bytes

func reservesChecksums(header []byte) bool { return header[20] == checksumBytes }

func hasChecksum(page []byte) bool {
	end := len(page) - checksumBytes
	return checksum(page[:end]) == [checksumBytes]byte(page[end:])
}

func setChecksum(page []byte) {
	end := len(page) - checksumBytes
	sum := checksum(page[:end])
	copy(page[end:], sum[:])
}

// checksum sums up 32-bit words twice over, in little-endian order as the driver
// has it.
func checksum(p []byte) (sum [checksumBytes]byte) {
	var a, b uint32
	for ; len(p) >= 8; p = p[8:] {
		a += binary.LittleEndian.Uint32(p) + b
		b += binary.LittleEndian.Uint32(p[4:]) + a
	}
	binary.LittleEndian.PutUint32(sum[:], a)
	binary.LittleEndian.PutUint32(sum[4:], b)
	return sum
}
