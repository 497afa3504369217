package backup

import (
	"testing"

	"github.com/spf13/afero"
)

// Of a file system that is not known, nothing is believed: neither its times,
// nor that one sync of all of it is one.
func TestUnknownFileSystemIsNotTrusted(t *testing.T) {
	d, err := openDir(afero.NewOsFs(), "/proc")
	if err != nil {
		t.Skip("no /proc: ", err)
	}
	defer d.close()
	if d.tellsChanges() {
		t.Error("its times are believed")
	}
	if err := d.beginBatch(1000); err != nil || d.batch != nil {
		t.Errorf("its files are synced all at once, %v", err)
	}
}
