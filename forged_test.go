package backup_test

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/afero"

	"github.com/atocore/backup"
)

// These snapshots are the work of somebody who knows the format: one thing is
// wrong with each, and all checksums are right.

// A forgery changes the text of a snapshot's manifest, line by line, and of
// its metadata.
type forgery struct {
	manifest func(t *testing.T, lines []string) []string
	metadata func(t *testing.T, text string) string
}

// check makes the forgery in a good snapshot. What is wrong must be known
// from the description alone, and nothing be restored.
func (f *forgery) check(t *testing.T, want backup.Code) {
	t.Helper()
	w := newWorld(t, afero.NewMemMapFs(), "/srv")
	s := w.small(t)
	w.write(t, "config/project-registry.json", "")
	stamp := w.create(t, s).Stamp
	if f.manifest != nil {
		w.forgeManifest(t, stamp, func(lines []string) []string { return f.manifest(t, lines) })
	}
	if f.metadata != nil {
		w.forgeMetadata(t, stamp, func(text string) string { return f.metadata(t, text) })
	}
	r := w.validate(t, s, stamp, structure)
	if diff := cmp.Diff(codes(r.Problems), []backup.Code{want}); diff != "" {
		t.Errorf("%+v (-got +want):\n%s", r.Problems, diff)
	}
	before := w.liveState(t)
	if _, err := s.Restore(t.Context(), stamp, confirmed); !errors.Is(err, backup.ErrInvalidSnapshot) {
		t.Errorf("restore: got %v, want %v", err, backup.ErrInvalidSnapshot)
	}
	if diff := cmp.Diff(w.liveState(t), before); diff != "" {
		t.Errorf("live state (-got +want):\n%s", diff)
	}
}

// added inserts lines after that of a path, or before all if it is "".
func added(after string, added ...string) func(*testing.T, []string) []string {
	return func(t *testing.T, lines []string) []string {
		t.Helper()
		text := strings.Join(lines, "")
		if after == "" {
			return append(added, lines...)
		}
		_, rest, ok := strings.Cut(text, fmt.Sprintf("{%q:%q,", "path", after))
		_, rest, _ = strings.Cut(rest, "\n")
		if !ok {
			t.Fatalf("no %q in:\n%s", after, text)
		}
		return []string{strings.TrimSuffix(text, rest), strings.Join(added, ""), rest}
	}
}

// changed replaces text in the first line that has it.
func changed(old, new string) func(*testing.T, []string) []string {
	return func(t *testing.T, lines []string) []string {
		t.Helper()
		return []string{replace(t, old, new)(strings.Join(lines, ""))}
	}
}

func TestStampsAreCheckedBeforeAnyPathIsMadeOfThem(t *testing.T) {
	w := &world{fs: untouched{}, root: "/srv"}
	s := w.store(t)
	for _, stamp := range append(badStamps, `..\20260411T100000Z`, `20260411T100000Z\..`, "\xff\xfe", strings.Repeat("0", 1<<20)) {
		for name, operation := range map[string]func() error{
			"validate": func() error { _, err := s.Validate(t.Context(), stamp, nil); return err },
			"restore":  func() error { _, err := s.Restore(t.Context(), stamp, confirmed); return err },
			"dry run": func() error {
				_, err := s.Restore(t.Context(), stamp, &backup.RestoreOptions{DryRun: true})
				return err
			},
			"delete": func() error { return s.Delete(t.Context(), stamp) },
		} {
			if err := operation(); !errors.Is(err, backup.ErrInvalidStamp) {
				t.Errorf("%s %.40q: got %v, want %v", name, stamp, err, backup.ErrInvalidStamp)
			}
		}
	}
}

// Room is made for as many entries as there are lines: of lines that hold none
// there may be many.
func TestManifestOfEmptyLinesIsRefusedBeforeRoomIsMadeForEntries(t *testing.T) {
	w := newWorld(t, afero.NewMemMapFs(), "/srv")
	s := w.small(t)
	stamp := w.create(t, s).Stamp
	w.forgeManifest(t, stamp, func(lines []string) []string { return append(lines, strings.Repeat("\n", 1000)) })
	r := w.validate(t, s, stamp, structure)
	if len(r.Problems) != 1 || r.Problems[0].Code != backup.CodeManifestInvalid || !strings.Contains(r.Problems[0].Detail, "too short") {
		t.Errorf("got %+v", r.Problems)
	}
}

