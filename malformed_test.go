package backup_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ncruces/go-sqlite3"
	"github.com/spf13/afero"

	"github.com/atocore/backup"
)

// These databases are none any more: good ones with a field, a pointer or a
// word changed. What SQLite itself calls damaged must never be called valid,
// and nothing may panic or go on for ever. The second opinion is that of the
// sqlite3 command where there is one: it shares neither our VFS nor our build
// of SQLite.

// A victim is a good database that is to be damaged.
type victim struct {
	name string
	data []byte
	page int // bytes
}

// victims have something of everything that a SQLite file can have: interior
// pages, overflow chains, a free list, pointer maps, indexes of all kinds.
func victims(t *testing.T) (vs []victim) {
	t.Helper()
	for _, v := range []struct {
		name, pragmas string
		page          int
	}{
		{"small_pages", "", 512},
		{"small_pages_wal", "PRAGMA journal_mode=WAL;", 512},
		{"small_pages_autovacuum", "PRAGMA auto_vacuum=FULL;", 512},
		{"small_pages_incremental", "PRAGMA auto_vacuum=INCREMENTAL; PRAGMA encoding='UTF-16be';", 512},
		{"pages_of_1024", "PRAGMA encoding='UTF-16le';", 1024},
		{"pages_of_4096", "", 4096},
		{"largest_pages", "", 65536},
	} {
		w := newWorld(t, afero.NewMemMapFs(), "/srv")
		w.exec(t, "x.db", fmt.Sprintf("PRAGMA page_size=%d; %s", v.page, v.pragmas)+`
			CREATE TABLE plain (id INTEGER PRIMARY KEY, body TEXT NOT NULL, n INT CHECK (n > 0), UNIQUE (body));
			CREATE INDEX by_n ON plain (n, body) WHERE n % 2;
			CREATE INDEX by_expression ON plain (length(body), n DESC);
			CREATE TABLE keyed (a TEXT, b INT, c BLOB, PRIMARY KEY (a, b)) WITHOUT ROWID;
			CREATE TABLE gen (a INT, b INT AS (a * 2) STORED, c INT AS (a + 1));
			CREATE TABLE gone (x);
			CREATE VIEW v AS SELECT body FROM plain;
			CREATE TRIGGER tr AFTER INSERT ON gen BEGIN DELETE FROM gone; END;
			WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM c WHERE i < 40)
				INSERT INTO plain (body, n) SELECT printf('%.*c %d', i, 'x', i), i FROM c;
			INSERT INTO plain (body, n) VALUES (printf('%.3000c', 'y'), 50);
			WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM c WHERE i < 30)
				INSERT INTO keyed SELECT 'k' || (i % 3), i, zeroblob(i * 20) FROM c;
			INSERT INTO gen (a) VALUES (1), (2), (NULL);
			WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM c WHERE i < 20)
				INSERT INTO gone SELECT zeroblob(500) FROM c;
			DELETE FROM gone; -- its pages are free now`)
		if t.Failed() {
			t.FailNow()
		}
		vs = append(vs, victim{v.name, []byte(w.read(t, "x.db")), v.page})
	}
	return vs
}

// A mutation is one thing that is done to a database.
type mutation struct {
	name  string
	apply func(data []byte) []byte
}

// sample returns what comes of every nth mutation, and of 100 times as many
// of the few of the schema.
func (v *victim) sample(n int) (mutants []mutant) {
	try := func(ms []mutation, n int) {
		for i := 0; i < len(ms); i += max(n, 1) {
			if data := ms[i].apply(slices.Clone(v.data)); string(data) != string(v.data) {
				mutants = append(mutants, mutant{v.name + ": " + ms[i].name, data})
			}
		}
	}
	try(slices.Concat(v.fields(), v.pages(), v.noise()), n)
	try(v.schema(), n/100)
	return mutants
}

// A mutant is what comes of a mutation.
type mutant struct {
	name string
	data []byte
}

func overwritten(what string, at int, with []byte) mutation {
	return mutation{fmt.Sprintf("%s at %d = %.8x", what, at, with), func(data []byte) []byte {
		copy(data[at:], with)
		return data
	}}
}

