package aferovfs

import (
	"crypto/rand"
	"fmt"
	"sync"

	"github.com/ncruces/go-sqlite3"
	"github.com/ncruces/go-sqlite3/vfs"
)

// A registration is one name in go-sqlite3's table of VFSes, and what has
// happened to the files opened through it.
type registration struct {
	name string
	once bool // unregister as soon as no file is open

	mu    sync.Mutex
	open  int   // files
	first error // the first failure of any of them
}

// register gives v a name that no other VFS in this process has, not even
// that of another copy of this package.
func (r *registration) register(v vfs.VFS) (name string, unregister func() error) {
	r.name = "aferovfs-" + rand.Text()
	vfs.Register(r.name, v)
	return r.name, r.unregister
}

func (r *registration) unregister() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.open > 0 {
		return fmt.Errorf("unregister %s: %d files are still open", r.name, r.open)
	}
	vfs.Unregister(r.name)
	return r.first
}

func (r *registration) opened() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.open++
}

func (r *registration) closed() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.open--
	if r.once && r.open == 0 {
		vfs.Unregister(r.name)
	}
}

// note remembers err if it is the first failure.
func (r *registration) note(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.first == nil {
		r.first = err
	}
}

// A trail remembers why a connection last failed. Its database, journal and
// log share one.
//
// go-sqlite3 attaches to an error the cause that the latest call of a VFS
// left behind, and a call that succeeds leaves none. But SQLite rolls back
// and unlocks before it returns an error, and by then the cause is gone. So
// a trail hands the cause in again with each success, as an error whose code
// is OK. That ends where the next transaction begins.
type trail struct {
	reg   *registration
	cause error
}

// fail returns err for SQLite, with the given code.
func (t *trail) fail(err error, code sqlite3.ExtendedErrorCode) error {
	t.reg.note(err)
	t.cause = err
	return vfs.SystemError(err, code)
}

// ok returns success for SQLite, along with the cause of an earlier failure.
func (t *trail) ok() error {
	const codeOK sqlite3.ErrorCode = 0
	return vfs.SystemError(t.cause, codeOK)
}
