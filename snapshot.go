package backup

import (
	"fmt"
	"regexp"
	"time"
)

// A Snapshot describes one snapshot as its metadata has it.
type Snapshot struct {
	Stamp       string    `json:"stamp"`        // its directory's name, UTC
	CreatedAt   time.Time `json:"created_at"`   // when it was taken
	HasMetadata bool      `json:"has_metadata"` // reports whether it was finished

	Sources []SourceState `json:"sources"` // in the order of [Config.Sources]
	Files   int           `json:"files"`   // regular files and databases in all sources
	Bytes   int64         `json:"bytes"`   // their sizes, summed

	// Validated reports whether the copy was read back, as thoroughly as
	// Level says, and found good when it was taken; Problems says what was
	// found otherwise: the first thousands, and how many more. A snapshot of
	// Origin "atocore" may carry no verdict: neither validated nor problems. Of
	// these, and of one without metadata, Level says nothing.
	Level     Level     `json:"level"`
	Validated bool      `json:"validated"`
	Problems  []Problem `json:"validation_errors"`

	Pinned bool              `json:"pinned"` // never removed by [Store.Cleanup]
	Labels map[string]string `json:"labels,omitempty"`
	Origin string            `json:"origin"` // one of the Origin constants

	// InUse reports whether somebody was creating, validating or restoring
	// the snapshot when it was listed.
	InUse bool `json:"in_use,omitempty"`
}

// Where a snapshot comes from.
const (
	OriginManual     = "manual"      // somebody asked for it
	OriginScheduled  = "scheduled"   // a timer did: [CreateOptions].Origin
	OriginPreRestore = "pre_restore" // a safety snapshot, taken by [Store.Restore]
	OriginATOCore    = "atocore"     // the Python module of the ATOCore service
)

// Source returns the state of the source called name, if the snapshot knows
// it.
func (s *Snapshot) Source(name string) (SourceState, bool) {
	for _, src := range s.Sources {
		if src.Name == name {
			return src, true
		}
	}
	return SourceState{}, false
}

// Err returns nil, or the problems as one error. A snapshot that
// [Store.Create] has returned without an error may have problems, too.
func (s *Snapshot) Err() error { return joinProblems(s.Problems) }

// good reports whether the snapshot may be relied on: finished, and not
// known to be damaged. Snapshots of the Python module that carry no verdict
// pass, for lack of a better witness.
func (s *Snapshot) good() bool {
	if !s.HasMetadata || len(s.Problems) > 0 {
		return false
	}
	return s.Validated || s.Origin == OriginATOCore
}

// A SourceState says what a snapshot holds of one source.
type SourceState struct {
	Name     string `json:"name"`
	Kind     Kind   `json:"kind"`
	Captured bool   `json:"captured"` // false: missing and optional, vanished, or not asked for
	Path     string `json:"path"`     // in the snapshot's directory, slash-separated; "" if not captured
	Files    int    `json:"files"`    // regular files and databases
	Bytes    int64  `json:"bytes"`

	// Skipped lists the sockets, pipes and devices of a tree, which are
	// never copied: slash-separated paths relative to the tree.
	// Beyond some thousands, SkippedMore counts them.
	Skipped     []string `json:"skipped,omitempty"`
	SkippedMore int      `json:"skipped_more,omitempty"`
}

// stampLayout is the form of a stamp: a second of UTC.
const stampLayout = "20060102T150405Z"

var stampPattern = regexp.MustCompile(`^[0-9]{8}T[0-9]{6}Z$`)

// parseStamp returns the time that a stamp stands for, or [ErrInvalidStamp].
// Nothing that fails it may become part of a path.
func parseStamp(stamp string) (time.Time, error) {
	if !stampPattern.MatchString(stamp) {
		return time.Time{}, fmt.Errorf("%w (got %q)", ErrInvalidStamp, stamp)
	}
	t, err := time.Parse(stampLayout, stamp)
	if err != nil {
		return time.Time{}, fmt.Errorf("%w (got %q)", ErrInvalidStamp, stamp)
	}
	return t, nil
}

func formatStamp(t time.Time) string { return t.UTC().Format(stampLayout) }
