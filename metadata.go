package backup

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// maxMetadataBytes bounds backup-metadata.json, which is read before
// anything in the snapshot is trusted.
const maxMetadataBytes = 1 << 20

const metadataFormat = "atocore-backup/1"

// metadata is the content of backup-metadata.json. It is sealed: see seal.
type metadata struct {
	Format         string            `json:"format"`
	Stamp          string            `json:"stamp"`
	Origin         string            `json:"origin"`
	Pinned         bool              `json:"pinned"`
	Labels         map[string]string `json:"labels,omitempty"`
	Level          Level             `json:"level"` // of the validation when it was taken
	Sources        []SourceState     `json:"sources"`
	Files          int               `json:"files"`
	Bytes          int64             `json:"bytes"`
	Problems       []Problem         `json:"problems"`
	ManifestSHA256 string            `json:"manifest_sha256"`
	ManifestBytes  int64             `json:"manifest_bytes"`
	PosixNames     bool              `json:"posix_names"`
	Boot           string            `json:"boot,omitempty"`    // see dir.bootID
	Volumes        map[string]string `json:"volumes,omitempty"` // of trees that were there: see dir.volume
	legacyMetadata
}

// legacyMetadata are the keys of the ATOCore service's Python module. Both
// implementations write them and can share one directory.
type legacyMetadata struct {
	CreatedAt        time.Time `json:"created_at"`
	BackupRoot       string    `json:"backup_root"`
	DBPath           string    `json:"db_snapshot_path"`
	DBBytes          int64     `json:"db_size_bytes"`
	RegistryPath     string    `json:"registry_snapshot_path"` // "" if not captured
	ChromaPath       string    `json:"chroma_snapshot_path"`   // "" if not captured
	ChromaBytes      int64     `json:"chroma_snapshot_bytes"`
	ChromaFiles      int       `json:"chroma_snapshot_files"`
	ChromaIncluded   bool      `json:"chroma_snapshot_included"`
	VectorStoreNote  string    `json:"vector_store_note"`
	Validated        *bool     `json:"validated,omitempty"` // nil: no verdict
	ValidationErrors []string  `json:"validation_errors,omitempty"`
}

// The names under which the Python module keeps its three sources.
const (
	legacyDatabase = "db"
	legacyRegistry = "config"
	legacyChroma   = "chroma"
)

// toUTF8 replaces what JSON cannot say in names that are here for people to
// read: the manifest has them as they are.
func (m *metadata) toUTF8() {
	clean := func(s *string) { *s = strings.ToValidUTF8(*s, "\uFFFD") }
	for i := range m.Sources {
		clean(&m.Sources[i].Path)
		for j := range m.Sources[i].Skipped {
			clean(&m.Sources[i].Skipped[j])
		}
	}
	for i := range m.Problems {
		clean(&m.Problems[i].Path)
		clean(&m.Problems[i].Detail)
	}
	for _, s := range []*string{&m.BackupRoot, &m.DBPath, &m.RegistryPath, &m.ChromaPath} {
		clean(s)
	}
}

// maxNoted bounds what the metadata say of problems, and of what was skipped:
// List reads all of them.
const maxNoted = 192 << 10 // bytes

// abridge leaves out the problems and the skipped files beyond maxNoted, and
// says how many they were. It keeps a problem of every code: who accepts what
// is recorded has accepted what was left out.
func (m *metadata) abridge() {
	more := make(map[Code]int)
	fits := room(maxNoted)
	m.Problems = slices.DeleteFunc(m.Problems, func(p Problem) bool {
		out := !fits(p)
		if out {
			more[p.Code]++
		}
		return out
	})
	for _, code := range slices.Sorted(maps.Keys(more)) {
		m.Problems = append(m.Problems, Problem{Code: code, Detail: fmt.Sprintf("and %d more", more[code])})
	}
	fits = room(maxNoted)
	for i := range m.Sources {
		src := &m.Sources[i]
		n := len(src.Skipped)
		src.Skipped = slices.DeleteFunc(src.Skipped, func(name string) bool { return !fits(name) })
		src.SkippedMore = n - len(src.Skipped)
	}
}

// room returns a function that reports whether one more value still fits
// into so many bytes of JSON.
func room(bytes int) func(v any) bool {
	const indent = 64
	return func(v any) bool {
		data, err := json.Marshal(v)
		bytes -= len(data) + indent
		return err == nil && bytes >= 0
	}
}

// setLegacy fills the Python module's keys: from the first Database, the
// File named config, the Tree named chroma.
func (m *metadata) setLegacy(snapshotDir string) {
	m.BackupRoot = snapshotDir
	for _, src := range m.Sources {
		full := filepath.Join(snapshotDir, filepath.FromSlash(src.Path))
		switch {
		case !src.Captured:
		case src.Kind == Database && m.DBPath == "":
			m.DBPath, m.DBBytes = full, src.Bytes
		case src.Kind == File && src.Name == legacyRegistry:
			m.RegistryPath = full
		case src.Kind == Tree && src.Name == legacyChroma:
			m.ChromaPath, m.ChromaBytes, m.ChromaFiles, m.ChromaIncluded = full, src.Bytes, src.Files, true
			m.VectorStoreNote = "copied file by file, databases in it through SQLite"
		}
	}
	m.Validated = new(len(m.Problems) == 0)
	for _, p := range m.Problems {
		m.ValidationErrors = append(m.ValidationErrors, string(p.Code))
	}
}

func (m *metadata) snapshot() Snapshot {
	return Snapshot{
		Stamp: m.Stamp, CreatedAt: m.CreatedAt, HasMetadata: true,
		Sources: m.Sources, Files: m.Files, Bytes: m.Bytes,
		Validated: *m.Validated, Problems: m.Problems,
		Level: m.Level, Pinned: m.Pinned, Labels: m.Labels, Origin: m.Origin,
	}
}

