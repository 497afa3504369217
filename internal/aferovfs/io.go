package aferovfs

import (
	"errors"
	"io"
)

// readFull reads into p from off, going on after short reads. At the end of
// the file it returns what there is and [io.EOF] itself, for go-sqlite3
// compares: with any other error, SQLite would not see the end, and with no
// error at all it would take what its buffer held before for data.
//
// size tells where the end is. It is asked when r claims to be there, since
// file systems call other things an EOF too. A file may grow meanwhile: SQLite
// looks at the header before it takes a lock.
func readFull(r io.ReaderAt, p []byte, off int64, size func() (int64, error)) (n int, err error) {
	for again := false; ; {
		m, err := r.ReadAt(p[n:], off+int64(n))
		n += m
		switch {
		case n == len(p):
			return n, nil
		case err == nil && m == 0:
			return n, io.ErrNoProgress
		case err != nil && !isEOF(err):
			return n, err
		case m > 0:
			again = false
			continue
		}
		end, err := size()
		switch {
		case err != nil:
			return n, err
		case off+int64(n) >= end:
			return n, io.EOF
		case again:
			return n, io.ErrUnexpectedEOF
		}
		again = true
	}
}

// isEOF reports whether err is what file systems return at the end of a file,
// or past it.
func isEOF(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}

// writeFull writes p at off. Writing less is an error.
func writeFull(w io.WriterAt, p []byte, off int64) (int, error) {
	n, err := w.WriteAt(p, off)
	if err == nil && n != len(p) {
		err = io.ErrShortWrite
	}
	return n, err
}