func TestForgedManifestIsRefused(t *testing.T) {
	// Directories, as files would not agree with the metadata.
	dir := func(path string) string { return `{"path":` + path + `,"type":"dir","mode":"0700"}` + "\n" }
	encoded := func(path string) string {
		return dir(`{"base64":"` + base64.StdEncoding.EncodeToString([]byte(path)) + `"}`)
	}
	fileMode := func(mode string) func(*testing.T, []string) []string {
		return changed(`"type":"file","mode":"0644"`, `"type":"file","mode":`+mode)
	}
	size := func(size string) func(*testing.T, []string) []string { return changed(`"size":4`, `"size":`+size) }
	fileType := func(key string) func(*testing.T, []string) []string { return changed(`"type":"file",`, key) }
	for name, manifest := range map[string]func(*testing.T, []string) []string{
		"path_that_ends_in_a_slash": added("chroma/b", dir(`"chroma/x/"`)),
		"path_with_an_escape":       added("chroma/b", dir(`"chroma/\u0062c"`)),
		"path_with_invalid_utf8":    added("chroma/b", dir("\"chroma/\xff\"")),
		"path_number":               added("chroma/b", dir(`7`)),
		"path_array":                added("chroma/b", dir(`["chroma/x"]`)),
		"path_null":                 added("chroma/b", dir(`null`)),
		"path_in_a_link":            added("chroma/b", `{"path":"chroma/l","type":"link","target":"/"}`+"\n", dir(`"chroma/l/x"`)),
		"path_of_metadata":          added("", dir(`"backup-metadata.json"`)),
		"path_of_manifest":          added("db/atocore.db", dir(`"manifest.jsonl"`)),
		"base64_of_text":            added("chroma/b", encoded("chroma/x")),
		"base64_traverses":          added("chroma/b", encoded("chroma/\xff/../../x")),
		"base64_absolute":           added("", encoded("/\xff")),
		"base64_nul":                added("chroma", encoded("chroma/\x00\xff")),
		"base64_damaged":            added("chroma/b", dir(`{"base64":"*"}`)),
		"type_upper_case":           fileType(`"type":"FILE",`),
		"type_empty":                fileType(`"type":"",`),
		"type_null":                 fileType(`"type":null,`),
		"type_missing":              fileType(``),
		"mode_too_long":             fileMode(`"00644"`),
		"mode_as_go_has_it":         fileMode(`"0o644"`),
		"mode_negative":             fileMode(`"-644"`),
		"mode_with_a_blank":         fileMode(`" 644"`),
		"mode_with_a_tail":          fileMode(`"0644 x"`),
		"mode_overflow":             fileMode(`"77777777777777777777777"`),
		"mode_number":               fileMode(`644`),
		"size_overflow":             size(`18446744073709551620`), // 4, modulo 2 to the 64
		"size_fraction":             size(`4.0`),
		"size_exponent":             size(`4e0`),
		"size_text":                 size(`"4"`),
		"size_zero_in_words":        changed(`"type":"file","mode":"0644","mtime"`, `"type":"file","mode":"0644","size":0,"mtime"`),
		"sha256_no_hex":             changed(`"sha256":"`, `"sha256":"x`),
		"sha256_of_directory":       changed(`"type":"dir","mode":"0755",`, `"type":"dir","mode":"0755",`+someHash+`,`),
		"target_of_directory":       changed("\"}\n", `","target":"/etc"}`+"\n"),
		"key_upper_case":            changed(`"type"`, `"Type"`),
		"key_order":                 changed(`"type":"file","mode":"0644"`, `"mode":"0644","type":"file"`),
		"line_null":                 added("db/atocore.db", "null\n"),
		"line_array":                added("db/atocore.db", "[]\n"),
		"line_of_nuls":              added("db/atocore.db", "\x00\x00\n"),
		"line_of_blanks":            added("db/atocore.db", " \n"),
		"line_deep":                 added("db/atocore.db", strings.Repeat("[", 1<<20-2)+"\n"),
		"line_deep_in_objects":      added("db/atocore.db", strings.Repeat(`{"path":`, 5000)+"\n"),
		"byte_order_mark":           added("", "\ufeff"),
		"database_is_a_link":        changed(`"path":"db/atocore.db","type":"db"`, `"path":"db/atocore.db","type":"link","target":"/x"`),
		"tree_is_a_link": func(_ *testing.T, lines []string) []string {
			return append([]string{`{"path":"chroma","type":"link","target":"/etc"}` + "\n"}, lines[3:]...)
		},
		"file_is_called_otherwise": changed(`"path":"config/project-registry.json"`, `"path":"config/other"`),
		"raw_in_silence":           changed(`"path":"db/atocore.db","type":"db"`, `"path":"db/atocore.db","type":"raw"`),
		"raw_in_a_tree_in_silence": changed(`"path":"chroma/a","type":"file"`, `"path":"chroma/a","type":"raw"`),
		"fewer_files":              func(_ *testing.T, lines []string) []string { return append(lines[:1:1], lines[2:]...) },
		"other_bytes":              changed(`"size":4`, `"size":5`),
	} {
		t.Run(name, func(t *testing.T) {
			(&forgery{manifest: manifest}).check(t, backup.CodeManifestInvalid)
		})
	}
}

