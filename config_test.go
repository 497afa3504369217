package backup_test

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/ncruces/go-sqlite3"
	"github.com/spf13/afero"

	"github.com/atocore/backup"
)

// untouched is a file system that must not be used: every method of the nil
// interface panics.
type untouched struct{ afero.Fs }

func (untouched) Name() string { return "untouched" }

// goodConfig is what the cases of TestNew make mistakes in.
func goodConfig() backup.Config {
	return backup.Config{
		Dir: "/srv/backups",
		Fs:  untouched{},
		Sources: []backup.Source{
			{Name: "db", Kind: backup.Database, Path: "/srv/data/app.db"},
			{Name: "config", Kind: backup.File, Path: "/srv/config/registry.json"},
			{Name: "vectors", Kind: backup.Tree, Path: "/srv/vectors"},
		},
	}
}

// withSource returns a change that adds a source.
func withSource(name string, kind backup.Kind, path string) func(*backup.Config) {
	return func(cfg *backup.Config) {
		cfg.Sources = append(cfg.Sources, backup.Source{Name: name, Kind: kind, Path: path})
	}
}

func TestNew(t *testing.T) {
	check := func(context.Context, *sqlite3.Conn) error { return nil }
	for _, test := range []struct {
		name   string
		change func(*backup.Config)
		wants  []string // what the error says; none: there is no error
	}{
		{name: "good", change: func(cfg *backup.Config) {}},
		{name: "name_of_100_bytes", change: withSource(strings.Repeat("n", 100), backup.File, "/f")},
		{name: "name_with_all_it_may_have", change: withSource("_0-9.a_Z", backup.File, "/f")},
		{name: "source_within_a_tree", change: withSource("x", backup.Database, "/srv/vectors/x.db")},
		{name: "dir_within_a_tree", change: withSource("all", backup.Tree, "/srv")},
		{name: "names_like_prefixes", change: withSource("d", backup.File, "/srv/data/app.db2")},

		{"dir_empty", func(cfg *backup.Config) { cfg.Dir = "" }, []string{"dir is empty"}},
		{"dir_with_nul", func(cfg *backup.Config) { cfg.Dir = "/a\x00b" }, []string{"dir", "NUL"}},
		{"no_sources", func(cfg *backup.Config) { cfg.Sources = nil }, []string{"no sources"}},
		{"busy_timeout_negative", func(cfg *backup.Config) { cfg.BusyTimeout = -1 }, []string{"busy timeout"}},
		{"within_negative", func(cfg *backup.Config) { cfg.Retention.Within = -time.Hour }, []string{"retention"}},
		{"no_rule_but_a_minimum", func(cfg *backup.Config) { cfg.Retention = backup.Retention{MinKeep: 1} }, []string{"retention", "no rule", "Last", "DefaultRetention"}},
		{"no_rule_but_a_calendar", func(cfg *backup.Config) { cfg.Retention = backup.Retention{Calendar: backup.Newest} }, []string{"retention", "no rule"}},
		{"calendar_unknown", func(cfg *backup.Config) { cfg.Retention.Calendar = 7 }, []string{"retention", "calendar"}},

		{"name_taken", withSource("db", backup.File, "/f"), []string{`"db"`, "taken"}},
		{"name_taken_but_for_case", withSource("DB", backup.File, "/f"), []string{`"DB"`, "taken"}},
		{"name_empty", withSource("", backup.File, "/f"), []string{`name ""`}},
		{"name_dot", withSource(".", backup.File, "/f"), []string{`name "."`}},
		{"name_dot_dot", withSource("..", backup.File, "/f"), []string{`name ".."`}},
		{"name_leads_out", withSource("../x", backup.File, "/f"), []string{`name "../x"`}},
		{"name_with_slash", withSource("a/b", backup.File, "/f"), []string{`name "a/b"`}},
		{"name_with_backslash", withSource(`a\b`, backup.File, "/f"), []string{`name "a\\b"`}},
		{"name_with_space", withSource("a b", backup.File, "/f"), []string{`name "a b"`}},
		{"name_with_newline", withSource("a\n", backup.File, "/f"), []string{`name "a\n"`}},
		{"name_with_nul", withSource("a\x00", backup.File, "/f"), []string{`name "a\x00"`}},
		{"name_hidden", withSource(".hidden", backup.File, "/f"), []string{`name ".hidden"`}},
		{"name_like_an_option", withSource("-rf", backup.File, "/f"), []string{`name "-rf"`}},
		{"name_ends_in_dot", withSource("a.", backup.File, "/f"), []string{`name "a."`}},
		{"name_of_101_bytes", withSource(strings.Repeat("n", 101), backup.File, "/f"), []string{"name"}},
		{"name_of_the_manifest", withSource("manifest.jsonl", backup.File, "/f"), []string{`name "manifest.jsonl"`}},
		{"name_of_the_metadata", withSource("Backup-Metadata.JSON", backup.File, "/f"), []string{`name "Backup-Metadata.JSON"`}},
		{"name_of_the_metadata_while_it_is_written", withSource("backup-metadata.json.tmp", backup.File, "/f"), []string{`name "backup-metadata.json.tmp"`}},
		{"name_of_a_windows_device", withSource("CON", backup.File, "/f"), []string{`name "CON"`}},
		{"name_of_a_windows_device_with_suffix", withSource("nul.db", backup.File, "/f"), []string{`name "nul.db"`}},

		{"kind_unknown", withSource("x", "table", "/f"), []string{`kind "table"`}},
		{"kind_empty", withSource("x", "", "/f"), []string{`kind ""`}},
		{"path_empty", withSource("x", backup.File, ""), []string{`"x"`, "path is empty"}},
		{"path_with_nul", withSource("x", backup.File, "/f\x00"), []string{`"x"`, "NUL"}},
		{"path_twice", withSource("x", backup.File, "/srv/data/./app.db"), []string{`"x"`, `"db"`}},
		{"path_below_a_file", withSource("x", backup.File, "/srv/data/app.db/x"), []string{`"x"`, `"db"`}},
		{"path_of_a_sidecar", withSource("x", backup.File, "/srv/data/app.db-wal"), []string{`"x"`, `"db"`, "sidecar"}},
		{"path_of_a_database_with_a_sidecar", withSource("x", backup.Database, "/srv/config/registry.json-wal"), nil},
		{"sidecar_before_its_database", func(cfg *backup.Config) {
			cfg.Sources[1].Path = "/srv/log.db-shm"
			withSource("x", backup.Database, "/srv/log.db")(cfg)
		}, []string{`"x"`, `"config"`, "sidecar"}},
		{"tree_twice", withSource("x", backup.Tree, "/srv/vectors/"), []string{`"x"`, `"vectors"`}},
		{"path_within_dir", withSource("x", backup.File, "/srv/backups/f"), []string{`"x"`, "dir"}},
		{"path_is_dir", withSource("x", backup.Tree, "/srv/backups"), []string{`"x"`, "dir"}},
		{"tree_within_dir", withSource("x", backup.Tree, "/srv/backups/snapshots"), []string{`"x"`, "dir"}},
		{"dir_below_a_file", func(cfg *backup.Config) { cfg.Dir = "/srv/data/app.db/backups" }, []string{`"db"`, "dir"}},

		{"db_on_a_file", func(cfg *backup.Config) { cfg.Sources[1].DB = new(sql.DB) }, []string{`"config"`, "DB"}},
		{"db_on_a_tree", func(cfg *backup.Config) { cfg.Sources[2].DB = new(sql.DB) }, []string{`"vectors"`, "DB"}},
		{"check_on_a_file", func(cfg *backup.Config) { cfg.Sources[1].Check = check }, []string{`"config"`, "Check"}},
		{"check_on_a_tree", func(cfg *backup.Config) { cfg.Sources[2].Check = check }, []string{`"vectors"`, "Check"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			cfg := goodConfig()
			test.change(&cfg)
			_, err := backup.New(cfg)
			if len(test.wants) == 0 {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if err == nil {
				t.Fatal("no error")
			}
			for _, want := range test.wants {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("got %q, want %q in it", err, want)
				}
			}
			if n := len(mistakes(err)); n != 1 {
				t.Errorf("%d mistakes, want 1: %v", n, err)
			}
		})
	}
}

