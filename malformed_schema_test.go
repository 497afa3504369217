package backup_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/ncruces/go-sqlite3"
	"github.com/spf13/afero"

	"github.com/atocore/backup"
)

// A schema is text that somebody wrote, and SQLite's checks evaluate some of
// it. It may be wrong, speak of what only the service has, or take for ever.

// schemaProblems takes a snapshot of a database that sql has worked on, and
// returns what is said about the copy.
func schemaProblems(t *testing.T, sql string) []backup.Problem {
	t.Helper()
	w := newWorld(t, afero.NewMemMapFs(), "/srv")
	w.exec(t, "x.db", "CREATE TABLE t (x); INSERT INTO t VALUES ('a'), ('b'); PRAGMA writable_schema=ON;"+sql)
	if t.Failed() {
		t.FailNow()
	}
	s := w.store(t, withSources(w.database("x.db")))
	snap, err := s.Create(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	report := w.validate(t, s, snap.Stamp, nil)
	if fmt.Sprint(report.Problems) != fmt.Sprint(snap.Problems) {
		t.Errorf("created with %v, validated with %v", snap.Problems, report.Problems)
	}
	return report.Problems
}

// What a schema speaks of and is not there is the service's own, or nobody's:
// the bytes are as sound as they were.
func TestSchemaOfUnknownThingsIsNoDamage(t *testing.T) {
	for name, sql := range map[string]string{
		"view_of_missing_table":    "CREATE VIEW v AS SELECT * FROM missing",
		"view_of_missing_function": "CREATE VIEW v AS SELECT missing(1)",
		"view_of_itself":           "CREATE VIEW a AS SELECT * FROM b; CREATE VIEW b AS SELECT * FROM a",
		"trigger_on_missing_table": "CREATE TRIGGER x AFTER INSERT ON t BEGIN INSERT INTO missing VALUES (missing(1)); END",
		"foreign_key_to_missing":   "PRAGMA foreign_keys=OFF; CREATE TABLE f (x REFERENCES missing); INSERT INTO f VALUES (1)",
		"unknown_module":           "INSERT INTO sqlite_schema VALUES ('table', 'm', 'm', 0, 'CREATE VIRTUAL TABLE m USING missing(a, b)')",
		"unknown_collation":        "CREATE INDEX i ON t (x COLLATE NOCASE); UPDATE sqlite_schema SET sql = replace(sql, 'NOCASE', 'ABSENT')",
		"unknown_collation_column": "CREATE TABLE c (x TEXT COLLATE NOCASE UNIQUE); INSERT INTO c VALUES ('a'), ('b'); UPDATE sqlite_schema SET sql = replace(sql, 'NOCASE', 'ABSENT')",
		"unknown_function_check":   "CREATE TABLE c (x CHECK (length(x) < 9)); INSERT INTO c VALUES (1); UPDATE sqlite_schema SET sql = replace(sql, 'length', 'absent')",
		"unknown_function_index":   "CREATE INDEX i ON t (length(x)); UPDATE sqlite_schema SET sql = replace(sql, 'length', 'absent')",
		"unknown_function_partial": "CREATE INDEX i ON t (x) WHERE length(x) < 9; UPDATE sqlite_schema SET sql = replace(sql, 'length', 'absent')",
		"unknown_function_virtual": "CREATE TABLE g (x, y AS (length(x))); INSERT INTO g VALUES (1); CREATE INDEX i ON g (y); UPDATE sqlite_schema SET sql = replace(sql, 'length', 'absent')",
		"unknown_function_stored":  "CREATE TABLE g (x, y AS (length(x)) STORED); INSERT INTO g VALUES (1); UPDATE sqlite_schema SET sql = replace(sql, 'length', 'absent')",
		"unknown_function_default": "CREATE TABLE d (x, y DEFAULT (length('x'))); UPDATE sqlite_schema SET sql = replace(sql, 'length', 'absent')",
		"check_divides_by_zero":    "CREATE TABLE c (x CHECK (1/0 IS NULL)); INSERT INTO c VALUES (1)",
		"name_with_nul":            "UPDATE sqlite_schema SET name = x'740075', tbl_name = x'740075' WHERE name = 't'",
		"long_name":                `CREATE TABLE "` + strings.Repeat("x", 100_000) + `" (x)`,
		"many_columns":             "CREATE TABLE w (c0" + sequence(", c%d", 1, 1999) + ")",
		"deep_expression":          "CREATE TABLE e (x CHECK (" + strings.Repeat("(", 90) + "x" + strings.Repeat(")", 90) + "))",
		"odd_names":                "CREATE TABLE \"a\nb\x1b[31m\" (\"\xff\"); INSERT INTO \"a\nb\x1b[31m\" VALUES (1)",
	} {
		t.Run(name, func(t *testing.T) {
			if problems := schemaProblems(t, sql); len(problems) > 0 {
				t.Errorf("a good database: %v", problems)
			}
		})
	}
}

const duplicateInUnique = "CREATE TABLE u (x); CREATE INDEX i ON u (x); INSERT INTO u VALUES (1), (1); UPDATE sqlite_schema SET sql = 'CREATE UNIQUE INDEX i ON u (x)' WHERE name = 'i';"

// wrongSchemas are SQL that makes a database wrong, and a word of what is said
// of it.
var wrongSchemas = map[string]struct{ sql, detail string }{
	"check_that_fails":     {"PRAGMA ignore_check_constraints=ON; CREATE TABLE c (x CHECK (x > 9)); INSERT INTO c VALUES (1)", "CHECK"},
	"null_in_not_null":     {"CREATE TABLE n (x); INSERT INTO n VALUES (NULL); UPDATE sqlite_schema SET sql = 'CREATE TABLE n (x NOT NULL)' WHERE name = 'n'", "NULL"},
	"duplicate_in_unique":  {duplicateInUnique, "unique"},
	"check_that_fails_too": {"PRAGMA ignore_check_constraints=ON; CREATE TABLE c (x CHECK (x > 9)); INSERT INTO c VALUES (1); CREATE TABLE z (x CHECK (length(x) < 9)); UPDATE sqlite_schema SET sql = replace(sql, 'length', 'absent') WHERE name = 'z'", "CHECK"},
	"beside_a_function":    {"CREATE TABLE z (x CHECK (length(x) < 9));" + duplicateInUnique + "UPDATE sqlite_schema SET sql = replace(sql, 'length', 'absent') WHERE name = 'z'", "unique"},
	"beside_a_collation":   {"CREATE TABLE z (x TEXT COLLATE NOCASE UNIQUE);" + duplicateInUnique + "UPDATE sqlite_schema SET sql = replace(sql, 'NOCASE', 'ABSENT') WHERE name = 'z'", "unique"},
	"syntax_error":         {"UPDATE sqlite_schema SET sql = 'CREATE TABLE t (' WHERE name = 't'", "malformed"},
	"no_sql":               {"UPDATE sqlite_schema SET sql = NULL WHERE name = 't'", "malformed"},
	"root_page_of_another": {"CREATE TABLE o (x); UPDATE sqlite_schema SET rootpage = 2", ""},
	"root_page_beyond":     {"UPDATE sqlite_schema SET rootpage = 99999 WHERE name = 't'", ""},
	"root_page_text":       {"UPDATE sqlite_schema SET rootpage = 'x' WHERE name = 't'", ""},
	"attach_in_schema":     {"UPDATE sqlite_schema SET sql = 'ATTACH ''/etc/passwd'' AS x' WHERE name = 't'", ""},
}

func TestWrongSchemaIsFound(t *testing.T) {
	for name, c := range wrongSchemas {
		t.Run(name, func(t *testing.T) {
			problems := schemaProblems(t, c.sql)
			if len(problems) == 0 || problems[0].Code != backup.CodeDatabaseCorrupt || !strings.Contains(problems[0].Detail, c.detail) {
				t.Errorf("got %v, want %s: …%s…", problems, backup.CodeDatabaseCorrupt, c.detail)
			}
		})
	}
}

// A damaged row makes the expression of an index fail, and the check with it
// before it has come to an end.
func TestIndexedExpressionThatFailsIsFound(t *testing.T) {
	w := newWorld(t, afero.NewMemMapFs(), "/srv")
	w.exec(t, "x.db", `CREATE TABLE t (x); INSERT INTO t VALUES ('{"key":1}'), ('{"key":2}'); CREATE INDEX i ON t (json_extract(x, '$.key'))`)
	w.edit(t, "x.db", func(data []byte) []byte { return []byte(replace(t, `{"key":1}`, `?"key":1}`)(string(data))) })
	snap, err := w.store(t, withSources(w.database("x.db"))).Create(t.Context(), nil)
	if err != nil || snap.Validated {
		t.Errorf("called valid: %+v, %v", snap, err)
	}
}

// Whatever becomes of a check, it is said, and not what becomes of its connection.
func TestCheckThatIsNotFinishedIsAProblem(t *testing.T) {
	const outOfMemory = `CREATE TABLE t (x); INSERT INTO t VALUES (1), (2); CREATE INDEX i ON t (x + 1); PRAGMA writable_schema=ON;
		UPDATE sqlite_schema SET sql = replace(sql, 'x + 1', 'length(hex(zeroblob(499000000)))')`
	deeper := `CREATE TABLE t (x CHECK (1)); INSERT INTO t VALUES (1); PRAGMA writable_schema=ON;
		UPDATE sqlite_schema SET sql = replace(sql, 'CHECK (1)', 'CHECK (` + strings.Repeat("(", 900) + "x" + strings.Repeat(" + 1)", 900) + `)')`
	for name, c := range map[string]struct {
		sql   string
		check func(context.Context, *sqlite3.Conn) error
		want  string
	}{
		"deeper_than_the_drivers_stack": {deeper, nil, "panic"}, // and it panics when it is closed, too
		"host_leaves_a_statement": {"CREATE TABLE t (x); INSERT INTO t VALUES (1), (2)", func(_ context.Context, c *sqlite3.Conn) error {
			stmt, _, err := c.Prepare("SELECT x FROM t")
			if err == nil {
				stmt.Step()
			}
			return err
		}, "statement"},
		"host_panics":   {"CREATE TABLE t (x)", func(context.Context, *sqlite3.Conn) error { panic("a bug") }, "a bug"},
		"out_of_memory": {outOfMemory, nil, "memory"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, afero.NewMemMapFs(), "/srv")
			w.exec(t, "x.db", c.sql)
			source := w.database("x.db")
			source.Check = c.check
			snap, err := w.store(t, withSources(source)).Create(t.Context(), nil)
			if err != nil {
				t.Fatal(err)
			}
			if p := snap.Problems; len(p) != 1 || p[0].Code != backup.CodeCheckFailed || !strings.Contains(p[0].Detail, c.want) {
				t.Errorf("got %v, want %s: …%s…", p, backup.CodeCheckFailed, c.want)
			}
		})
	}
}