func TestForgedMetadataIsRefused(t *testing.T) {
	// Each case is a list of what is replaced, and by what.
	path := func(path string) []string { return []string{`"path": "db/atocore.db"`, `"path": ` + path} }
	origin := func(text string) []string { return []string{`"origin": "manual"`, `"origin": ` + text} }
	for name, c := range map[string][]string{
		"key_missing":              {"  \"pinned\": false,\n", ""},
		"pinned_null":              {`"pinned": false`, `"pinned": null`},
		"two_blanks":               {`"pinned": false`, `"pinned":  false`},
		"level_number":             {`"level": "full"`, `"level": 0`},
		"labels_deep":              {`"level"`, `"labels": ` + strings.Repeat(`{"a":`, 20000) + `1` + strings.Repeat(`}`, 20000) + ",\n  \"level\""},
		"name_empty":               {`"name": "db"`, `"name": ""`},
		"name_of_manifest":         {`"name": "db"`, `"name": "manifest.jsonl"`},
		"kind_of_another":          {`"kind": "database"`, `"kind": "tree"`},
		"path_traverses_in_itself": path(`"db/../db/atocore.db"`),
		"path_deeper":              path(`"db/deep/atocore.db"`),
		"path_dot":                 path(`"db/."`),
		"path_directory":           path(`"db"`),
		"path_nul":                 path(`"db/\u0000"`),
		"path_empty":               path(`""`),
		"files_negative":           {"\"files\": 2", "\"files\": -2", "\"files\": 4", "\"files\": 0"},
		"files_that_do_not_add_up": {"\"files\": 4", "\"files\": 5"},
		"files_overflow":           {"\"files\": 4", "\"files\": 18446744073709551620"},
		"files_fraction":           {"\"files\": 4", "\"files\": 4.0"},
		"bytes_negative":           {"\"bytes\": 8", "\"bytes\": -8", "\"bytes\": 1032", "\"bytes\": 1016"},
		"bytes_that_do_not_add_up": {"\"bytes\": 1032", "\"bytes\": 1033"},
		"bytes_that_overflow":      {"\"bytes\": 1024", "\"bytes\": 9223372036854775807", "\"bytes\": 1032", "\"bytes\": -9223372036854775801"},
		"files_of_uncaptured":      {"\"captured\": true,\n      \"path\": \"chroma\"", "\"captured\": false,\n      \"path\": \"\""},
		"created_at_nonsense":      {`"created_at": "2026-`, `"created_at": "x026-`},
		"created_at_number":        {`"created_at": "2026-04-11T10:01:00Z"`, `"created_at": 0`},
		"created_at_not_canonical": {`"created_at": "2026-04-11T10:01:00Z"`, `"created_at": "2026-04-11T10:01:00+00:00"`},
		"verdict_missing":          {",\n  \"validated\": true", ""},
		"invalid_utf8":             origin("\"\xff\""),
		"replacement_escaped":      origin(`"\ufffd"`),
		"nul_byte":                 origin("\"\x00\""),
		"larger_than_any":          origin(`"` + strings.Repeat("x", 1<<20) + `"`),
		"byte_order_mark":          {"{\n  \"format\"", "\ufeff{\n  \"format\""},
		"second_object":            {",\n  \"validated\": true", ",\n  \"validated\": true\n}\n{\n  \"a\": 1"},
	} {
		t.Run(name, func(t *testing.T) {
			(&forgery{metadata: replaced(c)}).check(t, backup.CodeMetadataInvalid)
		})
	}
}

