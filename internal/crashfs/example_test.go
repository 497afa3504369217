package crashfs_test

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/afero"

	"github.com/atocore/backup/internal/crashfs"
)

// replace puts content into the file name, whatever happens: all of it or
// nothing. It forgets one thing.
func replace(fsys afero.Fs, name, content string) (err error) {
	tmp := name + ".tmp"
	f, err := fsys.Create(tmp)
	if err != nil {
		return err
	}
	n, err := f.WriteString(content)
	if err == nil && n < len(content) {
		err = io.ErrShortWrite
	}
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return fsys.Rename(tmp, name)
}

// checkReplaced prints what is wrong with the file a in fsys: after replace
// it must be new, or, if replace had no success, at least old.
func checkReplaced(when string, fsys afero.Fs, done bool) {
	got, err := afero.ReadFile(fsys, "a")
	if err != nil || string(got) != "new" && (done || string(got) != "old") {
		fmt.Printf("%s: file is %q, error %v\n", when, got, err)
	}
}

func Example() {
	fixture := crashfs.New(crashfs.Options{})
	_ = afero.WriteFile(fixture, "a", []byte("old"), 0o600)
	fixture = fixture.Clone() // all of it durable

	// Run it once, to know its operations.
	fsys := fixture.Clone()
	_ = replace(fsys, "a", "new")
	ops := fsys.Log()

	// Let each of them fail, in every way.
	for _, op := range ops {
		for _, fault := range op.Faults() {
			fsys := fixture.Clone()
			fsys.Inject(fault)
			done := replace(fsys, "a", "new") == nil
			checkReplaced(fmt.Sprintf("%s, %s", op, fault), fsys.Clone(), done)
		}
	}

	// Cut the power before each of them, and after the last.
	for n := 1; n <= len(ops)+1; n++ {
		fsys := fixture.Clone()
		fsys.Inject(crashfs.CutAt(n))
		done := replace(fsys, "a", "new") == nil
		for label, left := range fsys.CrashStates(8) {
			checkReplaced(fmt.Sprintf("cut before #%d, %s", n, label), left, done)
		}
	}
	// Output:
	// cut before #6, all 2 lost: file is "old", error <nil>
	// cut before #6, lost #5: file is "old", error <nil>
}
