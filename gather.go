package backup

import (
	"slices"
	"sync"
)

// A gatherer hands the files that a walk comes upon to a crew, some of one
// directory at a time.
type gatherer struct {
	crew *crew
	work func(files []found) // done by a member

	from  *dir   // where the files are
	letGo func() // of from, for who works on them
	files []found
	bytes int64
	spare sync.Pool // of *[]found: what has been worked on
}

// A found is a file as a walk has seen it.
type found struct {
	place        // in a directory that is open until the work is done
	path  string // what the walk called it
	info  fileInfo
}

// So much is worth the while of handing it over. (Two members who make files in
// one directory wait for each other: most directories are one handful.)
const (
	handfulFiles = 256
	handfulBytes = 1 << 20
)

// add has a file worked on, together with others.
func (g *gatherer) add(at place, path string, fi fileInfo) {
	if g.from != at.dir || len(g.files) >= handfulFiles || g.bytes >= handfulBytes {
		g.flush()
	}
	if len(g.files) == 0 {
		g.from = at.dir
		g.letGo = sync.OnceFunc(at.dir.retain().close) // the walk goes on
		if spare, ok := g.spare.Get().(*[]found); ok {
			g.files = *spare
		}
	}
	g.join(at, path, fi)
}

// join has a file worked on after one that g holds, by the same member.
func (g *gatherer) join(at place, path string, fi fileInfo) {
	g.files = append(g.files, found{at, path, fi})
	g.bytes += fi.size
}

// holds reports whether a file has been added, and nobody works on it yet.
func (g *gatherer) holds(path string) bool {
	return slices.ContainsFunc(g.files, func(f found) bool { return f.path == path })
}

// addAlone has a file worked on that takes longer than its size suggests.
func (g *gatherer) addAlone(at place, path string, fi fileInfo) {
	g.flush()
	g.add(at, path, fi)
	g.bytes = handfulBytes // or more
}

// gather has what a walk adds worked on, unless that fails.
func (g *gatherer) gather(walk func() error) error {
	defer func() { // also in a panic
		if g.letGo != nil {
			g.letGo()
		}
	}()
	err := walk()
	if err == nil {
		g.flush()
	}
	return err
}

// flush has what was added worked on.
func (g *gatherer) flush() {
	letGo, files := g.letGo, g.files
	g.from, g.files, g.bytes = nil, nil, 0
	if len(files) == 0 {
		return
	}
	g.crew.start(func() {
		defer letGo()
		g.work(files)
		clear(files)
		files = files[:0]
		g.spare.Put(&files)
	})
	g.letGo = nil // which would still be ours, had start panicked
}
