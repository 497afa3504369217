package backup_test

import (
	"context"
	"errors"
	"io"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/atocore/backup"
)

// While Quiesce of one source takes its time, the host's own driver locks
// another database, in a tree that has been looked through by then.
func TestDatabaseInATreeThatIsLockedMeanwhileIsRefused(t *testing.T) {
	w := osWorld(t)
	w.exec(t, "a.db", "CREATE TABLE t (x)")
	w.exec(t, "tree/b.db", "CREATE TABLE t (x)")
	src := w.database("a.db")
	src.Quiesce = func(context.Context) (func(), error) {
		host, err := os.OpenFile(w.path("tree/b.db"), os.O_RDWR, 0)
		if err != nil {
			return nil, err
		}
		t.Cleanup(func() { host.Close() })
		lock := unix.Flock_t{Type: unix.F_RDLCK, Whence: io.SeekStart, Start: 0x40000002, Len: 510} // SQLite's SHARED
		return nil, unix.FcntlFlock(host.Fd(), unix.F_SETLK, &lock)
	}
	_, err := w.store(t, withSources(src, w.treeSource("tree"))).Create(t.Context(), nil)
	if !errors.Is(err, backup.ErrForeignDriver) {
		t.Errorf("got %v, want %v", err, backup.ErrForeignDriver)
	}
}
