package drivers

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestDanger shows why the library would rather refuse than open a file that
// such a driver has: opening the files of a database and closing them, which
// is all that a copy of its directory does, gives up the host's locks, and
// another process can have them.
func TestDanger(t *testing.T) {
	eachState(t, func(t *testing.T, h *host, st state, mode string) {
		st.begin(t, h)
		before := heldLocks(t, h.path)
		if len(before) == 0 {
			t.Skip("no lock to lose")
		}
		w := newWatch(t, h.path)
		if err := openClose(h.path); err != nil {
			t.Fatal(err)
		}
		want := map[string][]string{
			rollback: {"app.db opened", "app.db closed"},
			wal: {
				"app.db opened", "app.db closed", "app.db-wal opened", "app.db-wal closed",
				"app.db-shm opened", "app.db-shm closed",
			},
		}[mode]
		if diff := cmp.Diff(w.seen(), want); diff != "" {
			t.Errorf("events (-got +want):\n%s", diff)
		}
		if after := heldLocks(t, h.path); len(after) > 0 {
			t.Errorf("locks: before %q, after %q: it is no danger", before, after)
		}
		if got := h.try(t, st.try); got != "done" {
			t.Errorf("%s in another process: %s: it is no danger", st.try, got)
		}
	})
}