// fields sets numbers to values that are wrong in one way or another: those
// of the database header, those of the header of every page and of its first
// cells (which is where trunks of the free list, pages of overflow and
// pointer maps have theirs, too). See https://sqlite.org/fileformat.html.
func (v *victim) fields() (ms []mutation) {
	number := func(what string, at, size int) {
		if at+size > len(v.data) {
			return
		}
		var old [8]byte
		copy(old[8-size:], v.data[at:])
		n := binary.BigEndian.Uint64(old[:])
		for _, n := range []uint64{0, 1, 2, 1<<(8*size) - 1, 1 << (8*size - 1), n + 1, n - 1, n ^ 1<<(4*size)} {
			ms = append(ms, overwritten(what, at, binary.BigEndian.AppendUint64(nil, n)[8-size:]))
		}
	}
	for _, at := range []int{15, 18, 19, 20, 21, 22, 23} {
		number("header", at, 1)
	}
	number("header", 16, 2)
	for _, at := range []int{0, 24, 28, 32, 36, 40, 44, 48, 52, 56, 60, 64, 68, 72, 92, 96} {
		number("header", at, 4)
	}
	for start := 0; start < len(v.data); start += v.page {
		at, what := start, fmt.Sprintf("page %d", start/v.page+1)
		if start == 0 {
			at = 100 // behind the header of the database
		}
		for _, field := range []struct{ at, size int }{
			{0, 1}, {1, 2}, {3, 2}, {5, 2}, {7, 1}, {8, 4}, // a B-tree page
			{8, 2}, {10, 2}, {12, 2}, {14, 2}, {16, 2}, {18, 2}, // its cell pointers
			{0, 4}, {4, 4}, // a trunk of the free list, or overflow
			{1, 4}, {5, 1}, {6, 4}, {10, 1}, {11, 4}, {15, 1}, {16, 4}, // a pointer map
		} {
			number(what, at+field.at, field.size)
		}
		for _, cell := range v.cells(start, at) {
			for i := range 8 {
				number(what+" cell", cell+i, 1)
			}
		}
	}
	return ms
}

// cells returns where the first cells of a page are.
func (v *victim) cells(start, header int) (cells []int) {
	pointers := header + 8
	if kind := v.data[header]; kind == 2 || kind == 5 { // an interior page
		pointers += 4
	}
	n := int(binary.BigEndian.Uint16(v.data[header+3:]))
	for i := range min(n, 3) {
		cells = append(cells, start+int(binary.BigEndian.Uint16(v.data[pointers+2*i:])))
	}
	return cells
}

// pages loses, doubles and exchanges whole ones.
func (v *victim) pages() (ms []mutation) {
	for at := 0; at < len(v.data); at += v.page {
		next := (at + v.page) % len(v.data)
		what := fmt.Sprintf("page %d", at/v.page+1)
		ms = append(ms, overwritten(what+" zeroed", at, make([]byte, v.page)),
			overwritten(what+" is the next", at, v.data[next:next+v.page]),
			mutation{"cut before " + what, func(data []byte) []byte { return data[:at] }},
			mutation{"all before " + what + " again", func(data []byte) []byte { return append(data, data[:at]...) }})
	}
	return ms
}

// schema changes a word of the text from which SQLite knows its tables.
func (v *victim) schema() (ms []mutation) {
	for _, text := range [][2]string{
		{"CREATE TABLE plain", "CREATE TABLE plein"}, {"CREATE TABLE", "CREATE TUBLE"}, {"INTEGER PRIMARY KEY", "INTEGER PRIMARY KEX"}, {"WITHOUT ROWID", "             "},
		{"UNIQUE (body)", "UNIQUE (BODI)"}, {"CHECK (n > 0)", "CHECK (n < 0)"}, {"NOT NULL", "    NULL"}, {"STORED", "VIRTUA"}, {"a * 2", "a * 3"}, {"length(body)", "unlike(body)"},
		{"by_n ON plain", "by_n ON gonee"}, {"n % 2", "n % 3"}, {"n DESC", "n     "}, {"CREATE VIEW", "CREATE TIEW"}, {"(a, b)) WITHOUT", "(b, a)) WITHOUT"}, {"tableplain", "indexplain"}, {"CREATE INDEX", "CREATE TABLE"},
	} {
		ms = append(ms, mutation{"schema " + text[1], func(data []byte) []byte {
			return []byte(strings.Replace(string(data), text[0], text[1], 1))
		}})
	}
	return ms
}