func TestNewRefusesTheRootAsAFile(t *testing.T) {
	cfg := goodConfig()
	withSource("x", backup.File, "/")(&cfg)
	if _, err := backup.New(cfg); err == nil || !strings.Contains(err.Error(), "not that of a file") {
		t.Errorf("got %v, want that it is no file", err)
	}
}

// mistakes returns the errors that one of New's joins.
func mistakes(err error) []error {
	joined, ok := errors.Unwrap(err).(interface{ Unwrap() []error })
	if !ok {
		return nil
	}
	return joined.Unwrap()
}

func TestNewReportsAllMistakesAtOnce(t *testing.T) {
	_, err := backup.New(backup.Config{
		Fs:          untouched{},
		BusyTimeout: -1,
		Retention:   backup.Retention{Within: -1},
		Sources: []backup.Source{
			{Name: "../x", Kind: "table", DB: new(sql.DB)},
			{Name: "a", Kind: backup.File, Path: "/a"},
			{Name: "A", Kind: backup.File, Path: "/a"},
		},
	})
	if err == nil {
		t.Fatal("no error")
	}
	// dir, busy timeout, retention; name, kind, path and DB of the first
	// source; name and path of the last.
	if got := len(mistakes(err)); got != 9 {
		t.Errorf("%d mistakes, want 9: %v", got, err)
	}
}

