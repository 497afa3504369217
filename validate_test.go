package backup_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/ncruces/go-sqlite3"
	"github.com/spf13/afero"

	"github.com/atocore/backup"
)

const (
	metadataFile = "backup-metadata.json"
	manifestFile = "manifest.jsonl"
	missingStamp = "20010101T000000Z"
)

// quick and structure are the options that ask for less.
var (
	quick     = &backup.ValidateOptions{Level: backup.ValidateQuick}
	structure = &backup.ValidateOptions{Level: backup.ValidateStructure}
)

// memoryAndOs is eachFs for tests that take long.
func memoryAndOs(t *testing.T, test func(t *testing.T, w *world)) {
	t.Run("memory", func(t *testing.T) { test(t, newWorld(t, afero.NewMemMapFs(), "/srv")) })
	t.Run("os", func(t *testing.T) { test(t, osWorld(t)) })
}

// validate returns the report on a snapshot, which must be finished.
func (w *world) validate(t *testing.T, s *backup.Store, stamp string, opts *backup.ValidateOptions) *backup.Report {
	t.Helper()
	r, err := s.Validate(t.Context(), stamp, opts)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// edit replaces the content of a file by what fn makes of it.
func (w *world) edit(t *testing.T, name string, fn func([]byte) []byte) {
	t.Helper()
	data, err := afero.ReadFile(w.fs, w.path(name))
	if err != nil {
		t.Fatal(err)
	}
	if err := afero.WriteFile(w.fs, w.path(name), fn(data), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (w *world) drop(t *testing.T, name string) {
	t.Helper()
	if err := w.fs.RemoveAll(w.path(name)); err != nil {
		t.Fatal(err)
	}
}

func (w *world) rename(t *testing.T, from, to string) {
	t.Helper()
	if err := w.fs.Rename(w.path(from), w.path(to)); err != nil {
		t.Fatal(err)
	}
}

// chmod gives everything at a path and below it the permissions dir or file.
func (w *world) chmod(t *testing.T, name string, dir, file fs.FileMode) {
	t.Helper()
	var names []string
	for rel, is := range w.tree(t, name) {
		if !strings.HasPrefix(is, "->") {
			names = append(names, rel)
		}
	}
	slices.Sort(names)
	slices.Reverse(names) // children first, or they could not be reached
	for _, rel := range names {
		p := filepath.Join(w.path(name), rel)
		perm := file
		if isDir, err := afero.IsDir(w.fs, p); err != nil {
			t.Fatal(err)
		} else if isDir {
			perm = dir
		}
		if err := w.fs.Chmod(p, perm); err != nil {
			t.Fatal(err)
		}
	}
}

// copy copies what is at a path and below it, with permissions and times.
func (w *world) copy(t *testing.T, from, to string) {
	t.Helper()
	copyTree(t, w.fs, w.path(from), w.fs, w.path(to))
}

func copyTree(t *testing.T, fromFs afero.Fs, from string, toFs afero.Fs, to string) {
	t.Helper()
	infos := make(map[string]fs.FileInfo)
	err := afero.Walk(fromFs, from, func(p string, fi fs.FileInfo, err error) error {
		if err != nil {
			return err
		}
		target := filepath.Join(to, strings.TrimPrefix(p, from))
		infos[target] = fi
		if fi.IsDir() {
			return toFs.MkdirAll(target, 0o700)
		}
		data, err := afero.ReadFile(fromFs, p)
		if err != nil {
			return err
		}
		return afero.WriteFile(toFs, target, data, 0o600)
	})
	for _, target := range slices.Backward(slices.Sorted(maps.Keys(infos))) {
		fi := infos[target]
		err = errors.Join(err, toFs.Chmod(target, fi.Mode().Perm()), toFs.Chtimes(target, fi.ModTime(), fi.ModTime()))
	}
	if err != nil {
		t.Fatal(err)
	}
}

// stat returns what tree does, with the times of modification.
func (w *world) stat(t *testing.T, name string) map[string]string {
	t.Helper()
	tree := w.tree(t, name)
	for rel := range tree {
		var fi fs.FileInfo
		var err error
		p := filepath.Join(w.path(name), rel)
		if l, ok := w.fs.(afero.Lstater); ok {
			fi, _, err = l.LstatIfPossible(p)
		} else {
			fi, err = w.fs.Stat(p)
		}
		if err != nil {
			t.Fatal(err)
		}
		tree[rel] += fmt.Sprint(" ", fi.ModTime().UnixNano())
	}
	return tree
}

// in names a file of a snapshot for the methods of world.
func in(stamp, name string) string { return path.Join("backups/snapshots", stamp, name) }

func codes(problems []backup.Problem) []backup.Code {
	var codes []backup.Code
	for _, p := range problems {
		codes = append(codes, p.Code)
	}
	slices.Sort(codes)
	return slices.Compact(codes)
}

// A codeCase makes a snapshot that has one problem, and validates it.
type codeCase struct {
	code   backup.Code
	source string
	path   string
	report func(t *testing.T, w *world) *backup.Report
}

// damaged is a codeCase's report on a good snapshot that was damaged.
func damaged(damage func(t *testing.T, w *world, stamp string)) func(*testing.T, *world) *backup.Report {
	return func(t *testing.T, w *world) *backup.Report {
		s := w.store(t)
		stamp := w.create(t, s).Stamp
		damage(t, w, stamp)
		return w.validate(t, s, stamp, nil)
	}
}

// removed is damage that removes a file.
func removed(name string) func(*testing.T, *world) *backup.Report {
	return damaged(func(t *testing.T, w *world, stamp string) { w.drop(t, in(stamp, name)) })
}

// edited is damage to the bytes of a file.
func edited(name string, fn func([]byte) []byte) func(*testing.T, *world) *backup.Report {
	return damaged(func(t *testing.T, w *world, stamp string) { w.edit(t, in(stamp, name), fn) })
}

// capturedUnder takes a snapshot while hook is called with every step of
// progress on the source, and validates it.
func capturedUnder(source string, hook func(t *testing.T, w *world)) func(*testing.T, *world) *backup.Report {
	return func(t *testing.T, w *world) *backup.Report {
		onOneCore(t)
		s := w.store(t, func(cfg *backup.Config) {
			cfg.Progress = func(p backup.Progress) {
				if p.Op == "create" && p.Source == source && p.Done <= p.Total {
					hook(t, w)
				}
			}
		})
		snap, err := s.Create(t.Context(), &backup.CreateOptions{Include: []string{"chroma"}})
		if err != nil {
			t.Fatal(err)
		}
		if snap.Validated {
			t.Error("a capture with problems was recorded as validated")
		}
		return w.validate(t, w.store(t), snap.Stamp, nil)
	}
}

func flip(i int) func([]byte) []byte {
	return func(data []byte) []byte { data[i] ^= 1; return data }
}

func grow(data []byte) []byte { return append(data, 0) }

func codeCases() []codeCase {
	const db, registry = "db/atocore.db", "config/project-registry.json"
	changes := 0
	return []codeCase{
		{backup.CodeSnapshotMissing, "", "", func(t *testing.T, w *world) *backup.Report {
			s := w.store(t)
			w.create(t, s)
			return w.validate(t, s, missingStamp, nil)
		}},
		{backup.CodeMetadataMissing, "", metadataFile, removed(metadataFile)},
		{backup.CodeMetadataInvalid, "", metadataFile, edited(metadataFile, flip(20))},
		{backup.CodeManifestMissing, "", manifestFile, removed(manifestFile)},
		{backup.CodeManifestInvalid, "", manifestFile, edited(manifestFile, flip(20))},
		{backup.CodeDatabaseMissing, "db", db, removed(db)},
		{backup.CodeDatabaseCorrupt, "db", db, edited(db, func(data []byte) []byte { return make([]byte, len(data)) })},
		{backup.CodeFileMissing, "config", registry, removed(registry)},
		{backup.CodeTreeMissing, "chroma", "chroma", removed("chroma")},
		{backup.CodeChecksumMismatch, "config", registry, edited(registry, flip(3))},
		{backup.CodeSizeMismatch, "config", registry, edited(registry, grow)},
		{backup.CodeTypeMismatch, "config", registry, damaged(func(t *testing.T, w *world, stamp string) {
			w.drop(t, in(stamp, registry))
			w.mkdir(t, in(stamp, registry))
		})},
		{backup.CodeUnexpectedFile, "db", db + "-wal", damaged(func(t *testing.T, w *world, stamp string) {
			w.write(t, in(stamp, db+"-wal"), "stray")
		})},
		{backup.CodeUnreadable, "config", registry, func(t *testing.T, w *world) *backup.Report {
			stamp := w.create(t, w.store(t)).Stamp
			bad := w.snapshot(stamp, registry)
			s := w.store(t, func(cfg *backup.Config) {
				cfg.Fs = &faultFs{Fs: w.fs, fail: func(op, p string) error {
					if op == "read" && p == bad {
						return syscall.EIO
					}
					return nil
				}}
			})
			return w.validate(t, s, stamp, nil)
		}},
		{backup.CodeCheckFailed, "db", db, func(t *testing.T, w *world) *backup.Report {
			stamp := w.create(t, w.store(t)).Stamp
			s := w.store(t, func(cfg *backup.Config) {
				cfg.Sources[0].Check = func(context.Context, *sqlite3.Conn) error { return errors.New("no admin") }
			})
			return w.validate(t, s, stamp, nil)
		}},
		{backup.CodeFileChanged, "config", registry, func(t *testing.T, w *world) *backup.Report {
			if w.clones(t) {
				t.Skip("nothing changes under a clone")
			}
			change := func(t *testing.T, w *world) {
				changes++
				w.write(t, registry, strings.Repeat(fmt.Sprintf("%02d", changes%100), 1<<20))
			}
			change(t, w) // to what is read in more than one step: also under a clone, it changes in between
			return capturedUnder("config", change)(t, w)
		}},
		{backup.CodeFileVanished, "chroma", "chroma/collection-a/late.bin", func(t *testing.T, w *world) *backup.Report {
			w.write(t, "chroma/collection-a/late.bin", "is copied after data.bin")
			return capturedUnder("chroma", func(t *testing.T, w *world) {
				if w.exists(t, "chroma/collection-a/late.bin") {
					w.drop(t, "chroma/collection-a/late.bin")
				}
			})(t, w)
		}},
		{backup.CodeRawCopy, "chroma", "chroma/broken.sqlite3", func(t *testing.T, w *world) *backup.Report {
			w.write(t, "chroma/broken.sqlite3", "SQLite format 3\x00"+strings.Repeat("garbage ", 128))
			return capturedUnder("none", nil)(t, w)
		}},
		{backup.CodeSourceUnreadable, "config", registry, func(t *testing.T, w *world) *backup.Report {
			stamp := w.create(t, w.store(t)).Stamp
			safety := w.restore(t, w.unreadable(t, "read", registry, syscall.EIO), stamp).SafetyStamp
			return w.validate(t, w.store(t), safety, nil)
		}},
	}
}

func TestValidateCodes(t *testing.T) {
	for _, tc := range codeCases() {
		t.Run(string(tc.code), func(t *testing.T) {
			eachFs(t, func(t *testing.T, w *world) {
				w.seed(t)
				r := tc.report(t, w)
				checkCode(t, r, tc)
			})
		})
	}
}

func checkCode(t *testing.T, r *backup.Report, tc codeCase) {
	t.Helper()
	if r.Valid || r.Exists != (tc.code != backup.CodeSnapshotMissing) {
		t.Errorf("valid %v, exists %v", r.Valid, r.Exists)
	}
	if !slices.ContainsFunc(r.Problems, func(p backup.Problem) bool {
		return p.Code == tc.code && p.Source == tc.source && p.Path == tc.path
	}) {
		t.Errorf("problems %+v: want %s of source %q at %q", r.Problems, tc.code, tc.source, tc.path)
	}
	err := fmt.Errorf("nightly check: %w", fmt.Errorf("report: %w", r.Err()))
	if !errors.Is(err, tc.code) {
		t.Errorf("%v does not match %q", err, tc.code)
	}
	if other := backup.Code("other"); errors.Is(err, other) {
		t.Errorf("%v matches %q", err, other)
	}
	if got, want := errors.Is(tc.code, fs.ErrNotExist), strings.HasSuffix(string(tc.code), "_missing"); got != want {
		t.Errorf("matches fs.ErrNotExist: %v, want %v", got, want)
	}
}

// TestEveryCodeHasACase reads the constants from the source, so that none
// can be added without a case.
func TestEveryCodeHasACase(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "problem.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var declared, tested []string
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		if kind, ok := spec.Type.(*ast.Ident); ok && kind.Name == "Code" {
			code, err := strconv.Unquote(spec.Values[0].(*ast.BasicLit).Value)
			if err != nil {
				t.Fatal(err)
			}
			declared = append(declared, code)
		}
		return true
	})
	for _, tc := range codeCases() {
		tested = append(tested, string(tc.code))
	}
	if diff := cmp.Diff(tested, declared); diff != "" || len(declared) == 0 {
		t.Errorf("codes with a case (-got +want):\n%s", diff)
	}
}

func TestReport(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		w.seed(t)
		s := w.store(t)
		snap := w.create(t, s)

		t.Run("good", func(t *testing.T) {
			r := w.validate(t, s, snap.Stamp, nil)
			if !r.Valid || !r.Exists || !r.DBOK || r.Err() != nil || r.Files != 4 || r.Bytes != snap.Bytes {
				t.Errorf("got %+v", r)
			}
			if diff := cmp.Diff(r.Snapshot, snap); diff != "" {
				t.Errorf("metadata (-got +want):\n%s", diff)
			}
		})
		t.Run("database_damaged", func(t *testing.T) {
			w.edit(t, in(snap.Stamp, "db/atocore.db"), flip(5000))
			defer w.edit(t, in(snap.Stamp, "db/atocore.db"), flip(5000))
			if r := w.validate(t, s, snap.Stamp, nil); r.DBOK || r.Valid {
				t.Errorf("got %+v", r)
			}
		})
		t.Run("database_in_tree_damaged", func(t *testing.T) {
			w.edit(t, in(snap.Stamp, "chroma/chroma.sqlite3"), flip(5000))
			defer w.edit(t, in(snap.Stamp, "chroma/chroma.sqlite3"), flip(5000))
			if r := w.validate(t, s, snap.Stamp, nil); r.DBOK || r.Valid {
				t.Errorf("got %+v", r)
			}
		})
		t.Run("file_damaged", func(t *testing.T) {
			w.edit(t, in(snap.Stamp, "config/project-registry.json"), flip(5))
			defer w.edit(t, in(snap.Stamp, "config/project-registry.json"), flip(5))
			if r := w.validate(t, s, snap.Stamp, nil); !r.DBOK || r.Valid {
				t.Errorf("got %+v", r)
			}
		})
		t.Run("json", func(t *testing.T) {
			var got map[string]any
			remarshal(t, w.validate(t, s, missingStamp, nil), &got)
			want := map[string]any{
				"stamp": missingStamp, "exists": false, "valid": false, "db_ok": false, "level": "full",
				"errors":   []any{"snapshot_directory_missing"},
				"problems": []any{map[string]any{"code": "snapshot_directory_missing"}},
				"metadata": nil, "files": 0.0, "bytes": 0.0,
			}
			if diff := cmp.Diff(got, want); diff != "" {
				t.Errorf("(-got +want):\n%s", diff)
			}
			remarshal(t, w.validate(t, s, snap.Stamp, nil), &got)
			if diff := cmp.Diff(got["errors"], []any{}); diff != "" {
				t.Errorf("errors of a good one (-got +want):\n%s", diff)
			}
		})
	})
}