// parseMetadata reads the metadata of the snapshot called stamp. It returns
// a *metadata if the snapshot is one of ours, else what its legacyMetadata
// say. Files with any key of ours must be wholly ours: a flipped bit in one
// must not turn it into a Python snapshot, of which less is demanded.
func parseMetadata(data []byte, stamp string) (*metadata, *legacyMetadata, error) {
	body, sealErr := sealed(data)
	if sealErr == nil {
		m, err := parseOwnMetadata(body, stamp)
		return m, nil, err
	}
	var keys map[string]json.RawMessage
	if err := parseJSON(data, &keys); err != nil {
		return nil, nil, err
	}
	for _, own := range []string{"format", "stamp", "sources", "manifest_sha256", "checksum"} {
		if _, ok := keys[own]; ok {
			return nil, nil, sealErr
		}
	}
	var legacy legacyMetadata
	if err := parseJSON(data, &legacy); err != nil {
		return nil, nil, err
	}
	if legacy.CreatedAt.IsZero() || legacy.DBBytes < 0 || legacy.ChromaBytes < 0 || legacy.ChromaFiles < 0 {
		return nil, nil, errors.New("no sound created_at or sizes")
	}
	return nil, &legacy, nil
}

// parseOwnMetadata reads what stood before a good seal.
func parseOwnMetadata(body []byte, stamp string) (*metadata, error) {
	var m metadata
	if err := decodeSealed(body, &m); err != nil {
		return nil, err
	}
	switch {
	case m.Format != metadataFormat:
		return nil, fmt.Errorf("format %q: want %q", m.Format, metadataFormat)
	case m.Stamp != stamp:
		return nil, fmt.Errorf("it is the metadata of %q", m.Stamp)
	case m.Validated == nil || *m.Validated != (len(m.Problems) == 0):
		return nil, errors.New("validated and problems disagree")
	case m.ManifestBytes < 0 || m.ManifestBytes > maxManifestBytes:
		return nil, fmt.Errorf("manifest of %d bytes", m.ManifestBytes)
	}
	files, bytes := m.Files, m.Bytes
	for _, src := range m.Sources {
		if !src.valid() {
			return nil, fmt.Errorf("source %q: no sound state", src.Name)
		}
		files, bytes = files-src.Files, bytes-src.Bytes
	}
	if files != 0 || bytes != 0 || m.Files < 0 || m.Bytes < 0 {
		return nil, errors.New("files and bytes are not the sums of the sources'")
	}
	return &m, nil
}

// valid reports whether a source's state is one that there can be, and leads
// nowhere.
func (s *SourceState) valid() bool {
	if validateSourceName(s.Name) != nil || !slices.Contains(kinds, s.Kind) || s.Files < 0 || s.Bytes < 0 {
		return false
	}
	switch {
	case !s.Captured:
		return s.Path == "" && s.Files == 0 && s.Bytes == 0
	case s.Kind == Tree:
		return s.Path == s.Name
	default:
		return localName(s.Path) && path.Dir(s.Path) == s.Name
	}
}

// snapshot describes a snapshot of the Python module. Its absolute paths are
// hints, as the directory may have been moved: what counts is what follows
// the snapshot's own directory in them.
func (m *legacyMetadata) snapshot(stamp string) (Snapshot, error) {
	s := Snapshot{
		Stamp: stamp, CreatedAt: m.CreatedAt, HasMetadata: true,
		Problems: []Problem{}, Origin: OriginATOCore,
		Validated: m.Validated != nil && *m.Validated && len(m.ValidationErrors) == 0,
	}
	for _, code := range m.ValidationErrors {
		s.Problems = append(s.Problems, Problem{Code: Code(code), Detail: "recorded when it was taken"})
	}
	if m.Validated != nil && !*m.Validated && len(s.Problems) == 0 {
		s.Problems = append(s.Problems, Problem{Code: CodeCheckFailed, Detail: "recorded as not validated"})
	}
	if m.DBPath == "" {
		return Snapshot{}, errors.New("no db_snapshot_path")
	}
	for _, src := range []SourceState{
		{Name: legacyDatabase, Kind: Database, Path: m.DBPath, Files: 1, Bytes: m.DBBytes},
		{Name: legacyRegistry, Kind: File, Path: m.RegistryPath, Files: 1},
		{Name: legacyChroma, Kind: Tree, Path: m.ChromaPath, Files: m.ChromaFiles, Bytes: m.ChromaBytes},
	} {
		src.Captured = src.Path != ""
		if !src.Captured {
			s.Sources = append(s.Sources, SourceState{Name: src.Name, Kind: src.Kind})
			continue
		}
		src.Path = rebase(src.Path, m.BackupRoot, src.Name)
		if !src.valid() {
			return Snapshot{}, fmt.Errorf("path of %s: %w", src.Name, fs.ErrInvalid)
		}
		s.Sources = append(s.Sources, src)
		s.Files += src.Files
		s.Bytes += src.Bytes
	}
	return s, nil
}

// rebase returns recorded, a path in a snapshot that once was at root, as
// one relative to the snapshot.
func rebase(recorded, root, name string) string {
	recorded = strings.ReplaceAll(recorded, `\`, "/")
	root = strings.TrimSuffix(strings.ReplaceAll(root, `\`, "/"), "/")
	if rel, ok := strings.CutPrefix(recorded, root+"/"); ok && root != "" {
		return path.Clean(rel)
	}
	if path.Base(recorded) == name {
		return name
	}
	return path.Join(name, path.Base(recorded))
}
