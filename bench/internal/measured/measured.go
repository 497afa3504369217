// Package measured measures what a process does, and tells the process that
// started it.
package measured

import (
	"encoding/json"
	"io"
	"time"
)

// A Report is what a process has to say of the work that it did.
type Report struct {
	Seconds float64
	OwnKiB  int64 // peak resident memory of the process itself
	Tools   int64 // KiB; that of the largest program it started, 0 if it started none
	Written int64 // bytes given to the block layer, by either; negative if nobody counts

	LongestCommit float64 // seconds; of a writer
	Commits       int     // of a writer
}

// Run does the work and reports. The time begins with the work and not with
// the process: who calls this library, or PocketBase's, is running already.
// Tools are started by the work, which is what they cost.
func Run(out io.Writer, work func(*Report) error) error {
	var r Report
	before := usage().Written
	began := time.Now()
	if err := work(&r); err != nil {
		return err
	}
	r.Seconds = time.Since(began).Seconds()
	used := usage()
	r.OwnKiB, r.Tools, r.Written = used.OwnKiB, used.Tools, used.Written
	if before > 0 {
		r.Written -= before
	}
	return json.NewEncoder(out).Encode(r)
}