func remarshal(t *testing.T, from, to any) {
	t.Helper()
	data, err := json.Marshal(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, to); err != nil {
		t.Fatal(err)
	}
}

func TestValidateRefuses(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		w.seed(t)
		s := w.store(t)
		stamp := w.create(t, s).Stamp
		for _, bad := range badStamps {
			if _, err := s.Validate(t.Context(), bad, nil); !errors.Is(err, backup.ErrInvalidStamp) {
				t.Errorf("stamp %q: %v", bad, err)
			}
		}
		for _, level := range []backup.Level{-1, 3} {
			if _, err := s.Validate(t.Context(), stamp, &backup.ValidateOptions{Level: level}); err == nil {
				t.Errorf("level %d: no error", level)
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if r, err := s.Validate(ctx, stamp, nil); !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled: %+v, %v", r, err)
		}
	})
}

// badStamps are not to become part of a path.
var badStamps = []string{
	"", "../x", "..", ".", "/", "20260230T000000Z", "20261301T000000Z", "20260101T240000Z", "20260101T006000Z",
	"20260411T100000Z\n", " 20260411T100000Z", "20260411T100000Z/", "20260411T100000Z/..", "2026-04-11T10:00:00Z",
	"20260411T100000", "20260411T100000z", "20260411T100000ZZ", "+0260411T100000Z",
	"٢٠٢٦٠٤١١T١٠٠٠٠٠Z", "２０２６０４１１T１０００００Z", "20260411T100000Z\x00",
}

