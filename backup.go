package backup

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/ncruces/go-sqlite3"
	"github.com/spf13/afero"
)

// Config says what a [Store] backs up, and where to.
type Config struct {
	// Dir is the store's root; required. Snapshots are directories under
	// Dir/snapshots. A Tree that it lies in leaves it out.
	Dir string

	// Sources are what to capture. Their names are unique and valid as
	// names of directories. A Tree leaves out the sources within it, which
	// may be captured another way: a Database through its DB, say.
	Sources []Source

	// Fs holds Dir and the sources. If nil, the operating system's.
	Fs afero.Fs

	// Retention is what Cleanup keeps. If zero, DefaultRetention().
	Retention Retention

	// Location is the calendar of Retention. If nil, UTC.
	Location *time.Location

	// BusyTimeout is how long to wait for databases that their writers have
	// locked, before [ErrBusy]: in all for those whose copies begin together,
	// as the writers of the others may have to wait meanwhile, and for each
	// that waits for its turn. If zero, 10 seconds.
	BusyTimeout time.Duration

	// Logger hears what was done and what was found. If nil, silence.
	Logger *slog.Logger

	// Progress is called, from the goroutine of the operation, as bytes are
	// copied or read back. Like every callback, it runs while the operation
	// holds its locks: it must not call a method of a Store on the same Dir
	// that changes anything, nor Validate of the snapshot that is at work,
	// which may wait for itself until its context ends. If it panics, what is
	// left is what a crash may leave. If nil, nothing is called.
	Progress func(Progress)

	// Now is the clock. If nil, time.Now.
	Now func() time.Time
}

// Kind is what a source is.
type Kind string

const (
	Database Kind = "database" // a live SQLite database, copied hot
	File     Kind = "file"     // one file
	Tree     Kind = "tree"     // a directory with all that is in it
)

// A Source is one thing to capture. Its name becomes the name of its
// directory in a snapshot.
type Source struct {
	Name string
	Kind Kind
	Path string // on Config.Fs

	// Optional: if it is missing, that is recorded, and not an error.
	Optional bool

	// OnRequest: captured only when CreateOptions.Include names it.
	OnRequest bool

	// LinkUnchanged: what has not changed in a Tree since the newest good
	// snapshot of it is neither read nor copied. The new snapshot has the
	// same file by another name, as a hard link. Databases are always copied.
	// See "Sharing" in the package comment for where that is done, what it
	// saves and what it risks. Where files can be clones, they are without
	// this.
	LinkUnchanged bool

	// Quiesce is called before the source is copied, and the function that
	// it returns right after the copy, whatever happens: it holds writers
	// off that no lock of SQLite's holds. For a Database it is called before
	// any of them is copied, as the read transactions of all begin first.
	// It must not call the Store either: see [Config].Progress. If nil,
	// nothing is called.
	Quiesce func(ctx context.Context) (release func(), err error)

	// DB is the host's own handle on a Database, on any driver. If not nil,
	// the database is captured through it, by VACUUM INTO, and its file is
	// never opened by this library while Create runs. That takes a connection
	// of the pool: if none is free for BusyTimeout, Create answers [ErrBusy].
	// Hosts on a driver other than ncruces/go-sqlite3 need it: see the package
	// comment.
	DB *sql.DB

	// Check is the host's own test of a copy of a Database, after SQLite's:
	// conn is open on the copy, read-only. Those of several sources are
	// called one after the other, in any order. A safety snapshot is not put to
	// it, as there must be a way back. It must not call the Store: see
	// [Config].Progress. If nil, SQLite's checks suffice.
	Check func(ctx context.Context, conn *sqlite3.Conn) error
}

// Progress tells how far an operation has come with one source.
type Progress struct {
	Op     string // "create", "validate" or "restore"
	Source string
	Done   int64 // bytes of this source; those that are read back count again
	Total  int64 // bytes, as measured when the operation began
}

var kinds = []Kind{Database, File, Tree}

// Level says how thoroughly a snapshot is validated.
type Level int

