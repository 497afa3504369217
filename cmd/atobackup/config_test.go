package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/atocore/backup"
)

func TestConfigMistakes(t *testing.T) {
	const db = `"sources": [{"name": "db", "kind": "database", "path": "data/app.db"}]`
	for name, test := range map[string]struct{ file, want string }{
		"empty":                {"", "it ends in the middle"},
		"cut_off":              {`{"dir": "b"`, "it ends in the middle"},
		"no_object":            {`["dir"]`, "the file: want an object in braces, got array"},
		"syntax":               {"{\n  \"dir\": \"b\",\n}", "line 3: invalid character"},
		"unknown_key":          {`{"dir": "b", "sorces": []}`, `unknown field "sorces"`},
		"unknown_source_key":   {`{"dir": "b", "sources": [{"nam": "db"}]}`, `unknown field "nam"`},
		"unknown_rule":         {`{"dir": "b", "retention": {"dayly": 7}}`, `unknown field "dayly"`},
		"key_twice":            {`{"dir": "b", "retention": {"daily": 7, "daily": 70}}`, `key "daily" is there twice`},
		"key_twice_in_list":    {`{"dir": "b", "sources": [{"Name": "a", "name": "b"}]}`, `key "name" is there twice`},
		"trailing_data":        {"{\n\"dir\": \"b\"}\n\n{}", "line 4: there is something behind the closing brace"},
		"wrong_type":           {"{\n\"dir\": 7,\n\"location\": \"\"\n}", "line 2: dir: want text in quotes, got number"},
		"sources_no_list":      {`{"sources": {}}`, "sources: want a list in brackets, got object"},
		"optional_no_bool":     {`{"sources": [{"optional": "yes"}]}`, "sources.optional: want true or false, got string"},
		"count_no_number":      {`{"retention": {"daily": "7"}}`, "retention.daily: want a whole number, got string"},
		"duration_no_text":     {`{"retention": {"within": 48}}`, `retention.within: want a duration such as "48h", got number`},
		"duration_unknown":     {`{"retention": {"within": "2 days"}}`, `duration "2 days": want one such as`},
		"duration_days":        {`{"retention": {"within": "1.5d"}}`, `duration "1.5d": want one such as`},
		"duration_days_beyond": {`{"retention": {"within": "999999999d"}}`, `duration "999999999d": want one such as`},
		"calendar":             {`{"retention": {"calendar": "lunar"}}`, `calendar "lunar": want one of [anchored newest]`},
		"rules_all_zero":       {`{"dir": "b", ` + db + `, "retention": {"daily": 0}}`, "every rule is 0"},
		"within_negative":      {`{"dir": "b", ` + db + `, "retention": {"within": "-1h"}}`, "negative"},
		"location":             {`{"dir": "b", ` + db + `, "location": "Mars/Olympus"}`, "Mars/Olympus"},
		"no_dir":               {`{` + db + `}`, "is empty"},
		"no_sources":           {`{"dir": "b"}`, "nothing to back up"},
		"kind":                 {`{"dir": "b", "sources": [{"name": "db", "kind": "folder", "path": "x"}]}`, `kind "folder"`},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.write(t, "backup.json", test.file)
			got := w.must(t, exitUsage, "create")
			contains(t, got.stderr, "atobackup: config", test.want)
			if got.stdout != "" {
				t.Errorf("stdout: %q, want nothing", got.stdout)
			}
		})
	}
}

