package backup_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/ncruces/go-sqlite3"

	"github.com/atocore/backup"
)

// onCores runs a test on one core and on more than there are.
func onCores(t *testing.T, test func(t *testing.T)) {
	for _, n := range []int{1, 2, 8} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(n))
			test(t)
		})
	}
}

// ruin makes a snapshot of a tree of some hundred files and databases, and
// damages many of them.
func ruin(t *testing.T, changes ...func(*backup.Config)) (w *world, s *backup.Store, stamp string) {
	t.Helper()
	w = osWorld(t)
	makeFiles(t, w.path("tree"), 250)
	for i := range 9 {
		w.exec(t, fmt.Sprintf("tree/%d.db", i), "CREATE TABLE t (x UNIQUE); INSERT INTO t VALUES ('some'), ('text')")
	}
	w.exec(t, "app.db", "CREATE TABLE t (x)")
	s = w.store(t, append([]func(*backup.Config){withSources(w.database("app.db"), w.treeSource("tree"))}, changes...)...)
	stamp = mustCreate(t, s).Stamp
	for i := range 250 {
		name := in(stamp, fmt.Sprintf("tree/index/%d/%d", i%3, i))
		switch i % 5 {
		case 0:
			w.edit(t, name, func(data []byte) []byte { data[i] ^= 1; return data })
		case 1:
			w.edit(t, name, func(data []byte) []byte { return data[i:] })
		case 2:
			w.remove(t, name)
			w.write(t, name+"x", "what is this?")
		}
	}
	for i := range 9 {
		w.edit(t, in(stamp, fmt.Sprintf("tree/%d.db", i)), func(data []byte) []byte {
			data[bytes.LastIndex(data, []byte("some"))] = 'd' // in the index alone
			return data
		})
	}
	return w, s, stamp
}

func TestProblemsAreInTheSameOrderOnAllCores(t *testing.T) {
	w, s, stamp := ruin(t)
	var want *backup.Report
	onCores(t, func(t *testing.T) {
		for range 5 {
			got := w.validate(t, s, stamp, nil)
			if want == nil {
				want = got
			}
			if diff := cmp.Diff(got, want); diff != "" {
				t.Fatalf("(-got +want):\n%s", diff)
			}
		}
	})
	for _, code := range []backup.Code{backup.CodeChecksumMismatch, backup.CodeSizeMismatch, backup.CodeFileMissing, backup.CodeUnexpectedFile, backup.CodeDatabaseCorrupt} {
		if !slices.Contains(codes(want.Problems), code) {
			t.Errorf("no %s among %d problems", code, len(want.Problems))
		}
	}
	rest := slices.DeleteFunc(slices.Clone(want.Problems), func(p backup.Problem) bool { return p.Code == backup.CodeUnexpectedFile })
	if !slices.IsSortedFunc(rest, func(a, b backup.Problem) int { return strings.Compare(a.Path, b.Path) }) {
		t.Error("the problems are not in the order of the manifest")
	}
}

// What the host has us call needs no lock of its own, and is not called any
// more once the operation has returned. (The race detector tells.)
func TestHostIsCalledByTheOperation(t *testing.T) {
	var calls, after int
	returned := false
	w, s, stamp := ruin(t, func(cfg *backup.Config) {
		call := func() {
			calls++
			if returned {
				after++
			}
		}
		cfg.Progress = func(backup.Progress) { call() }
		for i := range cfg.Sources {
			if cfg.Sources[i].Kind == backup.Database {
				cfg.Sources[i].Check = func(context.Context, *sqlite3.Conn) error {
					call()
					return nil
				}
			}
		}
	})
	onCores(t, func(t *testing.T) {
		calls = 0
		w.validate(t, s, stamp, nil)
		if calls == 0 {
			t.Error("nothing was called")
		}
	})
	onCores(t, func(t *testing.T) {
		returned = false
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := s.Validate(ctx, stamp, nil)
		returned = true
		if !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, want context.Canceled", err)
		}
	})
	if after > 0 {
		t.Errorf("%d calls after the end", after)
	}
}

// Wherever Progress is when it is cancelled, or panics, Validate ends.
func TestValidateEndsInTheMiddle(t *testing.T) {
	var hook func()
	w, s, stamp := ruin(t, func(cfg *backup.Config) {
		cfg.Progress = func(backup.Progress) {
			if hook != nil {
				hook()
			}
		}
	})
	calls := 0
	hook = func() { calls++ }
	w.validate(t, s, stamp, nil)
	onCores(t, func(t *testing.T) {
		for at := 1; at <= calls; at += 3 {
			ctx, cancel := context.WithCancel(t.Context())
			n := 0
			hook = func() {
				if n++; n == at {
					cancel()
				}
			}
			if _, err := s.Validate(ctx, stamp, nil); err != nil && !errors.Is(err, context.Canceled) {
				t.Errorf("cancelled in call %d: %v", at, err)
			}
			cancel()
			hook = func() { panic("a bug") }
			func() {
				defer func() {
					if got := recover(); got != "a bug" {
						t.Errorf("recovered %v", got)
					}
				}()
				_, err := s.Validate(t.Context(), stamp, nil)
				t.Errorf("no panic, and %v", err)
			}()
		}
	})
	hook = nil
	w.validate(t, s, stamp, nil) // nothing was left locked
}