// sequence returns a text for each number.
func sequence(format string, from, to int) string {
	var b strings.Builder
	for i := from; i <= to; i++ {
		fmt.Fprintf(&b, format, i)
	}
	return b.String()
}

// An expression of a schema may be as expensive as its author likes. The check
// ends with its context all the same.
func TestSchemaThatTakesForEverEndsWithItsContext(t *testing.T) {
	w := newWorld(t, afero.NewMemMapFs(), "/srv")
	w.exec(t, "x.db", `CREATE TABLE c (x CHECK (x > 0));
		WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i < 100000) INSERT INTO c SELECT i FROM n;
		PRAGMA writable_schema=ON;
		UPDATE sqlite_schema SET sql = replace(sql, 'x > 0', 'length(hex(zeroblob(500000 + x))) > 0')`) // 1 ms each
	s := w.store(t, withSources(w.database("x.db")))
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	err := returns(ctx, t, func() error {
		_, err := s.Create(ctx, nil)
		return err
	})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v: it was to take longer than its context lasts", err)
	}
}

// returns runs an operation that has to end soon after its context does.
func returns(ctx context.Context, t *testing.T, operation func() error) error {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- operation() }()
	deadline, _ := ctx.Deadline()
	late := time.NewTimer(time.Until(deadline) + 15*time.Second)
	defer late.Stop()
	select {
	case err := <-done:
		return err
	case <-late.C:
		t.Fatal("it goes on, long past the end of its context")
		return nil
	}
}
