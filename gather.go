package backup

// A gatherer hands the files that a walk comes upon to a crew, some of one
// directory at a time.
type gatherer struct {
	crew *crew
	work func(files []found) // done by a member

	from  *dir // where the files are
	files []found
	bytes int64
}

// A found is a file as a walk has seen it.
type found struct {
	place        // in a directory that is open until the work is done
	path  string // what the walk called it
	info  fileInfo
}

// So much is worth the while of handing it over.
const (
	handfulFiles = 64
	handfulBytes = 1 << 20
)

// add has a file worked on, together with others.
func (g *gatherer) add(at place, path string, fi fileInfo) {
	if g.from != at.dir {
		g.flush()
	}
	if len(g.files) == 0 {
		g.from = at.dir.share() // the walk goes on
	}
	g.files = append(g.files, found{at, path, fi})
	if g.bytes += fi.size; len(g.files) == handfulFiles || g.bytes >= handfulBytes {
		g.flush()
	}
}

// addAlone has a file worked on that takes longer than its size suggests.
func (g *gatherer) addAlone(at place, path string, fi fileInfo) {
	g.flush()
	g.add(at, path, fi)
	g.flush()
}

// flush has what was added worked on.
func (g *gatherer) flush() {
	from, files := g.from, g.files
	g.from, g.files, g.bytes = nil, nil, 0
	if len(files) == 0 {
		return
	}
	g.crew.start(func() {
		defer from.close()
		g.work(files)
	})
}
