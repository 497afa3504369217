package backup

import (
	"bytes"
	"context"
	"net/url"
	"runtime"

	"github.com/atocore/backup/internal/aferovfs"
)

// CheckInParts checks a database as large ones are checked, and then as a
// whole. It returns whether the parts have passed, and what the whole says.
func CheckInParts(ctx context.Context, data []byte) (passed bool, whole []string, err error) {
	vfsName, release := aferovfs.RegisterReader(ctx, bytes.NewReader(data), int64(len(data)))
	crew := newCrew(runtime.GOMAXPROCS(0))
	err = crew.run(ctx, func(ctx context.Context, fail func(error)) error {
		crew.start(func() {
			f := &finishedCopy{ctx: ctx, size: int64(len(data)), crew: crew, uri: fileURI(aferovfs.DB, url.Values{"vfs": {vfsName}})}
			c, err := f.open(release)
			if err != nil {
				fail(err)
				return
			}
			defer c.Close() // nothing was written
			passed = f.soundInParts(f.parts(c))
			err = guard(func() (err error) {
				whole, err = runPragma(c, integrityPragma)
				return err
			})
			if err != nil {
				fail(err)
			}
		})
		return nil
	})
	return passed, whole, err
}