// New copies what it is given, and what it returns holds to that.
func TestNewKeepsItsOwnSources(t *testing.T) {
	w := newWorld(t, afero.NewMemMapFs(), "/srv")
	w.seed(t)
	sources := w.sources()
	given := slices.Clone(sources)
	s, err := backup.New(backup.Config{Dir: w.path("backups"), Fs: w.fs, Sources: sources, Now: w.clock})
	if err != nil {
		t.Fatal(err)
	}
	if sources[0].Path != given[0].Path {
		t.Error("New changed the caller's sources")
	}
	sources[0].Path = w.path("gone")
	w.create(t, s)
}

func TestNewTouchesNoFile(t *testing.T) {
	t.Run("any", func(t *testing.T) {
		if _, err := backup.New(goodConfig()); err != nil { // or a panic
			t.Error(err)
		}
	})
	t.Run("os", func(t *testing.T) {
		dir := t.TempDir()
		cfg := goodConfig()
		cfg.Fs, cfg.Dir = nil, filepath.Join(dir, "backups")
		cfg.Sources[0].Path = filepath.Join(dir, "data", "app.db")
		if _, err := backup.New(cfg); err != nil {
			t.Fatal(err)
		}
		w := &world{fs: afero.NewOsFs(), root: dir}
		if diff := cmp.Diff(map[string]string{".": "-rwxr-xr-x"}, w.tree(t, ".")); diff != "" {
			t.Errorf("New made something (-want +got):\n%s", diff)
		}
	})
}

func TestCreateRefusesBadOptions(t *testing.T) {
	for _, test := range []struct {
		name string
		opts backup.CreateOptions
		want string
	}{
		{"include_of_no_source", backup.CreateOptions{Include: []string{"chroma", "chrome"}}, `"chrome"`},
		{"include_but_for_case", backup.CreateOptions{Include: []string{"Chroma"}}, `"Chroma"`},
		{"level_unknown", backup.CreateOptions{Level: 3}, "Level(3)"},
		{"level_negative", backup.CreateOptions{Level: -1}, "Level(-1)"},
		{"labels_too_large", backup.CreateOptions{Labels: map[string]string{"k": strings.Repeat("v", 64<<10)}}, "labels"},
		{"origin_unknown", backup.CreateOptions{Origin: "pre_restore"}, `"pre_restore"`},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t, afero.NewMemMapFs(), "/srv")
			w.seed(t)
			snap, err := w.store(t).Create(t.Context(), &test.opts)
			if snap != nil || err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %+v, %v, want an error with %s", snap, err, test.want)
			}
			if w.exists(t, "backups") {
				t.Error("something was made all the same")
			}
		})
	}
}

// A label is kept as it is, or refused: never kept in a way that makes the
// snapshot's own metadata unreadable.
func TestCreateKeepsLabels(t *testing.T) {
	for name, label := range map[string]string{
		"text":           "before the upgrade\n\t\"quoted\" <&>",
		"line_separator": "a\u2028b",
		"replacement":    "a\ufffdb",
		"unicode":        "åß∂😀",
		"invalid_utf8":   "a\xffb",
		"64_kib":         strings.Repeat("v", 64<<10-len("why")),
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, afero.NewMemMapFs(), "/srv")
			w.seed(t)
			s := w.store(t)
			snap, err := s.Create(t.Context(), &backup.CreateOptions{Labels: map[string]string{"why": label}})
			if err != nil && name == "invalid_utf8" {
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			list, err := s.List(t.Context())
			if err != nil || len(list) != 1 {
				t.Fatalf("got %v, %v, want one snapshot", list, err)
			}
			if diff := cmp.Diff(*snap, list[0]); diff != "" {
				t.Errorf("created and listed (-want +got):\n%s", diff)
			}
		})
	}
}

// Levels and calendars are text in JSON, and nothing else is taken for one.
func TestNamesOfLevelsAndCalendars(t *testing.T) {
	type names struct {
		Level    backup.Level
		Calendar backup.Calendar
	}
	for text, want := range map[string]names{
		`{"Level":"full","Calendar":"anchored"}`:    {backup.ValidateFull, backup.Anchored},
		`{"Level":"quick","Calendar":"newest"}`:     {backup.ValidateQuick, backup.Newest},
		`{"Level":"structure","Calendar":"newest"}`: {backup.ValidateStructure, backup.Newest},
	} {
		var got names
		if err := json.Unmarshal([]byte(text), &got); err != nil || got != want {
			t.Errorf("%s: got %v, %v", text, got, err)
		}
		if data, err := json.Marshal(want); err != nil || string(data) != text {
			t.Errorf("got %s, %v, want %s", data, err, text)
		}
	}
	for _, text := range []string{`{"Level":"none"}`, `{"Calendar":"lunar"}`, `{"Level":""}`, `{"Calendar":"Newest"}`} {
		if err := json.Unmarshal([]byte(text), &names{}); err == nil {
			t.Errorf("%s: accepted", text)
		}
	}
	for _, n := range []names{{Level: 7}, {Calendar: -1}} {
		if data, err := json.Marshal(n); err == nil {
			t.Errorf("%+v: got %s", n, data)
		}
	}
}