// A large database is checked in parts, and what is wrong with it is said as
// if it were not.
func TestLargeDatabaseIsCheckedOnAllCores(t *testing.T) {
	if testing.Short() {
		t.Skip("makes a database of 40 MB")
	}
	w := osWorld(t)
	makeIndexed(t, w.path("app.db"), 60_000)
	w.exec(t, "app.db", "CREATE TABLE gone (x); INSERT INTO gone VALUES (zeroblob(100000)); DROP TABLE gone; INSERT INTO events VALUES (-1, 'needle', 'haystack')")
	s := w.store(t, withSources(w.database("app.db")))
	stamp := mustCreate(t, s).Stamp
	good := w.read(t, in(stamp, "db/app.db"))
	for name, damage := range map[string]func(data []byte) []byte{
		"nothing":   func(data []byte) []byte { return data },
		"an_index":  func(data []byte) []byte { data[bytes.LastIndex(data, []byte("haystack"))] = 'H'; return data },
		"free_list": func(data []byte) []byte { data[39] ^= 1; return data }, // the number of its pages
	} {
		t.Run(name, func(t *testing.T) {
			w.write(t, in(stamp, "db/app.db"), good)
			w.edit(t, in(stamp, "db/app.db"), damage)
			var want *backup.Report
			onCores(t, func(t *testing.T) {
				got := w.validate(t, s, stamp, nil)
				if want == nil {
					want = got
				}
				if diff := cmp.Diff(got, want); diff != "" {
					t.Errorf("(-got +want):\n%s", diff)
				}
			})
			if found := slices.Contains(codes(want.Problems), backup.CodeDatabaseCorrupt); found != (name != "nothing") {
				t.Errorf("got %v", want.Err())
			}
		})
	}
}

// BenchmarkValidate measures how long it takes to read back a database of
// 200 MB with tables of all sizes, and a tree of 5000 files of 4 KB. Run it
// with
//
//	go test -run '^$' -bench Validate -cpu 1,2,4
func BenchmarkValidate(b *testing.B) {
	for _, kind := range []backup.Kind{backup.Database, backup.Tree} {
		b.Run(string(kind), func(b *testing.B) {
			dir := b.TempDir()
			src := backup.Source{Name: "src", Kind: kind, Path: filepath.Join(dir, "src")}
			if kind == backup.Database {
				makeIndexed(b, src.Path, 300_000)
			} else {
				makeFiles(b, src.Path, 5000)
			}
			s, err := backup.New(backup.Config{Dir: filepath.Join(dir, "backups"), Sources: []backup.Source{src}})
			if err != nil {
				b.Fatal(err)
			}
			snap, err := s.Create(b.Context(), &backup.CreateOptions{Level: backup.ValidateStructure})
			if err != nil {
				b.Fatal(err)
			}
			for _, level := range []backup.Level{backup.ValidateFull, backup.ValidateQuick} {
				b.Run(level.String(), func(b *testing.B) {
					b.SetBytes(snap.Bytes)
					for b.Loop() {
						report, err := s.Validate(b.Context(), snap.Stamp, &backup.ValidateOptions{Level: level})
						if err != nil || !report.Valid {
							b.Fatal(report, err)
						}
					}
				})
			}
		})
	}
}

// makeIndexed makes a database like one of documents for a search engine: with
// so many pieces of text, of which each takes about 650 bytes in all.
func makeIndexed(t testing.TB, path string, pieces int) {
	t.Helper()
	c, err := sqlite3.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	err = c.Exec(fmt.Sprintf(`PRAGMA journal_mode=off; PRAGMA synchronous=off;
		CREATE TABLE pieces (id INTEGER PRIMARY KEY, doc INT, hash TEXT, body TEXT);
		CREATE INDEX by_doc ON pieces (doc);
		CREATE UNIQUE INDEX by_hash ON pieces (hash);
		CREATE TABLE documents (path TEXT UNIQUE, scan BLOB);
		CREATE TABLE events (at INT, kind TEXT, who TEXT, PRIMARY KEY (at, kind)) WITHOUT ROWID;
		CREATE INDEX by_who ON events (who);
		CREATE TABLE "it's ""odd""" (x UNIQUE);
		CREATE TEMP TABLE n AS WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i < %d) SELECT i FROM n;
		INSERT INTO pieces SELECT i, random() %% (1 + i / 100), hex(randomblob(16)), hex(randomblob(150)) FROM n;
		INSERT INTO documents SELECT hex(randomblob(20)), randomblob(25000) FROM n WHERE i %% 120 = 0;
		INSERT INTO events SELECT i, 'kind ' || i %% 7, hex(randomblob(10)) FROM n`, pieces))
	if err != nil {
		t.Fatal(err)
	}
}

// makeFiles makes so many files of 4 KB, in directories of some 100.
func makeFiles(t testing.TB, dir string, n int) {
	t.Helper()
	for i := range n {
		sub := filepath.Join(dir, "index", fmt.Sprint(i%(1+n/100)))
		if err := os.MkdirAll(sub, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(sub, fmt.Sprint(i)), fmt.Appendf(nil, "%04096d", i), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