func TestConfigFile(t *testing.T) {
	w := newWorld(t)
	w.write(t, "etc/backup.json", `{
		"dir": "../backups",
		"sources": [
			{"name": "db", "kind": "database", "path": "`+filepath.ToSlash(w.path("data/app.db"))+`"},
			{"name": "reg", "kind": "file", "path": "reg.json", "optional": true},
			{"name": "c", "kind": "tree", "path": "c", "on_request": true, "link_unchanged": true}
		],
		"retention": {"last": -1, "within": "30d", "hourly": 1, "daily": 2, "weekly": 3, "monthly": 4, "yearly": 5, "calendar": "newest", "min_keep": 6},
		"location": "Europe/Berlin",
		"busy_timeout": "1m30s"
	}`)
	got := configOf(t, "-config", w.path("etc/backup.json"))
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	want := backup.Config{
		Dir: w.path("backups"),
		Sources: []backup.Source{
			{Name: "db", Kind: backup.Database, Path: w.path("data/app.db")},
			{Name: "reg", Kind: backup.File, Path: w.path("etc/reg.json"), Optional: true},
			{Name: "c", Kind: backup.Tree, Path: w.path("etc/c"), OnRequest: true, LinkUnchanged: true},
		},
		Retention: backup.Retention{Last: -1, Within: 30 * 24 * time.Hour, Hourly: 1, Daily: 2, Weekly: 3, Monthly: 4, Yearly: 5,
			Calendar: backup.Newest, MinKeep: 6},
		Location:    berlin,
		BusyTimeout: 90 * time.Second,
	}
	diffConfig(t, got, want)
}

// What is above the directory of a configuration file may be one thing by its name
// and another for the system.
func TestConfigFileInALinkedDirectory(t *testing.T) {
	w := newWorld(t)
	w.write(t, "real/app/etc/backup.json", `{"dir": "../backups", "sources": [{"name": "db", "kind": "database", "path": "../data/app.db"}]}`)
	if err := os.Symlink("real/app/etc", w.path("etc")); err != nil {
		t.Skip(err)
	}
	contains(t, w.must(t, exitUsage, "create", "-config", w.path("etc/backup.json")).stderr, "write an absolute path")
	if err := os.Symlink("real/app", w.path("app")); err != nil {
		t.Fatal(err)
	}
	got := configOf(t, "-config", w.path("app/etc/backup.json")) // of which both are the same
	diffConfig(t, got, backup.Config{
		Dir:       w.path("app/backups"),
		Sources:   []backup.Source{{Name: "db", Kind: backup.Database, Path: w.path("app/data/app.db")}},
		Retention: backup.DefaultRetention(),
	})
}

// The manual's example is one that works.
func TestConfigOfManual(t *testing.T) {
	manual, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	_, example, _ := strings.Cut(string(manual), "\n//\t{\n")
	example, _, _ = strings.Cut(example, "\n//\t}\n")
	w := newWorld(t)
	w.write(t, "backup.json", "{\n"+strings.ReplaceAll(example, "//\t", "")+"\n}")
	cfg := configOf(t, "-config", w.path("backup.json"))
	if len(cfg.Sources) != 3 || cfg.Retention.MinKeep != 2 || cfg.Location.String() != "Europe/Berlin" {
		t.Errorf("got %+v", cfg)
	}
	if _, err := backup.New(cfg); err != nil {
		t.Error(err)
	}
}

