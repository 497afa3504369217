package crashfs

import "slices"

const (
	blockSize = 4096

	// maxFileSize bounds the table of blocks of a sparse file, which is not
	// sparse itself. Beyond is EFBIG.
	maxFileSize = 1 << 34
)

// A block is a stretch of a file's content. Once it is shared by several
// contents nobody writes to it any more, nor to the flag that says so: file
// systems that share blocks need no lock in common.
type block struct {
	shared bool
	data   [blockSize]byte
}

// content is the bytes of a file. Copies share their blocks until one of them
// writes. A block that is nil, or behind the end of blocks, is a hole.
type content struct {
	blocks []*block
	size   int64 // bytes
}

func (c *content) snapshot() content {
	for _, b := range c.blocks {
		if b != nil && !b.shared {
			b.shared = true
		}
	}
	return content{blocks: slices.Clone(c.blocks), size: c.size}
}

// readAt fills p from off on, and returns how many bytes there were.
func (c *content) readAt(p []byte, off int64) int {
	if off >= c.size {
		return 0
	}
	p = p[:min(int64(len(p)), c.size-off)]
	for done := 0; done < len(p); {
		i, at := blockOf(off + int64(done))
		part := p[done:min(len(p), done+blockSize-at)]
		if i < len(c.blocks) && c.blocks[i] != nil {
			copy(part, c.blocks[i].data[at:])
		} else {
			clear(part)
		}
		done += len(part)
	}
	return len(p)
}

func (c *content) writeAt(p []byte, off int64) {
	if len(p) == 0 {
		return
	}
	for done := 0; done < len(p); {
		i, at := blockOf(off + int64(done))
		done += copy(c.own(i).data[at:], p[done:])
	}
	c.size = max(c.size, off+int64(len(p)))
}

func (c *content) truncate(size int64) {
	if size < c.size {
		i, at := blockOf(size)
		if i < len(c.blocks) && c.blocks[i] != nil && at > 0 {
			clear(c.own(i).data[at:]) // or growing again would show it
			i++
		}
		c.blocks = slices.Delete(c.blocks, min(i, len(c.blocks)), len(c.blocks))
	}
	c.size = size
}

// own returns block i for writing.
func (c *content) own(i int) *block {
	if missing := i + 1 - len(c.blocks); missing > 0 {
		c.blocks = append(c.blocks, make([]*block, missing)...)
	}
	switch b := c.blocks[i]; {
	case b == nil:
		c.blocks[i] = new(block)
	case b.shared:
		c.blocks[i] = &block{data: b.data}
	}
	return c.blocks[i]
}

func blockOf(off int64) (i, at int) {
	return int(off / blockSize), int(off % blockSize)
}
