package backup

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/ncruces/go-sqlite3"

	"github.com/atocore/backup/internal/aferovfs"
)

// A hostCheck is a [Source.Check], or nil.
type hostCheck func(context.Context, *sqlite3.Conn) error

// A finishedCopy is a database of which nothing can be changed and beside
// which nothing is made. Reads fail once ctx is done.
type finishedCopy struct {
	ctx   context.Context
	size  int64 // bytes
	level Level
	crew  *crew
	uri   string // while it is served
}

// checkCopy runs SQLite's checks, and the host's, on a finished copy, as a
// member of a crew. It returns what they found; the error is for a check that was cut
// short, by the end of its context or for a shortage.
func checkCopy(ctx context.Context, crew *crew, r io.ReaderAt, size int64, level Level, host hostCheck) ([]Problem, error) {
	problems, err := checkHeader(r, size)
	if err != nil || len(problems) > 0 || level == ValidateStructure {
		return problems, err
	}
	vfsName, release := aferovfs.RegisterReader(ctx, r, size)
	f := &finishedCopy{ctx: ctx, size: size, level: level, crew: crew, uri: fileURI(aferovfs.DB, url.Values{"vfs": {vfsName}})}
	conn, err := f.open(release)
	if isShortage(err) {
		return nil, err
	}
	if err != nil {
		return problemOf("open", err), ctx.Err()
	}
	err = guard(func() (err error) {
		problems, err = f.runChecks(conn, host)
		return err
	})
	if err != nil {
		problems = problemOf("check", err)
	}
	switch closeErr := conn.Close(); {
	case errors.Is(closeErr, errPanicked): // as the check did: this connection, and its memory, are lost
		if len(problems) == 0 {
			problems = problemOf("close", closeErr)
		}
	case closeErr != nil: // SQLite describes a page that could not be read as if it were damaged
		problems, err = unreadOr(closeErr)
		return problems, cmp.Or(err, ctx.Err())
	}
	return problems, ctx.Err()
}

// unreadOr returns the problem that a copy cannot be read, or the shortage for which
// that is so.
func unreadOr(err error) ([]Problem, error) {
	if isShortage(err) {
		return nil, err
	}
	return []Problem{{Code: CodeUnreadable, Detail: err.Error()}}, nil
}

// checkCache is how much of all databases that are checked at a time SQLite may
// keep in memory. To compare an index with its table is to look up each row,
// in no order: with the 2 MB of SQLite's default, half of the time goes into
// reading the same pages again.
const checkCache = 64 << 20 // bytes

// open opens one more connection.
func (f *finishedCopy) open(release func() error) (*conn, error) {
	c, err := openURI(f.ctx, f.uri, sqlite3.OPEN_READWRITE, release)
	if err == nil {
		// If the schema is damaged this fails, as the checks will.
		_ = guard(func() error { return c.Exec(fmt.Sprintf("PRAGMA cache_size=-%d", checkCache>>10/f.crew.size())) })
	}
	return c, err
}

func (f *finishedCopy) runChecks(c *conn, host hostCheck) ([]Problem, error) {
	rows, err := f.integrityCheck(c)
	if errors.Is(err, errNotPrepared) && !isDamage(err) {
		rows, err = f.checkWithoutTheHost(c)
	}
	if err != nil {
		return nil, err
	}
	var problems []Problem
	for _, row := range rows {
		problems = append(problems, Problem{Code: CodeDatabaseCorrupt, Detail: row})
	}
	if host != nil && len(problems) == 0 && f.ctx.Err() == nil {
		if err := host(f.ctx, c.Conn); err != nil {
			problems = append(problems, Problem{Code: CodeCheckFailed, Detail: err.Error()})
		}
		if c.leftStatement() {
			problems = append(problems, Problem{Code: CodeCheckFailed, Detail: "Check left a statement open"})
		}
	}
	return problems, nil
}

// leftStatement reports whether a statement has not been closed.
func (c *conn) leftStatement() bool {
	for range c.Stmts() {
		return true
	}
	return false
}

// checkWithoutTheHost is integrityPragma for a schema that needs collations or
// functions that the host did not register with sqlite3.AutoExtension. To compare
// the order of an index and to test constraints takes them; the rest does not.
// Tables that need none are checked like any other.
func (f *finishedCopy) checkWithoutTheHost(c *conn) (found []string, err error) {
	all, err := tables(c)
	if err != nil {
		return nil, err
	}
	pragma := integrityPragma
	if f.level == ValidateQuick {
		pragma = quickPragma
	}
	for _, t := range all {
		part, ok := t.part(pragma)
		if !ok {
			continue
		}
		rows, err := runPragma(c, part)
		if err != nil && (!errors.Is(err, errNotPrepared) || isDamage(err)) {
			return nil, err
		}
		found = append(found, rows...)
	}
	if len(found) > 0 {
		return found, nil // quick_check would say some of it again
	}
	if err := errors.Join(c.AnyCollationNeeded(), c.Exec("PRAGMA ignore_check_constraints=ON")); err != nil {
		return nil, err
	}
	return runPragma(c, quickPragma)
}

// SQLite's checks: https://sqlite.org/pragma.html#pragma_integrity_check.
const (
	integrityPragma = "PRAGMA main.integrity_check"
	quickPragma     = "PRAGMA main.quick_check"
)

// integrityCheck returns the rows of the check for the level that are not
// "ok".
func (f *finishedCopy) integrityCheck(c *conn) ([]string, error) {
	if f.level == ValidateQuick {
		return runPragma(c, quickPragma)
	}
	if f.size >= leastToSplit && f.crew.size() > 1 && f.soundInParts(f.parts(c)) {
		return nil, nil
	}
	return runPragma(c, integrityPragma) // which says it in its own words and order
}