// configOf returns what a command line makes of settings.
func configOf(t *testing.T, args ...string) backup.Config {
	t.Helper()
	v, err := findVerb("cleanup")
	if err != nil {
		t.Fatal(err)
	}
	o, err := parse(v, args)
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := o.config()
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

func diffConfig(t *testing.T, got, want backup.Config) {
	t.Helper()
	sameZone := cmp.Comparer(func(a, b *time.Location) bool { return a.String() == b.String() })
	if diff := cmp.Diff(got, want, sameZone, cmpopts.EquateComparable()); diff != "" {
		t.Errorf("config (-got +want):\n%s", diff)
	}
}

func TestSettingFlags(t *testing.T) {
	t.Run("instead_of_file", func(t *testing.T) {
		got := configOf(t, "-dir", "b", "-source", `name=db,kind=database,"path=/srv/a,b.db",optional=false`,
			"-source", "name=c,kind=tree,path=c,optional,on_request,link_unchanged", "-keep-last=-1", "-keep-within", "48h", "-keep-hourly", "1",
			"-keep-daily", "2", "-keep-weekly", "3", "-keep-monthly", "4", "-keep-yearly", "5", "-calendar", "newest", "-min-keep", "6",
			"-location", "UTC", "-busy-timeout", "1s")
		diffConfig(t, got, backup.Config{
			Dir: "b",
			Sources: []backup.Source{
				{Name: "db", Kind: backup.Database, Path: "/srv/a,b.db"},
				{Name: "c", Kind: backup.Tree, Path: "c", Optional: true, OnRequest: true, LinkUnchanged: true},
			},
			Retention: backup.Retention{Last: -1, Within: 48 * time.Hour, Hourly: 1, Daily: 2, Weekly: 3, Monthly: 4, Yearly: 5,
				Calendar: backup.Newest, MinKeep: 6},
			Location:    time.UTC,
			BusyTimeout: time.Second,
		})
	})
	t.Run("over_file", func(t *testing.T) {
		w := newWorld(t)
		w.write(t, "backup.json", strings.Replace(configJSON, `"dir"`, `"retention": {"daily": 7, "weekly": 4}, "location": "Asia/Tokyo", "dir"`, 1))
		got := configOf(t, "-dir", "elsewhere", "-config", w.path("backup.json"), "-keep-daily", "3", "-location", "UTC",
			"-source", "name=config,kind=file,path=other.json", "-source", "name=new,kind=file,path=new.json")
		diffConfig(t, got, backup.Config{
			Dir: "elsewhere",
			Sources: []backup.Source{
				{Name: "db", Kind: backup.Database, Path: w.path("data/app.db")},
				{Name: "config", Kind: backup.File, Path: "other.json"},
				{Name: "chroma", Kind: backup.Tree, Path: w.path("chroma"), OnRequest: true},
				{Name: "new", Kind: backup.File, Path: "new.json"},
			},
			Retention: backup.Retention{Daily: 3, Weekly: 4},
			Location:  time.UTC,
		})
	})
	t.Run("no_rule", func(t *testing.T) {
		want := backup.DefaultRetention()
		want.MinKeep, want.Calendar = 3, backup.Newest
		if got := configOf(t, "-min-keep", "3", "-calendar", "newest").Retention; got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
	})
	t.Run("end_to_end", func(t *testing.T) {
		w := newWorld(t)
		w.noConfig = true
		flags := []string{"-dir", w.path("b"), "-source", "name=db,kind=database,path=" + w.path("data/app.db"), "-location", "Pacific/Auckland"}
		w.must(t, exitDone, append([]string{"create"}, flags...)...)
		// It is the next day in Auckland.
		contains(t, w.must(t, exitDone, append([]string{"cleanup"}, flags...)...).stdout, "daily 2026-04-12")
	})
}

func TestSettingFlagMistakes(t *testing.T) {
	w := newWorld(t)
	for _, test := range []struct {
		want string
		args []string
	}{
		{`"size=3": want name=, kind=`, []string{"-source", "name=db,size=3"}},
		{`"optional=maybe": want true or false`, []string{"-source", "name=db,optional=maybe"}},
		{`source "db" is there twice`, []string{"-source", "name=db", "-source", "name=db"}},
		{"want one line", []string{"-source", "name=db\nname=x"}},
		{"want one line", []string{"-source", ""}},
		{`bare " in non-quoted`, []string{"-source", `name="db"`}},
		{"want a whole number", []string{"-keep-daily", "many"}},
		{`duration "x"`, []string{"-keep-within", "x"}},
		{`duration "x"`, []string{"-busy-timeout", "x"}},
		{`calendar "x"`, []string{"-calendar", "x"}},
		{"unknown time zone x", []string{"-location", "x"}},
		{"every rule is 0", []string{"-keep-daily", "0"}},
		{"negative", []string{"-busy-timeout", "-1s"}},
		{"/nonexistent", []string{"-config", "/nonexistent"}},
	} {
		contains(t, w.must(t, exitUsage, append([]string{"create"}, test.args...)...).stderr, test.want)
	}
}
