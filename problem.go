package backup

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
)

// A Code names one kind of damage or shortcoming of a snapshot. Codes are
// stable strings, fit for monitoring, and are errors themselves:
//
//	errors.Is(report.Err(), backup.CodeDatabaseMissing)
//
// holds through any wrapping. Codes that end in "_missing" also match
// [fs.ErrNotExist].
type Code string

// What can be wrong with the snapshot as a whole.
const (
	CodeSnapshotMissing Code = "snapshot_directory_missing" // no directory of that name
	CodeMetadataMissing Code = "metadata_missing"           // unfinished, interrupted, or half deleted
	CodeMetadataInvalid Code = "metadata_invalid"           // unreadable, or fails its own checksum
	CodeManifestMissing Code = "manifest_missing"
	CodeManifestInvalid Code = "manifest_invalid" // unreadable, or not the one that the metadata names
)

// What can be wrong with something in it.
const (
	CodeDatabaseMissing Code = "db_missing"

	// CodeDatabaseCorrupt: empty, no SQLite database, or refused by SQLite's
	// own checks. A sound database may be: where an index on an expression,
	// or on a generated column, holds computed floating-point numbers, another
	// release of SQLite may get other ones. See "Not promised" in the package
	// comment.
	CodeDatabaseCorrupt Code = "db_corrupt"

	CodeFileMissing      Code = "file_missing"
	CodeTreeMissing      Code = "tree_missing"
	CodeChecksumMismatch Code = "checksum_mismatch"
	CodeSizeMismatch     Code = "size_mismatch"
	CodeTypeMismatch     Code = "type_mismatch"   // a file where the manifest has a directory, a link that points elsewhere, …
	CodeUnexpectedFile   Code = "unexpected_file" // not in the manifest: a sidecar, a stray file
	CodeUnreadable       Code = "unreadable"      // what the file system would not read: an entry, the manifest, the metadata
	CodeCheckFailed      Code = "check_failed"    // the host's [Source.Check], or a check that could not run
)

// What can go wrong while a copy is taken. The snapshot is intact as far as
// it goes, but it is not a faithful picture of the source.
const (
	CodeFileChanged  Code = "file_changed"  // changed under each of several attempts to copy it, or see its Detail
	CodeFileVanished Code = "file_vanished" // was listed, and gone when it was copied
	CodeRawCopy      Code = "raw_copy"      // a database that could not be copied hot; its files were copied as they lay

	// CodeSourceUnreadable: a source, or something in it, could not be read
	// for damage to its medium, and is left out. Only a safety snapshot is
	// taken all the same.
	CodeSourceUnreadable Code = "source_unreadable"
)

// captureCodes are recorded when a snapshot is taken and cannot be found, or
// refuted, by looking at it later.
var captureCodes = []Code{CodeFileChanged, CodeFileVanished, CodeRawCopy, CodeSourceUnreadable}

func (c Code) Error() string { return string(c) }

// Is reports whether target is [fs.ErrNotExist] and c says that something is
// missing.
func (c Code) Is(target error) bool {
	return target == fs.ErrNotExist && strings.HasSuffix(string(c), "_missing")
}

// A Problem is one thing that is wrong with a snapshot. It is an error that
// unwraps to its Code.
type Problem struct {
	Code   Code   `json:"code"`
	Source string `json:"source,omitempty"` // the source's name; "" for the snapshot itself
	Path   string `json:"path,omitempty"`   // inside the snapshot, slash-separated
	Detail string `json:"detail,omitempty"` // for people; never the content of a file
}

func (p Problem) Error() string {
	var b strings.Builder
	b.WriteString(string(p.Code))
	if p.Path != "" {
		fmt.Fprintf(&b, ": %q", p.Path)
	} else if p.Source != "" {
		fmt.Fprintf(&b, ": source %q", p.Source)
	}
	if p.Detail != "" {
		b.WriteString(": " + p.Detail)
	}
	return b.String()
}

func (p Problem) Unwrap() error { return p.Code }

// joinProblems returns nil, or the problems as one error.
func joinProblems(problems []Problem) error {
	if len(problems) == 0 {
		return nil
	}
	return &joinedProblems{problems}
}

// joinedProblems is what [errors.Join] makes of problems, but for a text that has
// an end: of a snapshot whose files are gone, all are missing.
type joinedProblems struct{ problems []Problem }

func (j *joinedProblems) Error() string {
	const told = 20
	var lines []string
	for _, p := range j.problems[:min(len(j.problems), told)] {
		lines = append(lines, p.Error())
	}
	if more := len(j.problems) - told; more > 0 {
		lines = append(lines, fmt.Sprintf("and %d more problems", more))
	}
	return strings.Join(lines, "\n")
}

func (j *joinedProblems) Unwrap() []error {
	errs := make([]error, len(j.problems))
	for i, p := range j.problems {
		errs[i] = p
	}
	return errs
}

// Why an operation was refused or could not be finished. I/O failures stay
// wrapped as they are: use errors.As with [*fs.PathError].
var (
	// ErrNotConfirmed: [Store.Restore] was called without
	// ConfirmServiceStopped.
	ErrNotConfirmed = errors.New("restore needs ConfirmServiceStopped: stop the service, then confirm")

	// ErrServiceRunning: somebody has a database open that Restore is about
	// to replace, or writes to what it replaces.
	ErrServiceRunning = errors.New("the service is still running")

	// ErrInvalidSnapshot: the snapshot is missing, unfinished or damaged.
	ErrInvalidSnapshot = errors.New("snapshot failed validation")

	// ErrBusy: a lock was not to be had: a database is locked by its writer,
	// a snapshot is in use, or another operation holds the store.
	ErrBusy = errors.New("busy")

	// ErrNoSpace: the file system has less room than the copy needs. Create
	// has written nothing, and Restore has replaced nothing. (A disk that
	// fills up while they write gives its own error, as do quotas: then, too,
	// what was written is removed, and nothing was replaced.)
	ErrNoSpace = errors.New("not enough free space")

	// ErrDurabilityUnknown: everything was written and is in place, but the
	// last sync of a directory failed, so that a power cut may undo it.
	ErrDurabilityUnknown = errors.New("durability unknown")

	// ErrRecoveryPending: a restore was interrupted. Call [Store.Recover]
	// before anything else. If the phase in its text is "discard", the state
	// is in place, and files that are of no use any more could not be removed:
	// remove them by hand, or mend what keeps them, before you call it.
	ErrRecoveryPending = errors.New("an interrupted restore is pending: call Recover before the service opens its state")

	// ErrUnknownSource: an option names a source that is not configured, or
	// that the snapshot did not capture.
	ErrUnknownSource = errors.New("unknown source")

	// ErrInvalidStamp: not a snapshot's name such as 20060102T150405Z.
	ErrInvalidStamp = errors.New("invalid stamp: want one like 20060102T150405Z")

	// ErrForeignDriver: the database is open in this process through another
	// SQLite driver, whose locks we would drop by opening the file. To back
	// it up, set [Source.DB]; to restore it, close it.
	ErrForeignDriver = errors.New("open in this process through another SQLite driver: set Source.DB to back it up, close it to restore it")
)