func TestValidateOfNoStore(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		s := w.store(t)
		if r := w.validate(t, s, missingStamp, nil); r.Exists || r.Valid || !errors.Is(r.Err(), fs.ErrNotExist) {
			t.Errorf("got %+v", r)
		}
		if w.exists(t, "backups") {
			t.Error("it made a store")
		}
	})
}

func TestValidateChangesNothing(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		w.seed(t)
		s := w.store(t)
		stamp := w.create(t, s).Stamp
		for _, perm := range []struct {
			name      string
			dir, file fs.FileMode
		}{{"as_written", 0o700, 0o600}, {"read_only", 0o500, 0o400}} {
			t.Run(perm.name, func(t *testing.T) {
				w.chmod(t, in(stamp, ""), perm.dir, perm.file)
				w.chmod(t, "backups/snapshots", perm.dir, perm.file)
				t.Cleanup(func() { w.chmod(t, "backups/snapshots", 0o700, 0o600) })
				before := w.stat(t, "backups")
				for _, opts := range []*backup.ValidateOptions{nil, quick, structure} {
					if r := w.validate(t, s, stamp, opts); !r.Valid {
						t.Errorf("%+v", r)
					}
				}
				if diff := cmp.Diff(w.stat(t, "backups"), before); diff != "" {
					t.Errorf("(-after +before):\n%s", diff)
				}
			})
		}
		t.Run("read_only_file_system", func(t *testing.T) {
			before := w.stat(t, "backups")
			ro := w.store(t, func(cfg *backup.Config) { cfg.Fs = afero.NewReadOnlyFs(w.fs) })
			if r := w.validate(t, ro, stamp, nil); !r.Valid {
				t.Errorf("%+v", r)
			}
			if diff := cmp.Diff(w.stat(t, "backups"), before); diff != "" {
				t.Errorf("(-after +before):\n%s", diff)
			}
		})
		t.Run("damaged", func(t *testing.T) {
			w.write(t, in(stamp, "db/atocore.db-wal"), "stray")
			w.edit(t, in(stamp, "db/atocore.db"), flip(5000))
			before := w.stat(t, "backups")
			if r := w.validate(t, s, stamp, nil); r.Valid {
				t.Errorf("%+v", r)
			}
			if diff := cmp.Diff(w.stat(t, "backups"), before); diff != "" {
				t.Errorf("(-after +before):\n%s", diff)
			}
		})
	})
}

// inconsistentIndex makes a database whose index does not go with its table:
// integrity_check sees that, and quick_check does not.
const inconsistentIndex = `PRAGMA writable_schema=ON;
	CREATE TABLE t (a, b); CREATE INDEX i ON t (a); INSERT INTO t VALUES ('left', 'right');
	UPDATE sqlite_schema SET sql = 'CREATE INDEX i ON t (b)' WHERE name = 'i';`

func TestValidateLevels(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		w.seed(t)
		w.exec(t, "data/atocore.db", inconsistentIndex)
		s := w.store(t)

		full, err := s.Create(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(codes(full.Problems), []backup.Code{backup.CodeDatabaseCorrupt}); diff != "" || full.Validated {
			t.Errorf("created at full, validated %v (-got +want):\n%s", full.Validated, diff)
		}
		less, err := s.Create(t.Context(), &backup.CreateOptions{Level: backup.ValidateQuick})
		if err != nil {
			t.Fatal(err)
		}
		if !less.Validated {
			t.Errorf("created at quick: %v", less.Problems)
		}
		if r := w.validate(t, s, less.Stamp, nil); r.Valid || !errors.Is(r.Err(), backup.CodeDatabaseCorrupt) {
			t.Errorf("full misses an index that does not go with its table: %+v", r)
		}
		for _, opts := range []*backup.ValidateOptions{quick, structure} {
			if r := w.validate(t, s, less.Stamp, opts); !r.Valid || r.Level != opts.Level {
				t.Errorf("%s: %+v", opts.Level, r)
			}
		}
		w.edit(t, in(less.Stamp, "config/project-registry.json"), flip(1))
		if r := w.validate(t, s, less.Stamp, quick); !errors.Is(r.Err(), backup.CodeChecksumMismatch) {
			t.Errorf("quick misses a flipped bit: %+v", r)
		}
		if r := w.validate(t, s, less.Stamp, structure); !r.Valid {
			t.Errorf("structure reads contents: %+v", r)
		}
	})
}

