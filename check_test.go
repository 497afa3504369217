package backup_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ncruces/go-sqlite3"

	"github.com/atocore/backup"
)

// What integrity_check finds as a whole is found in the parts that large
// databases are checked in.
func TestPartsOfTheCheckFindWhatTheWholeFinds(t *testing.T) {
	check := func(t *testing.T, m mutant) (damaged, passed bool) {
		t.Helper()
		passed, whole, err := backup.CheckInParts(t.Context(), m.data)
		damaged = err != nil || len(whole) > 0
		if damaged && passed {
			t.Errorf("%s: passed in parts, and the whole says %q, %v", m.name, whole, err)
		}
		return damaged, passed
	}
	for _, v := range victims(t) {
		t.Run(v.name, func(t *testing.T) {
			if damaged, passed := check(t, mutant{v.name, v.data}); damaged || !passed {
				t.Fatal("unharmed, and not passed")
			}
			mutants := v.sample(every(29))
			found, alarms := 0, 0
			for _, m := range mutants {
				switch damaged, passed := check(t, m); {
				case damaged:
					found++
				case !passed: // which the whole then clears
					alarms++
				}
			}
			t.Logf("%d mutants, %d of them damaged; %d more were not passed in parts", len(mutants), found, alarms)
		})
	}
	t.Run("wrong_schemas", func(t *testing.T) {
		for name, wrong := range wrongSchemas {
			data := databaseOf(t, "CREATE TABLE t (x); CREATE INDEX tx ON t (x); INSERT INTO t VALUES ('a'), ('b'); PRAGMA writable_schema=ON;"+wrong.sql)
			check(t, mutant{name, data})
		}
	})
}

// What a row of an index says is not what its table says, whatever that is
// called: quick_check does not see it, and a pragma takes some names for
// something else.
func TestPartsOfTheCheckTakeAnyName(t *testing.T) {
	for _, name := range []string{"t", "it's", `a"b`, "a b", "table", "", "5", "-1", "+x", "12abc", "ä", "on", "1e3"} {
		quoted := `"` + strings.ReplaceAll(name, `"`, `""`) + `"`
		data := databaseOf(t, "CREATE TABLE "+quoted+" (x TEXT UNIQUE); INSERT INTO "+quoted+" VALUES ('some'), ('text')")
		if passed, whole, err := backup.CheckInParts(t.Context(), data); len(whole) > 0 || err != nil {
			t.Errorf("%q: passed: %t, %q, %v", name, passed, whole, err)
		}
		i := bytes.LastIndex(data, []byte("some")) // the index lies behind the table
		data[i] = 'd'
		if passed, whole, err := backup.CheckInParts(t.Context(), data); passed || len(whole) == 0 {
			t.Errorf("%q, damaged: passed: %t, %q, %v", name, passed, whole, err)
		}
	}
}

// A database says itself what is called like the functions that tell of its
// tables.
func TestPartsOfTheCheckAskSQLite(t *testing.T) {
	for _, liar := range []string{
		"CREATE TABLE pragma_table_list (schema, name, type, ncol, wr, strict)",
		"CREATE TABLE pragma_index_list (x, arg HIDDEN)",
		"CREATE VIEW pragma_table_list AS SELECT 'main' AS schema, 'q' AS name, 'table' AS type, 1 AS ncol, 0 AS wr, 0 AS strict WHERE 0",
		"CREATE VIEW pragma_index_list AS SELECT 1 WHERE 0",
	} {
		data := databaseOf(t, "CREATE TABLE t (x TEXT UNIQUE); INSERT INTO t VALUES ('some'), ('text');"+liar)
		i := bytes.LastIndex(data, []byte("some"))
		data[i] = 'd'
		if passed, whole, err := backup.CheckInParts(t.Context(), data); passed || len(whole) == 0 {
			t.Errorf("%s: passed: %t, %q, %v", liar, passed, whole, err)
		}
	}
}

// databaseOf returns the database that SQL makes.
func databaseOf(t *testing.T, sql string) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "x.db")
	c, err := sqlite3.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Exec(sql); err != nil {
		t.Errorf("%s: %v", sql, err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}