func replaced(pairs []string) func(*testing.T, string) string {
	return func(t *testing.T, text string) string {
		t.Helper()
		for i := 0; i < len(pairs); i += 2 {
			text = replace(t, pairs[i], pairs[i+1])(text)
		}
		return text
	}
}

// Metadata and manifest each say what there can be, but not of one snapshot.
func TestForgedMetadataThatTheManifestBeliesAreRefused(t *testing.T) {
	without := func(path string) func(*testing.T, []string) []string {
		return func(_ *testing.T, lines []string) (rest []string) {
			for _, line := range lines {
				if !strings.Contains(line, fmt.Sprintf("%q:%q", "path", path)) {
					rest = append(rest, line)
				}
			}
			return rest
		}
	}
	const (
		oneFileLess = "\"files\": 4"
		threeFiles  = "\"files\": 3"
	)
	for name, f := range map[string]forgery{
		"another_name":    {metadata: replaced([]string{`"path": "db/atocore.db"`, `"path": "db/other.db"`})},
		"files_wrong":     {metadata: replaced([]string{"\"files\": 2", "\"files\": 3", "\"files\": 4", "\"files\": 5"})},
		"bytes_wrong":     {metadata: replaced([]string{"\"bytes\": 8", "\"bytes\": 9", "\"bytes\": 1032", "\"bytes\": 1033"})},
		"source_unnamed":  {metadata: replaced([]string{`"name": "chroma"`, `"name": "x"`, `"path": "chroma"`, `"path": "x"`})},
		"source_not_said": {metadata: replaced([]string{"\"captured\": true,\n      \"path\": \"chroma\",\n      \"files\": 2,\n      \"bytes\": 8", "\"captured\": false,\n      \"path\": \"\",\n      \"files\": 0,\n      \"bytes\": 0", "\"files\": 4", "\"files\": 2", "\"bytes\": 1032", "\"bytes\": 1024"})},
		"source_twice":    {metadata: replaced([]string{"\"sources\": [\n", "\"sources\": [\n    {\n      \"name\": \"db\",\n      \"kind\": \"database\",\n      \"captured\": false,\n      \"path\": \"\",\n      \"files\": 0,\n      \"bytes\": 0\n    },\n"})},
		"file_is_nothing": {
			manifest: without("config/project-registry.json"),
			metadata: replaced([]string{"\"files\": 1,\n      \"bytes\": 0", "\"files\": 0,\n      \"bytes\": 0", oneFileLess, threeFiles}),
		},
		"database_is_nothing": {
			manifest: without("db/atocore.db"),
			metadata: replaced([]string{"\"files\": 1,\n      \"bytes\": 1024", "\"files\": 0,\n      \"bytes\": 0", oneFileLess, threeFiles, "\"bytes\": 1032", "\"bytes\": 8"}),
		},
	} {
		t.Run(name, func(t *testing.T) { f.check(t, backup.CodeManifestInvalid) })
	}
}