func TestValidateStructureFinds(t *testing.T) {
	const registry = "config/project-registry.json"
	for _, tc := range []struct {
		name string
		do   func(t *testing.T, w *world, stamp string)
		want []backup.Code
	}{
		{"missing", func(t *testing.T, w *world, stamp string) { w.drop(t, in(stamp, registry)) }, []backup.Code{backup.CodeFileMissing}},
		{"size", func(t *testing.T, w *world, stamp string) { w.edit(t, in(stamp, registry), grow) }, []backup.Code{backup.CodeSizeMismatch}},
		{"type", func(t *testing.T, w *world, stamp string) {
			w.drop(t, in(stamp, registry))
			w.mkdir(t, in(stamp, registry))
		}, []backup.Code{backup.CodeTypeMismatch}},
		{"unexpected", func(t *testing.T, w *world, stamp string) { w.mkdir(t, in(stamp, "chroma/extra")) }, []backup.Code{backup.CodeUnexpectedFile}},
		{"header", func(t *testing.T, w *world, stamp string) { w.edit(t, in(stamp, "db/atocore.db"), flip(0)) }, []backup.Code{backup.CodeDatabaseCorrupt}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			memoryAndOs(t, func(t *testing.T, w *world) {
				w.seed(t)
				s := w.store(t)
				stamp := w.create(t, s).Stamp
				tc.do(t, w, stamp)
				if diff := cmp.Diff(codes(w.validate(t, s, stamp, structure).Problems), tc.want); diff != "" {
					t.Errorf("(-got +want):\n%s", diff)
				}
			})
		})
	}
}

// small makes a state whose snapshot has few bytes.
func (w *world) small(t *testing.T) *backup.Store {
	t.Helper()
	w.exec(t, "data/atocore.db", "PRAGMA page_size=512; CREATE TABLE t (x); INSERT INTO t VALUES ('one')")
	w.write(t, "config/project-registry.json", `{"projects": []}`)
	w.write(t, "chroma/a", "aaaa")
	w.write(t, "chroma/b", "bbbb")
	return w.store(t)
}

func TestValidateFindsWhatWasDoneToFiles(t *testing.T) {
	files := []string{metadataFile, manifestFile, "db/atocore.db", "config/project-registry.json", "chroma/a", "chroma"}
	damages := []struct {
		name    string
		ofBytes bool // not of directories
		do      func(t *testing.T, w *world, name string)
	}{
		{"truncated", true, func(t *testing.T, w *world, name string) {
			w.edit(t, name, func(data []byte) []byte { return data[:len(data)-1] })
		}},
		{"emptied", true, func(t *testing.T, w *world, name string) { w.edit(t, name, func([]byte) []byte { return nil }) }},
		{"extended", true, func(t *testing.T, w *world, name string) { w.edit(t, name, grow) }},
		{"deleted", false, func(t *testing.T, w *world, name string) { w.drop(t, name) }},
		{"renamed", false, func(t *testing.T, w *world, name string) { w.rename(t, name, name+"2") }},
		{"turned_into_directory", true, func(t *testing.T, w *world, name string) {
			w.drop(t, name)
			w.mkdir(t, name)
		}},
		{"turned_into_file", false, func(t *testing.T, w *world, name string) {
			w.drop(t, name)
			w.write(t, name, "a file")
		}},
		{"file_added_beside", false, func(t *testing.T, w *world, name string) { w.write(t, name+"-journal", "") }},
		{"directory_added_beside", false, func(t *testing.T, w *world, name string) { w.mkdir(t, name+"-dir") }},
	}
	for _, damage := range damages {
		t.Run(damage.name, func(t *testing.T) {
			memoryAndOs(t, func(t *testing.T, w *world) {
				s := w.small(t)
				stamp := w.create(t, s).Stamp
				w.copy(t, "backups/snapshots", "intact")
				for _, name := range files {
					isDir, err := afero.IsDir(w.fs, w.snapshot(stamp, name))
					if err != nil {
						t.Fatal(err)
					}
					if isDir && damage.ofBytes {
						continue
					}
					damage.do(t, w, in(stamp, name))
					for _, opts := range []*backup.ValidateOptions{nil, quick, structure} {
						if r := w.validate(t, s, stamp, opts); r.Valid || !r.Exists {
							t.Errorf("%s: not found: %+v", name, r)
						}
					}
					if _, err := s.Restore(t.Context(), stamp, confirmed); !errors.Is(err, backup.ErrInvalidSnapshot) {
						t.Errorf("%s: restored: %v", name, err)
					}
					w.drop(t, "backups/snapshots")
					w.copy(t, "intact", "backups/snapshots")
				}
				if r := w.validate(t, s, stamp, nil); !r.Valid {
					t.Errorf("intact again: %+v", r)
				}
			})
		})
	}
	t.Run("swapped", func(t *testing.T) {
		memoryAndOs(t, func(t *testing.T, w *world) {
			s := w.small(t)
			stamp := w.create(t, s).Stamp
			w.rename(t, in(stamp, "chroma/a"), in(stamp, "c"))
			w.rename(t, in(stamp, "chroma/b"), in(stamp, "chroma/a"))
			w.rename(t, in(stamp, "c"), in(stamp, "chroma/b"))
			r := w.validate(t, s, stamp, nil)
			if diff := cmp.Diff(codes(r.Problems), []backup.Code{backup.CodeChecksumMismatch}); diff != "" {
				t.Errorf("(-got +want):\n%s", diff)
			}
		})
	})
	t.Run("directory_renamed", func(t *testing.T) {
		memoryAndOs(t, func(t *testing.T, w *world) {
			s := w.small(t)
			stamp := w.create(t, s).Stamp
			w.rename(t, in(stamp, ""), in(missingStamp, ""))
			r := w.validate(t, s, missingStamp, nil)
			if diff := cmp.Diff(codes(r.Problems), []backup.Code{backup.CodeMetadataInvalid}); diff != "" {
				t.Errorf("(-got +want):\n%s", diff)
			}
		})
	})
}

// reseal computes the checksum of metadata, or of a journal, anew.
func reseal(text string) string {
	const key = ",\n  \"checksum\": \""
	body := text[:strings.LastIndex(text, key)]
	sum := sha256.Sum256([]byte(body))
	return body + key + hex.EncodeToString(sum[:]) + "\"\n}\n"
}

// forgeMetadata changes the text of metadata, and seals it.
func (w *world) forgeMetadata(t *testing.T, stamp string, change func(string) string) {
	t.Helper()
	w.edit(t, in(stamp, metadataFile), func(data []byte) []byte { return []byte(reseal(change(string(data)))) })
}

var (
	manifestSum   = regexp.MustCompile(`"manifest_sha256": "[0-9a-f]+"`)
	manifestBytes = regexp.MustCompile(`"manifest_bytes": [0-9]+`)
)