const (
	// ValidateFull reads every byte, compares every checksum, and runs
	// integrity_check on every database.
	ValidateFull Level = iota

	// ValidateQuick is ValidateFull with quick_check, which does not compare
	// indexes with their tables.
	ValidateQuick

	// ValidateStructure compares what is there, and of which type and size,
	// with the manifest. It reads metadata, manifest and headers alone.
	ValidateStructure
)

var levelNames = []string{"full", "quick", "structure"}

// String returns "full", "quick" or "structure".
func (l Level) String() string {
	if l.valid() {
		return levelNames[l]
	}
	return fmt.Sprintf("Level(%d)", int(l))
}

func (l Level) valid() bool { return l >= 0 && int(l) < len(levelNames) }

// MarshalText returns what String does.
func (l Level) MarshalText() ([]byte, error) {
	if !l.valid() {
		return nil, fmt.Errorf("%v: no such level", l)
	}
	return []byte(l.String()), nil
}

// UnmarshalText accepts what String returns.
func (l *Level) UnmarshalText(text []byte) error {
	i := slices.Index(levelNames, string(text))
	if i < 0 {
		return fmt.Errorf("level %q: want one of %v", text, levelNames)
	}
	*l = Level(i)
	return nil
}

// A Store backs up the sources of one [Config]. Its methods are safe for
// concurrent use, by goroutines and by processes.
type Store struct {
	cfg Config
}

