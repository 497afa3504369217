package backup

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"hash"
	"io"
	"os"
	"sync"

	"github.com/spf13/afero"
)

// copyBuffer is the size of one step of a copy, and how far one runs past
// the end of its context.
const copyBuffer = 256 << 10 // bytes

var copyBuffers = sync.Pool{New: func() any { return new([copyBuffer]byte) }}

// copyBytes copies r to w and tells moved of each step. It is the one copy
// loop.
func copyBytes(ctx context.Context, w io.Writer, r io.Reader, moved func(n int64)) (int64, error) {
	buf := copyBuffers.Get().(*[copyBuffer]byte)
	defer func() { copyBuffers.Put(buf) }()
	var total int64
	for {
		if err := ctx.Err(); err != nil {
			return total, err
		}
		if n := copyInKernel(w, r, len(buf)); n > 0 {
			total += n
			moved(n)
			continue
		}
		n, err := r.Read(buf[:])
		if n > 0 {
			if err := writeFull(w, buf[:n]); err != nil {
				return total, err
			}
			if k, ok := w.(keeper); ok {
				buf = k.keep(buf, n)
			}
			total += int64(n)
			moved(int64(n))
		}
		if err == io.EOF {
			return total, nil
		}
		if err != nil {
			return total, err
		}
	}
}

// A keeper is a writer that takes the buffer of which it has written the first n
// bytes, and gives another for it: to hand on what it holds costs nothing then.
type keeper interface {
	keep(buf *[copyBuffer]byte, n int) *[copyBuffer]byte
}

// copyInKernel copies at most n bytes of a part of a file to a new one, and
// returns how many: none if that is not what r and w are, if less is left, or if
// it cannot be done. Whoever then reads and writes gets to know why.
func copyInKernel(w io.Writer, r io.Reader, n int) int64 {
	to, isFile := w.(*earlyWriter)
	part, isPart := r.(*io.LimitedReader)
	if !isFile || !isPart || part.N < int64(n) {
		return 0
	}
	dst, isNative := to.file.(*os.File)
	src, bothAre := part.R.(*os.File)
	if !isNative || !bothAre {
		return 0
	}
	copied := copyRange(dst, src, n)
	part.N -= copied
	to.wrote(copied)
	return copied
}

// unreported is for bytes of which nobody is told.
func unreported(int64) {}

// A cloning says whether files of a directory can be clones of each other.
type cloning int

const (
	clonesUnknown cloning = iota // it cannot be tried without a file
	clonesAlways
	clonesNever
)

// copyPlain copies the first size bytes of src, of which nothing was read yet, to
// dst, or as many as there are, for who reads the copy back.
func copyPlain(ctx context.Context, dst newFile, src io.Reader, size int64, moved func(n int64)) error {
	if dst.cloned {
		moved(size)
		return nil
	}
	_, err := copyBytes(ctx, &earlyWriter{file: dst.File}, io.LimitReader(src, size), moved)
	return err
}

// A copied says what came of a copy.
type copied struct {
	dst    newFile // closed by now
	size   int64   // bytes
	sha256 string  // of what was read
}

// copyHashed copies src, which has size bytes, about, and hashes what it reads: if
// that changes meanwhile, the sum is not that of a clone.
func copyHashed(ctx context.Context, dst newFile, src io.Reader, size int64, moved func(n int64)) (c copied, err error) {
	c.dst = dst
	w := hashedWriter{sum: newHashBeside(size)}
	defer func() { c.sha256 = w.sum.end() }()
	if !dst.cloned {
		w.early = &earlyWriter{file: dst.File}
	}
	c.size, err = copyBytes(ctx, w, src, moved)
	return c, err
}

// A hashedWriter hashes what it has written.
type hashedWriter struct {
	early *earlyWriter // nil: nothing is to be written
	sum   *hashBeside
}

func (w hashedWriter) Write(p []byte) (int, error) {
	if w.early == nil {
		return len(p), nil
	}
	return w.early.Write(p)
}

func (w hashedWriter) keep(buf *[copyBuffer]byte, n int) *[copyBuffer]byte { return w.sum.take(buf, n) }

// A hashBeside hashes what it takes on another core, while the copy goes on to
// read and write the next.
type hashBeside struct {
	sum   hash.Hash
	queue chan []byte   // nil: what is taken is hashed at once
	done  chan struct{} // closed when the queue has been hashed
}

// newHashBeside returns one for so many bytes, about. It must be ended.
func newHashBeside(size int64) *hashBeside {
	const worthwhile = copyBuffer // less is in the cache, and copied at once
	const ahead = 3               // buffers; the hash is what takes longest
	h := &hashBeside{sum: sha256.New()}
	if size < worthwhile {
		return h
	}
	h.queue, h.done = make(chan []byte, ahead), make(chan struct{})
	go func() {
		defer close(h.done)
		for p := range h.queue {
			h.sum.Write(p)
			copyBuffers.Put((*[copyBuffer]byte)(p[:copyBuffer]))
		}
	}()
	return h
}

// take hashes the first n bytes of a buffer, and returns one that can be written
// to meanwhile.
func (h *hashBeside) take(buf *[copyBuffer]byte, n int) *[copyBuffer]byte {
	if h.queue == nil {
		h.sum.Write(buf[:n]) // never fails: see package hash
		return buf
	}
	h.queue <- buf[:n]
	return copyBuffers.Get().(*[copyBuffer]byte)
}

// end returns the sum, in hexadecimal. Nothing may be taken after it.
func (h *hashBeside) end() string {
	if h.queue != nil {
		close(h.queue)
		<-h.done
	}
	return hex.EncodeToString(h.sum.Sum(nil))
}

// An earlyWriter writes to a new file, and has the disk begin with what has
// been written while there is more to come: the sync at the end, which is
// needed all the same, would else wait for all of it.
type earlyWriter struct {
	file    afero.File
	written int64 // bytes
	begun   int64 // of them
}

func (w *earlyWriter) Write(p []byte) (int, error) {
	n, err := w.file.Write(p)
	w.wrote(int64(n))
	return n, err
}

func (w *earlyWriter) wrote(n int64) {
	const step = 8 << 20 // bytes
	if w.written += n; w.written-w.begun >= step {
		beginWriteback(w.file, w.begun, w.written-w.begun)
		w.begun = w.written
	}
}

// hashOf returns the SHA-256 of r, in hexadecimal.
func hashOf(ctx context.Context, r io.Reader, moved func(n int64)) (string, error) {
	sum := sha256.New()
	_, err := copyBytes(ctx, sum, r, moved)
	return hex.EncodeToString(sum.Sum(nil)), err
}