// forgeManifest changes the lines of a manifest and has the metadata go with
// it, as somebody could who knows the format.
func (w *world) forgeManifest(t *testing.T, stamp string, change func(lines []string) []string) {
	t.Helper()
	var manifest []byte
	w.edit(t, in(stamp, manifestFile), func(data []byte) []byte {
		lines := strings.SplitAfter(string(data), "\n")
		manifest = []byte(strings.Join(change(lines[:len(lines)-1]), ""))
		return manifest
	})
	w.forgeMetadata(t, stamp, func(text string) string {
		text = manifestSum.ReplaceAllString(text, fmt.Sprintf(`"manifest_sha256": "%x"`, sha256.Sum256(manifest)))
		return manifestBytes.ReplaceAllString(text, fmt.Sprintf(`"manifest_bytes": %d`, len(manifest)))
	})
}

// replace returns a change that must find what it is to replace.
func replace(t *testing.T, old, new string) func(string) string {
	return func(text string) string {
		if !strings.Contains(text, old) {
			t.Fatalf("no %q in:\n%s", old, text)
		}
		return strings.Replace(text, old, new, 1)
	}
}

func TestMetadataRefused(t *testing.T) {
	sealed := func(old, new string) func(*testing.T, string) string {
		return func(t *testing.T, text string) string { return reseal(replace(t, old, new)(text)) }
	}
	for _, tc := range []struct {
		name   string
		change func(t *testing.T, text string) string
	}{
		{"trailing_newline", func(_ *testing.T, text string) string { return text + "\n" }},
		{"trailing_object", func(_ *testing.T, text string) string { return text + "{}" }},
		{"leading_space", func(_ *testing.T, text string) string { return " " + text }},
		{"no_json", func(*testing.T, string) string { return "nonsense" }},
		{"empty", func(*testing.T, string) string { return "" }},
		{"null", func(*testing.T, string) string { return "null" }},
		{"array", func(*testing.T, string) string { return "[]" }},
		{"empty_object", func(*testing.T, string) string { return "{}" }},
		{"truncated", func(_ *testing.T, text string) string { return text[:len(text)/2] }},
		{"deep", func(*testing.T, string) string { return strings.Repeat(`{"sources":`, 1e5) }},
		{"deep_array", func(*testing.T, string) string { return strings.Repeat("[", 1<<20) }},
		{"huge", func(_ *testing.T, text string) string { return text + strings.Repeat(" ", 1<<20) }},
		{"checksum_of_others", func(t *testing.T, text string) string { return replace(t, `"pinned": false`, `"pinned": true`)(text) }},
		{"unknown_key", sealed(`"pinned": false,`, `"pinned": false, "extra": 1,`)},
		{"unknown_key_in_source", sealed(`"name": "db",`, `"name": "db", "extra": 1,`)},
		{"duplicate_key", sealed(`"pinned": false,`, "\"pinned\": false,\n  \"pinned\": false,")},
		{"duplicate_key_that_differs", sealed(`"pinned": false,`, "\"pinned\": true,\n  \"pinned\": false,")},
		{"key_in_capitals", sealed(`"pinned": false`, `"PINNED": false`)},
		{"other_format", sealed(`"atocore-backup/1"`, `"atocore-backup/2"`)},
		{"other_stamp", sealed(`"stamp": "2`, `"stamp": "3`)},
		{"level_unknown", sealed(`"level": "full"`, `"level": "deep"`)},
		{"kind_unknown", sealed(`"kind": "file"`, `"kind": "pipe"`)},
		{"number_too_large", sealed(`"pinned": false,`, `"pinned": 99999999999999999999,`)},
		{"validated_with_problems", sealed(`"problems": []`, "\"problems\": [\n    {\n      \"code\": \"db_corrupt\"\n    }\n  ]")},
		{"validated_denied", sealed(`"validated": true`, `"validated": false`)},
		{"source_name_traverses", sealed(`"name": "config"`, `"name": "../config"`)},
		{"source_path_traverses", sealed(`"path": "config/project-registry.json"`, `"path": "config/../../../passwd"`)},
		{"source_path_absolute", sealed(`"path": "config/project-registry.json"`, `"path": "/etc/passwd"`)},
		{"source_path_of_another", sealed(`"path": "config/project-registry.json"`, `"path": "db/atocore.db"`)},
		{"source_path_of_uncaptured", sealed("\"captured\": true,\n      \"path\": \"chroma\"", "\"captured\": false,\n      \"path\": \"chroma\"")},
		{"manifest_negative", func(_ *testing.T, text string) string {
			return reseal(manifestBytes.ReplaceAllString(text, `"manifest_bytes": -1`))
		}},
		{"manifest_huge", func(_ *testing.T, text string) string {
			return reseal(manifestBytes.ReplaceAllString(text, `"manifest_bytes": 1000000000000`))
		}},
		// What is left when our own keys are taken away looks like the
		// Python module's, of which less is demanded.
		{"downgraded_beside_manifest", func(_ *testing.T, text string) string {
			return "{\n" + text[strings.Index(text, `  "created_at"`):strings.LastIndex(text, `,`)] + "\n}\n"
		}},
		{"downgraded_in_part", func(t *testing.T, text string) string {
			return replace(t, `"checksum"`, `"checksun"`)(replace(t, `"format"`, `"formal"`)(text))
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t, afero.NewMemMapFs(), "/srv")
			s := w.small(t)
			stamp := w.create(t, s).Stamp
			w.edit(t, in(stamp, metadataFile), func(data []byte) []byte { return []byte(tc.change(t, string(data))) })
			r := w.validate(t, s, stamp, nil)
			if diff := cmp.Diff(codes(r.Problems), []backup.Code{backup.CodeMetadataInvalid}); diff != "" || r.Snapshot != nil {
				t.Errorf("%+v (-got +want):\n%s", r, diff)
			}
		})
	}
	t.Run("but_not_for_being_resealed", func(t *testing.T) {
		w := newWorld(t, afero.NewMemMapFs(), "/srv")
		s := w.small(t)
		stamp := w.create(t, s).Stamp
		w.forgeMetadata(t, stamp, replace(t, `"pinned": false`, `"pinned": true`))
		if r := w.validate(t, s, stamp, nil); !r.Valid || !r.Snapshot.Pinned {
			t.Errorf("%+v", r)
		}
	})
}

const someHash = `"sha256":"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"`

