package backup

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/ncruces/go-sqlite3"
	"github.com/spf13/afero"
)

// A file of a tree was empty when its header was looked at, and then cloned in
// the middle of a transaction of the service that made a database of it.
func TestCloneOfWhatHasBecomeADatabaseIsNoFile(t *testing.T) {
	at, err := openDir(afero.NewOsFs(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer at.close()
	clone := place{at, "clone.db"}
	service, err := sqlite3.Open(clone.full())
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(service.Exec("CREATE TABLE t (x)"), service.Close()); err != nil {
		t.Fatal(err)
	}
	live, err := os.Create(filepath.Join(at.base, "live.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer live.Close()
	before, err := statSource(live)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := live.WriteString("changed"); err != nil {
		t.Fatal(err)
	}
	now, err := statSource(live)
	if err != nil {
		t.Fatal(err)
	}
	c := &copier{t: &target{Source: &Source{Kind: Tree}}}
	e := entry{Type: typeFile}
	_, err = c.isOfOneInstant(t.Context(), &e, live, before, now, clone, copied{dst: newFile{cloned: true}})
	if !errors.Is(err, errIsDatabase) {
		t.Errorf("got %v, want %v", err, errIsDatabase)
	}
	raw := entry{Type: typeRaw}
	if stable, err := c.isOfOneInstant(t.Context(), &raw, live, before, now, clone, copied{dst: newFile{cloned: true}}); !stable || err != nil {
		t.Errorf("copied as it lies: %v, %v", stable, err)
	}
}