// noise flips bits anywhere, from one to 32 of them, and puts random bytes
// behind a good header.
func (v *victim) noise() (ms []mutation) {
	for n := range uint64(350) {
		ms = append(ms, mutation{fmt.Sprint("noise ", n), func(data []byte) []byte {
			rng := rand.New(rand.NewPCG(n, uint64(v.page)))
			if n < 300 {
				for range 1 << (n % 6) {
					data[rng.IntN(len(data))] ^= 1 << rng.IntN(8)
				}
				return data
			}
			data = append(data[:100], make([]byte, v.page*int(1+n%9)-100)...)
			for i := range data[100:] {
				data[100+i] = byte(rng.Uint32())
			}
			return data
		}})
	}
	return ms
}

// unknown is what sqliteSays returns of a schema that speaks of functions
// that SQLite does not have, but the service may: that is no damage.
const unknown = "it cannot tell"

// sqliteSays returns what SQLite's own integrity_check says of a file, as
// anybody would open it, to read and to write.
func sqliteSays(t *testing.T, data []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "x.db")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	command, err := exec.LookPath("sqlite3")
	if err != nil {
		return driverSays(path)
	}
	out, err := exec.CommandContext(t.Context(), command, "-batch", path, "PRAGMA integrity_check(3)").CombinedOutput()
	if _, failed := errors.AsType[*exec.ExitError](err); err != nil && !failed {
		t.Fatal(err)
	}
	if says := strings.TrimSpace(string(out)); !isUnknown(says) {
		return says
	}
	return unknown
}

// driverSays is sqliteSays for want of a command. The driver panics where an
// expression of the schema cannot be prepared.
func driverSays(path string) (says string) {
	defer func() {
		if recover() != nil {
			says = unknown
		}
	}()
	c, err := sqlite3.Open(path)
	if err != nil {
		return err.Error()
	}
	defer c.Close() // nothing was written
	stmt, _, err := c.Prepare("PRAGMA integrity_check(3)")
	if err != nil && isUnknown(err.Error()) {
		return unknown
	}
	if err != nil {
		return err.Error()
	}
	defer stmt.Close() // its error has been seen
	if !stmt.Step() {
		return fmt.Sprint(stmt.Err())
	}
	return stmt.ColumnText(0)
}

func isUnknown(says string) bool {
	return strings.Contains(says, "no such function") || strings.Contains(says, "unknown function") || strings.Contains(says, "no such collation")
}

// endsSoon runs an operation that must come to an end whatever it is given.
func endsSoon(t *testing.T, operation func(ctx context.Context) error) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	return returns(ctx, t, func() error { return operation(ctx) })
}