func TestManifestRefused(t *testing.T) {
	insert := func(line, before string) func(*testing.T, []string) []string {
		return func(t *testing.T, lines []string) []string {
			i := slices.IndexFunc(lines, func(l string) bool { return strings.Contains(l, `"path":"`+before+`"`) })
			if i < 0 {
				t.Fatalf("no %q in %q", before, lines)
			}
			return slices.Insert(lines, i, line+"\n")
		}
	}
	change := func(old, new string) func(*testing.T, []string) []string {
		return func(t *testing.T, lines []string) []string {
			return strings.SplitAfter(replace(t, old, new)(strings.Join(lines, "")), "\n")
		}
	}
	dir := func(path string) string { return `{"path":` + strconv.Quote(path) + `,"type":"dir","mode":"0700"}` }
	for _, tc := range []struct {
		name   string
		change func(t *testing.T, lines []string) []string
	}{
		// A tree may have any entry that is sound.
		{"traversal", insert(dir("chroma/../x"), "chroma/a")},
		{"traversal_at_the_end", insert(dir("chroma/.."), "chroma/a")},
		{"traversal_at_the_beginning", insert(dir(".."), "chroma")},
		{"dot", insert(dir("chroma/."), "chroma/a")},
		{"empty_element", insert(dir("chroma//x"), "chroma/a")},
		{"absolute", insert(dir("/etc"), "chroma")},
		{"empty_path", insert(dir(""), "chroma")},
		{"nul", insert(`{"path":"chroma/a\u0000b","type":"dir","mode":"0700"}`, "chroma/b")},
		{"backslash", insert(dir(`chroma/a\b`), "chroma/b")},
		{"case_collision", insert(dir("chroma/B"), "chroma/a")},
		{"case_collision_beyond_ascii", insert(dir("config/project-regi\u017ftry.json"), "db")},
		{"case_collision_of_sources", insert(dir("CONFIG"), "chroma")},
		{"duplicate", func(_ *testing.T, lines []string) []string { return slices.Insert(lines, 1, lines[0]) }},
		{"out_of_order", func(_ *testing.T, lines []string) []string {
			lines[1], lines[2] = lines[2], lines[1] // chroma/a and chroma/b
			return lines
		}},
		{"directory_after_entry", func(_ *testing.T, lines []string) []string {
			lines[0], lines[1] = lines[1], lines[0]
			return lines
		}},
		{"entry_without_directory", func(_ *testing.T, lines []string) []string { return lines[1:] }},
		{"entry_below_a_file", insert(dir("chroma/a/x"), "chroma/b")},
		{"source_unknown", insert(dir("chrom"), "chroma")},
		{"source_without_entries", func(_ *testing.T, lines []string) []string {
			return slices.DeleteFunc(lines, func(l string) bool { return strings.Contains(l, `"path":"config`) })
		}},
		{"empty", func(*testing.T, []string) []string { return nil }},
		{"blank_line", func(_ *testing.T, lines []string) []string { return append(lines, "\n") }},
		{"last_line_cut", func(_ *testing.T, lines []string) []string {
			last := len(lines) - 1
			lines[last] = strings.TrimSuffix(lines[last], "\n")
			return lines
		}},
		{"trailing_object", change("}\n", "}{}\n")},
		{"space", change(`{"path"`, `{ "path"`)},
		{"carriage_return", change("}\n", "}\r\n")},
		{"unknown_key", change(`"type"`, `"owner":"root","type"`)},
		{"duplicate_key", change(`"type":"dir"`, `"type":"dir","type":"dir"`)},
		{"line_huge", change(`"type":"dir"`, `"x":"`+strings.Repeat("x", 1<<20)+`","type":"dir"`)},
		{"type_unknown", change(`"type":"file"`, `"type":"fifo"`)},
		{"mode_setuid", change(`"mode":"0644"`, `"mode":"4755"`)},
		{"mode_decimal", change(`"mode":"0644"`, `"mode":"0689"`)},
		{"mode_missing", change(`"mode":"0644",`, ``)},
		{"size_negative", change(`"size":4`, `"size":-4`)},
		{"size_of_directory", change(`"type":"dir","mode":"0755"`, `"type":"dir","mode":"0755","size":4`)},
		{"hash_short", change(`"sha256":"`, `"sha256":"00`)},
		{"hash_missing", func(t *testing.T, lines []string) []string {
			return strings.SplitAfter(regexp.MustCompile(`,"sha256":"[0-9a-f]+"`).ReplaceAllString(strings.Join(lines, ""), ""), "\n")
		}},
		{"link_without_target", insert(`{"path":"chroma/0","type":"link"}`, "chroma/a")},
		{"link_with_hash", insert(`{"path":"chroma/0","type":"link",`+someHash+`,"target":"b"}`, "chroma/a")},
		{"file_with_target", func(_ *testing.T, lines []string) []string {
			lines[1] = strings.TrimSuffix(lines[1], "}\n") + `,"target":"b"}` + "\n"
			return lines
		}},

		// A Database or a File has one entry of its kind, be it that of a
		// raw copy with its sidecars. Anything else would be put beside, or
		// in the place of, the live file.
		{"file_is_a_directory", change(`"path":"config/project-registry.json","type":"file"`, `"path":"config/project-registry.json","type":"dir"`)},
		{"file_is_a_link", func(t *testing.T, lines []string) []string {
			for i, l := range lines {
				if strings.Contains(l, `"path":"config/project-registry.json"`) {
					lines[i] = `{"path":"config/project-registry.json","type":"link","target":"/etc/passwd"}` + "\n"
				}
			}
			return lines
		}},
		{"directory_without_its_file", func(_ *testing.T, lines []string) []string {
			return slices.DeleteFunc(lines, func(l string) bool { return strings.Contains(l, `"path":"config/`) })
		}},
		{"directory_without_its_database", func(_ *testing.T, lines []string) []string {
			return slices.DeleteFunc(lines, func(l string) bool { return strings.Contains(l, `"path":"db/`) })
		}},
		{"file_beside_the_file", insert(`{"path":"config/project-registry.json-wal","type":"dir","mode":"0700"}`, "db")},
		{"database_is_a_file", change(`"path":"db/atocore.db","type":"db"`, `"path":"db/atocore.db","type":"file"`)},
		{"stranger_beside_the_database", func(_ *testing.T, lines []string) []string {
			return append(lines, dir("db/zzz")+"\n")
		}},
		{"sidecar_of_a_hot_copy", func(_ *testing.T, lines []string) []string {
			return append(lines, `{"path":"db/atocore.db-wal","type":"raw","mode":"0600",`+someHash+"}\n")
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t, afero.NewMemMapFs(), "/srv")
			s := w.small(t)
			stamp := w.create(t, s).Stamp
			w.forgeManifest(t, stamp, func(lines []string) []string { return tc.change(t, lines) })
			r := w.validate(t, s, stamp, nil)
			if diff := cmp.Diff(codes(r.Problems), []backup.Code{backup.CodeManifestInvalid}); diff != "" {
				t.Errorf("%+v (-got +want):\n%s", r.Problems, diff)
			}
		})
	}
	t.Run("duplicate_among_posix_names", func(t *testing.T) {
		w := newWorld(t, afero.NewMemMapFs(), "/srv")
		s := w.small(t)
		stamp := w.create(t, s).Stamp
		w.forgeManifest(t, stamp, func(lines []string) []string { return slices.Insert(lines, 1, lines[0]) })
		w.forgeMetadata(t, stamp, replace(t, `"posix_names": false`, `"posix_names": true`))
		if r := w.validate(t, s, stamp, nil); !errors.Is(r.Err(), backup.CodeManifestInvalid) {
			t.Errorf("%+v", r)
		}
	})
	t.Run("but_not_for_being_resealed", func(t *testing.T) {
		w := newWorld(t, afero.NewMemMapFs(), "/srv")
		s := w.small(t)
		stamp := w.create(t, s).Stamp
		w.mkdir(t, in(stamp, "chroma/extra"))
		w.forgeManifest(t, stamp, func(lines []string) []string { return slices.Insert(lines, 3, dir("chroma/extra")+"\n") })
		if r := w.validate(t, s, stamp, nil); !r.Valid {
			t.Errorf("%+v", r)
		}
	})
}