// A file of the Python module's has no checksum, and no manifest beside it.
func TestMetadataThatAreNoneAreRefused(t *testing.T) {
	w := newWorld(t, afero.NewMemMapFs(), "/srv")
	s := w.small(t)
	stamp := w.create(t, s).Stamp
	w.drop(t, in(stamp, manifestFile)) // it would give those away that pass for the module's
	python := func(keys string) string {
		return `{"created_at": "2026-04-11T10:01:00Z", "backup_root": "/b", "db_snapshot_path": "/b/db/atocore.db", ` + keys + `}`
	}
	for name, text := range map[string]string{
		"blank":                  " ",
		"nuls":                   strings.Repeat("\x00", 4096),
		"string":                 `"x"`,
		"deep_objects":           strings.Repeat(`{"a":`, 100_000),
		"deep_in_an_unknown_key": python(`"x": ` + strings.Repeat("[", 100_000) + strings.Repeat("]", 100_000)),
		"larger_than_any":        python(`"x": "` + strings.Repeat("x", 1<<20) + `"`),
		"trailing_object":        python(`"db_size_bytes": 1`) + "{}",
		"trailing_text":          python(`"db_size_bytes": 1`) + "x",
		"db_size_overflow":       python(`"db_size_bytes": 9223372036854775808`),
		"db_size_fraction":       python(`"db_size_bytes": 1.5`),
		"db_size_text":           python(`"db_size_bytes": "1"`),
		"chroma_files_negative":  python(`"chroma_snapshot_files": -1`),
		"chroma_bytes_negative":  python(`"chroma_snapshot_bytes": -1`),
		"db_path_traverses":      python(`"db_snapshot_path": "/b/db/../../evil"`),
		"db_path_ends_above":     python(`"db_snapshot_path": "/x/.."`),
		"db_path_dot":            python(`"db_snapshot_path": "/x/."`),
		"db_path_root":           python(`"db_snapshot_path": "/"`),
		"db_path_nul":            python(`"db_snapshot_path": "/b/db/\u0000"`),
		"chroma_path_traverses":  python(`"chroma_snapshot_path": "/b/.."`),
		"chroma_path_deeper":     python(`"chroma_snapshot_path": "/b/chroma/deep"`),
		"chroma_path_everything": python(`"chroma_snapshot_path": "/b/."`),
		"own_key_alone":          python(`"format": "atocore-backup/1"`),
		"own_checksum_alone":     python(`"checksum": ""`),
	} {
		t.Run(name, func(t *testing.T) {
			w.edit(t, in(stamp, metadataFile), func([]byte) []byte { return []byte(text) })
			r := w.validate(t, s, stamp, nil)
			if diff := cmp.Diff(codes(r.Problems), []backup.Code{backup.CodeMetadataInvalid}); diff != "" {
				t.Errorf("%+v (-got +want):\n%s", r.Problems, diff)
			}
			if snap := w.listed(t, s, stamp); snap.Validated || cmp.Diff(codes(snap.Problems), codes(r.Problems)) != "" {
				t.Errorf("listed: %+v", snap)
			}
		})
	}
	w.edit(t, in(stamp, metadataFile), func([]byte) []byte { return []byte(python(`"db_size_bytes": 1024`)) })
	mustBeValid(t, s, stamp)
}

// Paths in the Python module's metadata are hints. Those that lead elsewhere
// are taken by their names alone.
func TestPathsOfThePythonModuleLeadNowhere(t *testing.T) {
	for name, path := range map[string]string{
		"elsewhere":      "/etc/passwd",
		"relative":       "../../etc/passwd",
		"of_another":     "/srv/backups/snapshots/20250101T000000Z/db/passwd",
		"windows":        `C:\b\db\passwd`,
		"unc":            `\\host\share\passwd`,
		"bare":           "passwd",
		"below_its_root": "/b/db/passwd",
	} {
		t.Run(name, func(t *testing.T) {
			w := osWorld(t)
			w.mkdir(t, in(missingStamp, "db"))
			w.write(t, in(missingStamp, metadataFile), fmt.Sprintf(
				`{"created_at": "2026-04-11T10:01:00Z", "backup_root": "/b", "db_snapshot_path": %q, "db_size_bytes": 1}`, path))
			r := w.validate(t, w.store(t), missingStamp, nil)
			want := []backup.Problem{{Code: backup.CodeDatabaseMissing, Source: "db", Path: "db/passwd"}}
			if diff := cmp.Diff(r.Problems, want); diff != "" {
				t.Errorf("(-got +want):\n%s", diff)
			}
		})
	}
}

// What was copied raw in silence is refused, but not what is among the "and
// 300 more" of abridged metadata.
func TestAbridgedMetadataAreNotTakenForForged(t *testing.T) {
	w := newWorld(t, afero.NewMemMapFs(), "/srv")
	garbage := "SQLite format 3\x00" + strings.Repeat("\xff", 1008)
	for i := range 700 {
		w.write(t, fmt.Sprintf("many/%0200d", i), garbage)
	}
	w.write(t, "one/x", garbage)
	many, one := w.treeSource("many"), w.treeSource("one")
	many.Name, one.Name = "many", "one"
	s := w.store(t, withSources(many, one))
	snap, err := s.Create(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range snap.Problems {
		if p.Source == "one" {
			t.Fatalf("noted, and not abridged: %v", p)
		}
	}
	r := w.validate(t, s, snap.Stamp, nil)
	if diff := cmp.Diff(codes(r.Problems), []backup.Code{backup.CodeRawCopy}); diff != "" {
		t.Errorf("(-got +want):\n%s", diff)
	}
}