// leastToSplit is the size of the smallest database that is checked in parts:
// for one that is smaller, more connections do not pay.
const leastToSplit = 32 << 20 // bytes

// parts returns checks that together find all that integrity_check does, those
// that take the longest first, and none if there are none. The check of one
// table leaves out the free list, and pages that two tables use, or none;
// quick_check leaves out whether a table and its indexes agree, and the order
// of a table WITHOUT ROWID. See PragTyp_INTEGRITY_CHECK in SQLite's pragma.c.
func (f *finishedCopy) parts(c *conn) []string {
	costs := map[string]int64{quickPragma: f.size / quickCheckBytesPerLookup}
	parts := []string{quickPragma}
	err := guard(func() error {
		all, err := tables(c)
		for _, t := range all {
			if t.lookups == 0 {
				continue
			}
			part, ok := t.part(integrityPragma)
			if !ok {
				return fmt.Errorf("the pragma takes %q for a number", t.name)
			}
			costs[part] = t.lookups
			parts = append(parts, part)
		}
		return err
	})
	if err != nil {
		return nil // integrity_check will say why
	}
	slices.SortStableFunc(parts, func(a, b string) int { return cmp.Compare(costs[b], costs[a]) })
	return parts
}

// quickCheckBytesPerLookup is how much of a database quick_check gets through
// in the time that it takes to look up a row in an index.
const quickCheckBytesPerLookup = 1000

// A table, or what looks like one.
type table struct {
	name string

	// Some idea of how many lookups integrity_check takes that quick_check does
	// not: 0 if there are none.
	lookups int64
}

// part returns the part of a check that is about the table, if there is one by
// its name.
func (t *table) part(pragma string) (sql string, ok bool) {
	if strings.IndexAny(t.name, "+-0123456789") == 0 { // which is taken for a number
		return "", false
	}
	return fmt.Sprintf("%s('%s')", pragma, strings.ReplaceAll(t.name, "'", "''")), true
}

// tables lists the tables. Those that have indexes take lookups, as all WITHOUT
// ROWID do, and those of modules, which have checks of their own. It goes by
// pragmas, and not by the functions of their names: a table may be called like
// one of these, and would be asked instead.
func tables(c *conn) (all []table, err error) {
	stmt, _, err := c.Prepare("PRAGMA main.table_list")
	if err != nil {
		return nil, err
	}
	for stmt.Step() {
		const name, kind, withoutRowid = 1, 2, 4 // columns
		t := table{name: stmt.ColumnText(name)}
		indexes, err := countRows(c, "PRAGMA main.index_list('"+strings.ReplaceAll(t.name, "'", "''")+"')")
		switch kind := stmt.ColumnText(kind); {
		case err != nil || kind == "view":
		case kind == "virtual" || stmt.ColumnBool(withoutRowid):
			t.lookups = math.MaxInt64
		case indexes > 0:
			t.lookups, err = queryInt(c, `SELECT max(rowid) FROM main."`+strings.ReplaceAll(t.name, `"`, `""`)+`"`)
			t.lookups = max(1, t.lookups) * indexes
		}
		if err != nil {
			return nil, errors.Join(err, stmt.Close())
		}
		if stmt.ColumnText(kind) != "view" {
			all = append(all, t)
		}
	}
	return all, errors.Join(stmt.Err(), stmt.Close())
}

func countRows(c *conn, sql string) (n int64, err error) {
	stmt, _, err := c.Prepare(sql)
	if err != nil {
		return 0, err
	}
	for stmt.Step() {
		n++
	}
	return n, errors.Join(stmt.Err(), stmt.Close())
}

// soundInParts runs the parts of a check side by side, and reports whether there
// are any and all of them pass.
func (f *finishedCopy) soundInParts(parts []string) bool {
	queue := make(chan string, len(parts))
	for _, part := range parts {
		queue <- part
	}
	close(queue)
	var passed atomic.Int64
	work := func() {
		part, ok := <-queue
		if !ok {
			return // no need for a connection
		}
		c, err := f.open(func() error { return nil })
		if err != nil {
			return
		}
		_ = guard(func() error { // which shows in what has passed
			for ; ok; part, ok = <-queue {
				if rows, err := runPragma(c, part); err != nil || len(rows) > 0 {
					return err
				}
				passed.Add(1)
			}
			return nil
		})
		_ = c.Close() // what reads have failed is told when the first connection is closed
	}
	f.crew.together(slices.Repeat([]func(){work}, min(len(parts), f.crew.size()))...)
	return len(parts) > 0 && passed.Load() == int64(len(parts))
}

// errNotPrepared: a check could not even begin. The driver may panic instead
// of saying so: it looks for an error in a schema within the check's own SQL.
var errNotPrepared = errors.New("cannot be prepared")

// runPragma returns the rows of one of SQLite's checks that are not "ok".
func runPragma(c *conn, pragma string) ([]string, error) {
	var stmt *sqlite3.Stmt
	err := guard(func() (err error) {
		stmt, _, err = c.Prepare(pragma)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("%s %w: %w", pragma, errNotPrepared, err)
	}
	var found []string
	sound := false
	for stmt.Step() {
		if row := stmt.ColumnText(0); row == "ok" {
			sound = true
		} else {
			found = append(found, row)
		}
	}
	if err := errors.Join(stmt.Err(), stmt.Close()); err != nil {
		return nil, err
	}
	if !sound && len(found) == 0 {
		found = []string{"the check said nothing"}
	}
	return found, nil
}