// pythonSnapshot is the one with a vector store.
const pythonSnapshot = "20260409T120000Z"

// python puts the snapshots of the Python module, from testdata, where the
// world's store looks for them.
func (w *world) python(t *testing.T) *backup.Store {
	t.Helper()
	src := afero.NewBasePathFs(afero.NewOsFs(), "testdata/atocore")
	err := afero.Walk(src, "snapshots", func(p string, fi fs.FileInfo, err error) error {
		if err != nil || fi.IsDir() {
			return err
		}
		data, err := afero.ReadFile(src, p)
		w.write(t, path.Join("backups", filepath.ToSlash(p)), string(data))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return w.store(t)
}

func TestValidateOfPythonSnapshotFinds(t *testing.T) {
	const registry = "config/project-registry.json"
	set := func(key string, value any) func(*testing.T, *world) {
		return func(t *testing.T, w *world) {
			w.edit(t, in(pythonSnapshot, metadataFile), func(data []byte) []byte {
				var keys map[string]any
				if err := json.Unmarshal(data, &keys); err != nil {
					t.Fatal(err)
				}
				keys[key] = value
				if value == nil {
					delete(keys, key)
				}
				data, err := json.Marshal(keys)
				if err != nil {
					t.Fatal(err)
				}
				return data
			})
		}
	}
	remove := func(name string) func(*testing.T, *world) {
		return func(t *testing.T, w *world) { w.drop(t, in(pythonSnapshot, name)) }
	}
	edit := func(name string, fn func([]byte) []byte) func(*testing.T, *world) {
		return func(t *testing.T, w *world) { w.edit(t, in(pythonSnapshot, name), fn) }
	}
	for _, tc := range []struct {
		name   string
		damage func(t *testing.T, w *world)
		want   backup.Code
	}{
		{"metadata_missing", remove(metadataFile), backup.CodeMetadataMissing},
		{"metadata_truncated", edit(metadataFile, func(data []byte) []byte { return data[:len(data)-3] }), backup.CodeMetadataInvalid},
		{"metadata_without_time", set("created_at", nil), backup.CodeMetadataInvalid},
		{"metadata_with_a_time_that_is_none", set("created_at", "yesterday"), backup.CodeMetadataInvalid},
		{"metadata_without_database", set("db_snapshot_path", ""), backup.CodeMetadataInvalid},
		{"metadata_with_negative_size", set("db_size_bytes", -1), backup.CodeMetadataInvalid},
		{"metadata_leads_out", set("registry_snapshot_path", "/srv/atocore/backups/snapshots/20260409T120000Z/../../x"), backup.CodeMetadataInvalid},
		{"metadata_names_database_as_registry", set("registry_snapshot_path", "/srv/atocore/backups/snapshots/20260409T120000Z/db/atocore.db"), backup.CodeMetadataInvalid},
		{"database_missing", remove("db/atocore.db"), backup.CodeDatabaseMissing},
		{"database_directory_missing", remove("db"), backup.CodeDatabaseMissing},
		{"database_corrupt", edit("db/atocore.db", func(data []byte) []byte { return append(data[:8192:8192], make([]byte, len(data)-8192)...) }), backup.CodeDatabaseCorrupt},
		{"database_empty", edit("db/atocore.db", func([]byte) []byte { return nil }), backup.CodeDatabaseCorrupt},
		{"database_of_another_size", edit("db/atocore.db", func(data []byte) []byte { return append(data, make([]byte, 4096)...) }), backup.CodeSizeMismatch},
		{"registry_missing", remove(registry), backup.CodeFileMissing},
		{"registry_is_a_directory", func(t *testing.T, w *world) {
			w.drop(t, in(pythonSnapshot, registry))
			w.mkdir(t, in(pythonSnapshot, registry))
		}, backup.CodeTypeMismatch},
		{"vector_store_missing", remove("chroma"), backup.CodeTreeMissing},
		{"vector_store_is_a_file", func(t *testing.T, w *world) {
			w.drop(t, in(pythonSnapshot, "chroma"))
			w.write(t, in(pythonSnapshot, "chroma"), "file")
		}, backup.CodeTypeMismatch},
		{"vector_store_lacks_a_file", remove("chroma/collection-a/data.bin"), backup.CodeSizeMismatch},
		{"vector_store_has_a_file_more", func(t *testing.T, w *world) { w.write(t, in(pythonSnapshot, "chroma/more"), "") }, backup.CodeSizeMismatch},
	} {
		t.Run(tc.name, func(t *testing.T) {
			eachFs(t, func(t *testing.T, w *world) {
				s := w.python(t)
				tc.damage(t, w)
				r := w.validate(t, s, pythonSnapshot, nil)
				if r.Valid || !errors.Is(r.Err(), tc.want) {
					t.Errorf("%+v, want %s", r, tc.want)
				}
			})
		})
	}
}

// What cannot be read is not good, be it damage or a validation that could
// not be finished.
func TestValidateOfWhatCannotBeRead(t *testing.T) {
	for _, op := range []string{"open", "read", "readdir", "stat"} {
		for _, name := range []string{"", metadataFile, manifestFile, "chroma", "chroma/collection-a", "config", "config/project-registry.json", "db/atocore.db"} {
			w := newWorld(t, afero.NewMemMapFs(), "/srv")
			w.seed(t)
			stamp := w.create(t, w.store(t)).Stamp
			tried := false
			s := w.faulty(t, func(o, p string) error {
				if o == op && p == w.path(in(stamp, name)) {
					tried = true
					return syscall.EIO
				}
				return nil
			})
			r, err := s.Validate(t.Context(), stamp, nil)
			if !tried {
				continue
			}
			if err == nil && r.Valid {
				t.Errorf("%s of %q: %+v", op, name, r)
			}
			if err != nil && !errors.Is(err, syscall.EIO) {
				t.Errorf("%s of %q: %v", op, name, err)
			}
			if _, err := s.Restore(t.Context(), stamp, confirmed); err == nil {
				t.Errorf("%s of %q: restored", op, name)
			}
		}
	}
}

// There is a way back also to a state that the host finds fault with.
func TestCheckIsNotRunOnSafetySnapshots(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		w.seed(t)
		s := w.store(t, func(cfg *backup.Config) {
			cfg.Sources[0].Check = func(_ context.Context, c *sqlite3.Conn) error {
				stmt, _, err := c.Prepare("SELECT 1 FROM memories WHERE body = 'poison'")
				if err != nil {
					return err
				}
				defer stmt.Close()
				if stmt.Step() {
					return errors.New("poisoned")
				}
				return stmt.Err()
			}
		})
		stamp := w.create(t, s).Stamp
		w.exec(t, "data/atocore.db", "INSERT INTO memories (body) VALUES ('poison')")
		safety := w.restore(t, s, stamp).SafetyStamp
		if snap := w.listed(t, s, safety); !snap.Validated {
			t.Errorf("recorded: %v", snap.Problems)
		}
		if r := w.validate(t, s, safety, nil); !r.Valid {
			t.Errorf("validated: %v", r.Problems)
		}
		w.restore(t, s, safety)
		if got := w.query(t, "data/atocore.db", "SELECT body FROM memories"); got != "baseline\npoison" {
			t.Errorf("after undo: %q", got)
		}
	})
}