func TestNoDamagedDatabaseIsCalledValid(t *testing.T) {
	w := newWorld(t, afero.NewMemMapFs(), "/srv")
	s := w.store(t, withSources(w.database("x.db")))
	validate := func(t *testing.T, m mutant) (report *backup.Report) { // where there is no checksum of it
		t.Helper()
		w.write(t, in(missingStamp, "db/x.db"), string(m.data))
		w.write(t, in(missingStamp, metadataFile), fmt.Sprintf(
			`{"created_at": "2025-01-01T00:00:00Z", "backup_root": "/b", "db_snapshot_path": "/b/db/x.db", "db_size_bytes": %d}`, len(m.data)))
		err := endsSoon(t, func(ctx context.Context) (err error) {
			report, err = s.Validate(ctx, missingStamp, nil)
			return err
		})
		if err != nil {
			t.Fatalf("%s: %v", m.name, err)
		}
		return report
	}
	for _, v := range victims(t) {
		t.Run(v.name, func(t *testing.T) {
			if r := validate(t, mutant{v.name, v.data}); !r.Valid {
				t.Fatalf("unharmed: %v", r.Err())
			}
			mutants := v.sample(every(101))
			damaged, alarms := 0, 0
			for _, m := range mutants {
				says, report := sqliteSays(t, m.data), validate(t, m)
				switch {
				case says == unknown:
				case says != "ok" && report.Valid:
					t.Errorf("%s: called valid, and SQLite says %q", m.name, says)
				case says != "ok":
					damaged++
				case !report.Valid:
					alarms++
					t.Logf("%s: SQLite says ok, and we %v", m.name, report.Err())
				}
			}
			t.Logf("%d mutants, %d of them damaged, and called so; %d called so though SQLite does not", len(mutants), damaged, alarms)
		})
	}
}

// Damaged databases in the place of the live ones are captured or refused;
// what of them is called good is; a good snapshot can be restored over them,
// and that be undone.
func TestDamagedDatabaseIsRestoredOverAndBroughtBack(t *testing.T) {
	for _, v := range victims(t) {
		if v.page == 65536 {
			continue // for the sake of time
		}
		t.Run(v.name, func(t *testing.T) {
			w := newWorld(t, afero.NewMemMapFs(), "/srv")
			live := []string{"live/x.db", "tree/x.db"}
			put := func(data []byte) {
				for _, name := range live {
					w.write(t, name, string(data))
				}
			}
			put(v.data)
			s := w.store(t, withSources(w.database("live/x.db"), w.treeSource("tree")))
			good := mustCreate(t, s)
			mutants := v.sample(every(1501))
			for _, m := range mutants {
				put(m.data)
				var snap *backup.Snapshot
				err := endsSoon(t, func(ctx context.Context) (err error) {
					snap, err = s.Create(ctx, nil)
					return err
				})
				if err == nil && snap.Validated {
					for _, state := range snap.Sources {
						says := sqliteSays(t, []byte(w.read(t, in(snap.Stamp, state.Name+"/x.db"))))
						if says != "ok" && says != unknown {
							t.Errorf("%s: the copy was called good, and SQLite says %q", m.name, says)
						}
					}
				}
				r := w.restore(t, s, good.Stamp)
				for _, name := range live {
					if got := w.query(t, name, "PRAGMA integrity_check"); got != "ok" || !r.IntegrityOK {
						t.Errorf("%s: restored %s: %s, and we said %t", m.name, name, got, r.IntegrityOK)
					}
				}
				w.restore(t, s, r.SafetyStamp) // or the test fails
			}
		})
	}
}

const truncatedIndexEnv = "BACKUP_TEST_TRUNCATED_INDEX" // the directory of the world

// TestTruncatedIndexProcess is a part of another test; by itself it is none.
func TestTruncatedIndexProcess(t *testing.T) {
	root := os.Getenv(truncatedIndexEnv)
	if root == "" {
		t.Skip("a part of other tests")
	}
	w := &world{fs: afero.NewOsFs(), root: root, now: start}
	s := w.store(t, withSources(w.database("app.db")))
	stop := make(chan struct{})
	var truncating sync.WaitGroup
	truncating.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				_ = os.Truncate(w.path("app.db-shm"), 0) // if it is there
			}
		}
	})
	_, _ = s.Create(t.Context(), nil) // it may fail
	close(stop)
	truncating.Wait()
}

// Who truncates the index of a log, which is mapped, makes an error of what
// would be the end of a program in C.
func TestTruncatedIndexDoesNotTakeTheHostDown(t *testing.T) {
	w := osWorld(t)
	w.exec(t, "app.db", "PRAGMA journal_mode=WAL; CREATE TABLE t (x); INSERT INTO t VALUES (1)")
	cmd := rerun(t, "TestTruncatedIndexProcess", truncatedIndexEnv+"="+w.root)
	cmd.Stderr = nil
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v: %.500s", err, out)
	}
}