// New returns a Store for cfg, or an error that joins every mistake in it.
// It touches no file.
func New(cfg Config) (*Store, error) {
	cfg.Sources = slices.Clone(cfg.Sources)
	if cfg.Fs == nil {
		cfg.Fs = afero.NewOsFs()
	}
	if cfg.Retention == (Retention{}) {
		cfg.Retention = DefaultRetention()
	}
	if cfg.Location == nil {
		cfg.Location = time.UTC
	}
	if cfg.BusyTimeout == 0 {
		cfg.BusyTimeout = 10 * time.Second
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Progress == nil {
		cfg.Progress = func(Progress) {}
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if err := cfg.normalize(); err != nil {
		return nil, fmt.Errorf("backup: config: %w", err)
	}
	return &Store{cfg: cfg}, nil
}

// normalize makes the paths of cfg absolute and joins all that is wrong with
// it.
func (cfg *Config) normalize() error {
	var mistakes []error
	mistake := func(format string, args ...any) { mistakes = append(mistakes, fmt.Errorf(format, args...)) }

	var err error
	if cfg.Dir == "" {
		mistake("dir is empty: name the directory to keep snapshots in")
	} else if cfg.Dir, err = absolute(cfg.Fs, cfg.Dir); err != nil {
		mistake("dir: %w", err)
	}
	if cfg.BusyTimeout < 0 {
		mistake("busy timeout is negative: leave it zero for the default")
	}
	if err := cfg.Retention.validate(); err != nil {
		mistake("retention: %w", err)
	}
	if len(cfg.Sources) == 0 {
		mistake("no sources: there is nothing to back up")
	}
	for i := range cfg.Sources {
		src := &cfg.Sources[i]
		for _, err := range src.mistakes(cfg.Fs) {
			mistake("source %d, %q: %w", i, src.Name, err)
		}
		for j, other := range cfg.Sources[:i] {
			if strings.EqualFold(src.Name, other.Name) {
				mistake("source %d, %q: the name is taken by source %d", i, src.Name, j)
			}
			if src.clashes(other.Path, other.Kind) {
				mistake("source %d, %q: its path and that of %q contain one another, and the outer one is no tree", i, src.Name, other.Name)
			}
			if src.isSidecarOf(&other) || other.isSidecarOf(src) {
				mistake("source %d, %q: its path is that of a sidecar of %q, or the other way round: a Database has its -wal, -shm and -journal", i, src.Name, other.Name)
			}
		}
		if cfg.Dir != "" && src.Path != "" && (within(src.Path, cfg.Dir) || src.Kind != Tree && within(cfg.Dir, src.Path)) {
			mistake("source %d, %q: its path lies in dir: keep what is backed up out of the backups", i, src.Name)
		}
	}
	return errors.Join(mistakes...)
}

// mistakes makes the source's path absolute and returns what is wrong with
// it taken by itself.
func (src *Source) mistakes(fsys afero.Fs) []error {
	var errs []error
	if err := validateSourceName(src.Name); err != nil {
		errs = append(errs, err)
	}
	if !slices.Contains(kinds, src.Kind) {
		errs = append(errs, fmt.Errorf("kind %q: want one of %q", src.Kind, kinds))
	}
	var err error
	if src.Path == "" {
		errs = append(errs, errors.New("its path is empty"))
	} else if src.Path, err = absolute(fsys, src.Path); err != nil {
		src.Path = "" // which clashes with nothing
		errs = append(errs, err)
	} else if base := filepath.Base(src.Path); src.Kind != Tree && !localName(base) {
		errs = append(errs, fmt.Errorf("path %q is not that of a file", src.Path))
	}
	if src.Kind != Database && src.DB != nil {
		errs = append(errs, errors.New("a DB is set, which is for databases alone"))
	}
	if src.Kind != Tree && src.LinkUnchanged {
		errs = append(errs, errors.New("LinkUnchanged is set, which is for trees alone"))
	}
	if src.Kind != Database && src.Check != nil {
		errs = append(errs, errors.New("a Check is set, which is for databases alone"))
	}
	return errs
}

// clashes reports whether the source and one of another path and kind want
// the same file. A source within a Tree does not: the tree leaves it out.
func (src *Source) clashes(other string, kind Kind) bool {
	switch {
	case src.Path == "" || other == "":
		return false
	case within(src.Path, other):
		return kind != Tree || within(other, src.Path)
	}
	return within(other, src.Path) && src.Kind != Tree
}

// isSidecarOf reports whether the source is what SQLite keeps beside a Database.
func (src *Source) isSidecarOf(db *Source) bool {
	suffix, ok := strings.CutPrefix(src.Path, db.Path)
	return ok && db.Kind == Database && db.Path != "" && slices.Contains(sidecars, suffix)
}

// within reports whether p is dir or below it.
func within(p, dir string) bool {
	root := string(filepath.Separator)
	rel, err := filepath.Rel(filepath.Join(root, dir), filepath.Join(root, p))
	return err == nil && filepath.IsLocal(rel)
}

// absolute returns p as it is to be used on fsys.
func absolute(fsys afero.Fs, p string) (string, error) {
	if strings.ContainsRune(p, 0) {
		return "", fmt.Errorf("path %q has a NUL byte", p)
	}
	if goesUpAgain(p) {
		return "", fmt.Errorf("path %q has .. after a name, which may be a link: write it without", p)
	}
	switch fsys.(type) {
	case *afero.OsFs, afero.OsFs:
		return filepath.Abs(p)
	}
	return filepath.Clean(p), nil // other file systems have no working directory
}

// goesUpAgain reports whether p has ".." after a name. To leave out both is
// not what a system does if the name is that of a symbolic link.
func goesUpAgain(p string) bool {
	named := false
	for name := range strings.SplitSeq(filepath.ToSlash(p), "/") {
		if name == ".." && named {
			return true
		}
		named = named || name != "" && name != "." && name != ".."
	}
	return false
}

var sourceNamePattern = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}$`)

// See "Naming Files, Paths, and Namespaces" in Microsoft's documentation.
var deviceNamePattern = regexp.MustCompile(`(?i)^(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?$`)

// validateSourceName refuses names that are no name of a directory on some
// operating system, or that the layout of a snapshot has taken.
func validateSourceName(name string) error {
	switch {
	case !sourceNamePattern.MatchString(name) || strings.HasSuffix(name, ".") || !filepath.IsLocal(name):
		return fmt.Errorf("name %q: want at most 100 letters, digits, '.', '_' or '-', not beginning with '.' or '-'", name)
	case deviceNamePattern.MatchString(name):
		return fmt.Errorf("name %q is that of a device on Windows", name)
	case strings.EqualFold(name, manifestName), strings.HasPrefix(strings.ToLower(name), metadataName):
		return fmt.Errorf("name %q is that of a file in every snapshot", name)
	}
	return nil
}

// source returns the configured source called name.
func (s *Store) source(name string) (*Source, bool) {
	i := slices.IndexFunc(s.cfg.Sources, func(src Source) bool { return src.Name == name })
	if i < 0 {
		return nil, false
	}
	return &s.cfg.Sources[i], true
}