// Check is called on the copy of its own source alone.
func TestValidateRunsTheHostsCheck(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		w.seed(t)
		stamp := w.create(t, w.store(t)).Stamp
		var counts []string
		s := w.store(t, func(cfg *backup.Config) {
			cfg.Sources[0].Check = func(_ context.Context, c *sqlite3.Conn) error {
				stmt, _, err := c.Prepare("SELECT count(*) FROM memories")
				if err != nil {
					return err
				}
				defer stmt.Close()
				stmt.Step()
				counts = append(counts, stmt.ColumnText(0))
				if err := c.Exec("DELETE FROM memories"); err == nil {
					t.Error("a check may write")
				}
				return stmt.Err()
			}
		})
		if r := w.validate(t, s, stamp, nil); !r.Valid {
			t.Errorf("%+v", r)
		}
		if diff := cmp.Diff(counts, []string{"1"}); diff != "" {
			t.Errorf("(-got +want):\n%s", diff)
		}
	})
}

func TestValidateReportsProgress(t *testing.T) {
	w := newWorld(t, afero.NewMemMapFs(), "/srv")
	w.seed(t)
	snap := w.create(t, w.store(t))
	check := make(progressCheck)
	w.validate(t, check.store(t, w), snap.Stamp, nil)
	check.done(t, "validate", snap)
}

// Cancelling ends a validation in the middle.
func TestValidateCancelled(t *testing.T) {
	w := newWorld(t, afero.NewMemMapFs(), "/srv")
	w.seed(t)
	stamp := w.create(t, w.store(t)).Stamp
	ctx, cancel := context.WithCancel(t.Context())
	s := w.store(t, func(cfg *backup.Config) { cfg.Progress = func(backup.Progress) { cancel() } })
	if r, err := s.Validate(ctx, stamp, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("got %+v, %v", r, err)
	}
}

// Errors name paths and codes, never contents.
func TestValidateKeepsContentsToItself(t *testing.T) {
	w := newWorld(t, afero.NewMemMapFs(), "/srv")
	w.seed(t)
	s := w.store(t)
	stamp := w.create(t, s).Stamp
	const secret = "hunter2"
	for _, name := range []string{metadataFile, manifestFile, "config/project-registry.json", "db/atocore.db"} {
		for _, content := range []string{
			strings.Repeat(secret, 200),
			`{"created_at": "` + secret + `", "db_snapshot_path": "db/atocore.db"}`,
			`{"path":"db","type":"dir","mode":"` + secret + `","mtime":"` + secret + `"}` + "\n",
		} {
			w.edit(t, in(stamp, name), func([]byte) []byte { return []byte(content) })
			r := w.validate(t, s, stamp, nil)
			if r.Valid || strings.Contains(r.Err().Error(), secret) {
				t.Errorf("%s: %v", name, r.Err())
			}
		}
	}
}

// Nothing follows for a snapshot from a want of descriptors: to call it damaged
// would be as wrong as to call it good.
func TestShortageIsAnErrorAndNoDamage(t *testing.T) {
	for _, file := range []string{metadataFile, manifestFile, "config/project-registry.json", "db/atocore.db"} {
		for _, op := range []string{"open", "read"} {
			for _, shortage := range []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM} {
				w := newWorld(t, afero.NewMemMapFs(), "/srv")
				stamp := w.create(t, w.small(t)).Stamp
				before := w.liveState(t)
				met := false
				s := w.faulty(t, func(o, p string) error {
					if o != op || p != w.snapshot(stamp, file) {
						return nil
					}
					met = true
					return shortage
				})
				for _, level := range []backup.Level{backup.ValidateStructure, backup.ValidateQuick, backup.ValidateFull} {
					met = false
					r, err := s.Validate(t.Context(), stamp, &backup.ValidateOptions{Level: level})
					if met && (r != nil || !errors.Is(err, shortage)) {
						t.Errorf("%s %s: validate (%v): got %+v, %v; want %v", op, file, level, r, err, shortage)
					}
				}
				if !met {
					t.Errorf("%s: no %s", file, op)
				}
				if _, err := s.Restore(t.Context(), stamp, confirmed); !errors.Is(err, shortage) || errors.Is(err, backup.ErrInvalidSnapshot) {
					t.Errorf("%s %s: restore: got %v, want %v", op, file, err, shortage)
				}
				if diff := cmp.Diff(w.liveState(t), before); diff != "" {
					t.Errorf("%s %s: live state (-got +want):\n%s", op, file, diff)
				}
			}
		}
	}
}

// What is damaged in a manifest is in its bytes: where they cannot be had, it is
// not known.
func TestManifestThatCannotBeReadIsNotCalledInvalid(t *testing.T) {
	w := newWorld(t, afero.NewMemMapFs(), "/srv")
	stamp := w.create(t, w.small(t)).Stamp
	for _, op := range []string{"open", "read"} {
		s := w.faulty(t, func(o, p string) error {
			if o == op && p == w.snapshot(stamp, manifestFile) {
				return &fs.PathError{Op: op, Path: p, Err: syscall.EIO}
			}
			return nil
		})
		r := w.validate(t, s, stamp, structure)
		if diff := cmp.Diff(codes(r.Problems), []backup.Code{backup.CodeUnreadable}); diff != "" {
			t.Errorf("%s: %+v (-got +want):\n%s", op, r.Problems, diff)
		}
	}
}

// The error of a report has an end, and says of all problems which they are.
func TestErrorOfManyProblems(t *testing.T) {
	r := backup.Report{}
	for i := range 100_000 {
		r.Problems = append(r.Problems, backup.Problem{Code: backup.CodeFileMissing, Source: "tree", Path: fmt.Sprintf("tree/%06d", i)})
	}
	r.Problems = append(r.Problems, backup.Problem{Code: backup.CodeDatabaseCorrupt, Source: "db", Path: "db/app.db"})
	err := r.Err()
	if !errors.Is(err, backup.CodeFileMissing) || !errors.Is(err, backup.CodeDatabaseCorrupt) || errors.Is(err, backup.CodeTreeMissing) {
		t.Error("it has other codes")
	}
	lines := strings.Split(err.Error(), "\n")
	if len(lines) != 21 || lines[0] != r.Problems[0].Error() || lines[20] != "and 99981 more problems" {
		t.Errorf("got %d lines, the last %q", len(lines), lines[len(lines)-1])
	}
	r.Problems = r.Problems[:2]
	if got, want := r.Err().Error(), errors.Join(r.Problems[0], r.Problems[1]).Error(); got != want {
		t.Errorf("of two: got %q, want %q", got, want)
	}
	if err := (&backup.Report{}).Err(); err != nil {
		t.Errorf("of none: %v", err)
	}
}
