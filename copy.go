package backup

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"hash"
	"io"
	"sync"

	"github.com/spf13/afero"
)

// copyBuffer is the size of one step of a copy, and how far one runs past
// the end of its context.
const copyBuffer = 1 << 20 // bytes

var copyBuffers = sync.Pool{New: func() any { return new([copyBuffer]byte) }}

// copyBytes copies r to w and tells moved of each step. It is the one copy
// loop.
func copyBytes(ctx context.Context, w io.Writer, r io.Reader, moved func(n int64)) (int64, error) {
	buf := copyBuffers.Get().(*[copyBuffer]byte)
	defer copyBuffers.Put(buf)
	var total int64
	for {
		if err := ctx.Err(); err != nil {
			return total, err
		}
		n, err := r.Read(buf[:])
		if n > 0 {
			if err := writeFull(w, buf[:n]); err != nil {
				return total, err
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

// A copied says what came of a copy.
type copied struct {
	size   int64  // bytes
	sha256 string // of what was read
	cloned bool   // it shares the blocks of the source as they were at first
}

// copyPlain copies the first size bytes of src to dst, which is empty, or as
// many as there are, for who reads the copy back. Where the file system can,
// dst becomes a clone of src.
func copyPlain(ctx context.Context, dst afero.File, src io.ReaderAt, size int64, moved func(n int64)) error {
	cloned, err := cloneFile(dst, src, size)
	if err != nil {
		return err
	}
	if cloned {
		moved(size)
		return nil
	}
	_, err = copyBytes(ctx, dst, io.NewSectionReader(src, 0, size), moved)
	return err
}

// copyHashed is copyPlain, and hashes what it reads of src: if that changes
// meanwhile, the sum is not that of a clone.
func copyHashed(ctx context.Context, dst afero.File, src io.ReaderAt, size int64, moved func(n int64)) (c copied, err error) {
	if c.cloned, err = cloneFile(dst, src, size); err != nil {
		return c, err
	}
	sum := sha256.New()
	var w io.Writer = sum
	if !c.cloned {
		w = &hashBeside{dst: dst, sum: sum}
	}
	c.size, err = copyBytes(ctx, w, io.NewSectionReader(src, 0, size), moved)
	c.sha256 = hex.EncodeToString(sum.Sum(nil))
	return c, err
}

// A hashBeside hashes what it writes, on another core.
type hashBeside struct {
	dst io.Writer
	sum hash.Hash
}

func (w *hashBeside) Write(p []byte) (int, error) {
	const worthwhile = 64 << 10 // bytes
	if len(p) < worthwhile {
		w.sum.Write(p) // never fails: see package hash
		return w.dst.Write(p)
	}
	hashed := make(chan struct{})
	go func() {
		defer close(hashed)
		w.sum.Write(p)
	}()
	n, err := w.dst.Write(p)
	<-hashed
	return n, err
}

func hashOf(ctx context.Context, r io.Reader) (string, error) {
	sum := sha256.New()
	_, err := copyBytes(ctx, sum, r, func(int64) {})
	return hex.EncodeToString(sum.Sum(nil)), err
}
