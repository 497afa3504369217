package backup_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/ncruces/go-sqlite3"

	"github.com/atocore/backup"
)

// What Create and a service that writes all the time are to one another.

// TestLoadEachPageIsCopiedOnce: an online backup starts again whenever
// somebody else writes to its source. Ours never does: what it says that it
// has copied only grows, up to the size of the copy, though the service
// commits in between any two steps (in rollback mode it waits for its turn,
// before and after).
func TestLoadEachPageIsCopiedOnce(t *testing.T) {
	starts := map[string]func(*testing.T, string) *writer{"goroutine": startGoroutine, "process": startProcess}
	for _, mode := range []string{"wal", "delete"} {
		for name, start := range starts {
			t.Run(mode+"_"+name, func(t *testing.T) {
				w := osWorld(t)
				w.bookkeeping(t, "app.db", mode, 17)
				wr := start(t, w.path("app.db"))
				wr.next(t, 0)
				var copied []int64
				s := w.store(t, withSources(w.database("app.db")), func(cfg *backup.Config) {
					cfg.BusyTimeout = time.Minute
					cfg.Progress = func(p backup.Progress) {
						if p.Op != "create" {
							return
						}
						copied = append(copied, p.Done)
						if mode == "wal" {
							wr.next(t, 0)
						}
					}
				})
				// Nothing is read back yet: all progress is of the copy.
				snap, err := s.Create(t.Context(), &backup.CreateOptions{Level: backup.ValidateStructure})
				if err != nil {
					t.Fatal(err)
				}
				wr.next(t, 0)
				wr.stop()

				state, _ := snap.Source("db")
				want := stepsTo(state.Bytes, copied[0])
				if len(want) < 4 || !cmp.Equal(want, copied[:min(len(want), len(copied))]) || !slices.IsSorted(copied) {
					t.Errorf("copied %d, want several steps without a way back, %d and on", copied, want)
				}
				mustBeValid(t, s, snap.Stamp)
				if got := w.queryCopy(t, snap, "db/app.db", bookBalance); got != "0" {
					t.Errorf("a copy of half a transaction: debits less credits are %s", got)
				}
			})
		}
	}
}

// stepsTo returns how far each of equal steps leads, but for the last, which
// reaches the end.
func stepsTo(end, step int64) (at []int64) {
	for n := step; n < end; n += step {
		at = append(at, n)
	}
	return at
}

// TestLoadUnpinnedBackupStartsAgain is why Create holds a read transaction:
// without one, a commit between two steps has the backup begin again.
func TestLoadUnpinnedBackupStartsAgain(t *testing.T) {
	for _, pinned := range []bool{false, true} {
		t.Run(fmt.Sprintf("pinned_%t", pinned), func(t *testing.T) {
			w := osWorld(t)
			w.bookkeeping(t, "app.db", "wal", 4)
			service, source := w.connect(t, "app.db"), w.connect(t, "app.db")
			if pinned {
				mustExec(t, source, "BEGIN; SELECT * FROM debits")
			}
			b, err := source.BackupInit("main", w.path("copy.db"))
			if err != nil {
				t.Fatal(err)
			}
			defer b.Close()
			const batch = 100 // pages
			for range 2 {
				if _, err := b.Step(batch); err != nil {
					t.Fatal(err)
				}
				mustExec(t, service, bookEntry)
			}
			want := map[bool]int{false: batch, true: 2 * batch}[pinned]
			if got := b.PageCount() - b.Remaining(); got != want {
				t.Errorf("%d pages copied by two steps of %d, want %d", got, batch, want)
			}
		})
	}
}

// Two databases that a service keeps in step: it counts in the first and
// then, in another transaction, in the second. At any instant the second is
// as far as the first or one behind.
const (
	counter = "CREATE TABLE counter (n INTEGER); INSERT INTO counter VALUES (0)"
	count   = "UPDATE counter SET n = n + 1"
	counted = "SELECT n FROM counter"
)

// counters makes two such databases and returns sources for them.
func (w *world) counters(t *testing.T, mode string) []backup.Source {
	t.Helper()
	var sources []backup.Source
	for _, name := range []string{"first", "second"} {
		w.exec(t, name+".db", "PRAGMA journal_mode="+mode+";"+counter+";"+
			"CREATE TABLE bulk (b BLOB); INSERT INTO bulk VALUES (zeroblob(6000000))")
		sources = append(sources, backup.Source{Name: name, Kind: backup.Database, Path: w.path(name + ".db")})
	}
	return sources
}

// copies returns how far each database is in a snapshot.
func (w *world) copies(t *testing.T, snap *backup.Snapshot) (first, second int) {
	t.Helper()
	return w.copied(t, snap, "first/first.db"), w.copied(t, snap, "second/second.db")
}

func (w *world) copied(t *testing.T, snap *backup.Snapshot, name string) int {
	t.Helper()
	n, err := strconv.Atoi(w.queryCopy(t, snap, name, counted))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestLoadDatabasesAreAsFarApartAsTheirPins: the copies are of the instants
// at which the databases were pinned. What is committed between the two pins
// is in the second and not in the first, and what is committed after them is
// in neither, though no page has been copied yet.
func TestLoadDatabasesAreAsFarApartAsTheirPins(t *testing.T) {
	for _, between := range []int{0, 3} {
		t.Run(strconv.Itoa(between), func(t *testing.T) {
			w := osWorld(t)
			sources := w.counters(t, "wal")
			a, b := w.connect(t, "first.db"), w.connect(t, "second.db")
			steps := func(n int) {
				for range n {
					mustExec(t, a, count)
					mustExec(t, b, count)
				}
			}
			steps(2)
			sources[1].Quiesce = func(context.Context) (func(), error) {
				steps(between) // the first is pinned, the second is about to be
				return nil, nil
			}
			snap := mustCreate(t, w.store(t, withSources(sources...), onProgress(t, "first", func() { steps(1) })))
			first, second := w.copies(t, snap)
			if first != 2 || second != 2+between {
				t.Errorf("copies of %d and %d, want %d and %d", first, second, 2, 2+between)
			}
		})
	}
}

// TestLoadDatabasesAreNotTorn: the same with a service that never stops. Let
// its first database stand at A(t) and its second at B(t), so that
//
//	A(t) - 1 <= B(t) <= A(t),
//
// neither ever falling, and let them be pinned at p and then at q. Then the
// copies, a = A(p) and b = B(q), satisfy
//
//	a - 1 <= B(p) <= b <= A(q) = a + what was committed to the first between p and q.
//
// A hook before each pin, and one at the first page, read where the service
// stands: a and b must lie between those. In rollback mode the pin of the
// first holds off all commits to it, so that nothing is committed between:
// b is a or a - 1.
func TestLoadDatabasesAreNotTorn(t *testing.T) {
	starts := map[string]func(*testing.T, *world) (stop func()){"goroutine": stepInGoroutine, "process": stepInProcess}
	for _, mode := range []string{"wal", "delete"} {
		for name, start := range starts {
			t.Run(mode+"_"+name, func(t *testing.T) {
				w := osWorld(t)
				sources := w.counters(t, mode)
				stop := start(t, w)
				for range 3 {
					w.mustNotTear(t, sources, mode)
				}
				stop()
			})
		}
	}
}

// mustNotTear takes a snapshot of two counters that are counting.
func (w *world) mustNotTear(t *testing.T, sources []backup.Source, mode string) {
	t.Helper()
	stands := make(map[string][]int) // of a database, at the hooks
	look := func(name string) {
		if mode != "wal" {
			return // a writer that waits lets nobody else in
		}
		c := w.connect(t, name+".db")
		defer c.Close()
		mustExec(t, c, "PRAGMA busy_timeout=60000")
		n, err := queryNumber(c, counted)
		if err != nil {
			t.Error(err)
		}
		stands[name] = append(stands[name], n)
	}
	sources = slices.Clone(sources)
	sources[0].Quiesce = func(context.Context) (func(), error) {
		look("first")
		return nil, nil
	}
	sources[1].Quiesce = func(context.Context) (func(), error) {
		look("first")
		look("second")
		return nil, nil
	}
	snap := mustCreate(t, w.store(t, withSources(sources...), atFirst(t, "first", func() { look("second") }),
		func(cfg *backup.Config) { cfg.BusyTimeout = time.Minute }))

	first, second := w.copies(t, snap)
	if second < first-1 {
		t.Errorf("copies of %d and %d: the second is of an instant before the first's", first, second)
	}
	if mode != "wal" {
		if second > first {
			t.Errorf("copies of %d and %d: the first was not held", first, second)
		}
		return
	}
	for name, n := range map[string]int{"first": first, "second": second} {
		if at := stands[name]; n < at[0] || n > at[1] {
			t.Errorf("copy of the %s at %d, want one of while it was pinned, %d to %d", name, n, at[0], at[1])
		}
	}
}

// keepInStep counts in both databases, in turn, until told to stop.
func keepInStep(first, second string, more func() bool) (err error) {
	var conns []*sqlite3.Conn
	for _, path := range []string{first, second} {
		c, openErr := sqlite3.Open(path)
		if openErr != nil {
			return openErr
		}
		defer func() { err = errors.Join(err, c.Close()) }()
		if err := c.Exec("PRAGMA busy_timeout=60000; PRAGMA synchronous=OFF"); err != nil {
			return err
		}
		conns = append(conns, c)
	}
	for more() {
		for _, c := range conns {
			if err := c.Exec(count); err != nil {
				return err
			}
		}
	}
	return nil
}

func stepInGoroutine(t *testing.T, w *world) (stop func()) {
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		err := keepInStep(w.path("first.db"), w.path("second.db"), func() bool { return !isClosed(done) })
		if err != nil {
			t.Errorf("service: %v", err)
		}
	})
	stop = sync.OnceFunc(func() {
		close(done)
		wg.Wait()
	})
	t.Cleanup(stop)
	return stop
}

func isClosed(done <-chan struct{}) bool {
	select {
	case <-done:
		return true
	default:
		return false
	}
}

// A loadTask is what a process of its own is to do to a service's databases.
type loadTask struct {
	First, Second string // paths of counters, to be kept in step; or
	Commits       string // path of a database to measure commits on
	Pragmas       string
}

const loadEnv = "BACKUP_TEST_LOAD"

// startLoad starts a process of its own: this test binary.
func startLoad(t testing.TB, task loadTask) (lines *bufio.Scanner, tell func(string), stop func()) {
	t.Helper()
	data, err := json.Marshal(task)
	if err != nil {
		t.Fatal(err)
	}
	cmd := rerun(t, "TestLoadProcess", loadEnv+"="+string(data))
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines = bufio.NewScanner(stdout)
	stop = sync.OnceFunc(func() {
		stdin.Close()
		for lines.Scan() { // to its end
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("process: %v", err)
		}
	})
	t.Cleanup(stop)
	return lines, func(order string) {
		if _, err := fmt.Fprintln(stdin, order); err != nil {
			t.Fatal(err)
		}
	}, stop
}

func stepInProcess(t *testing.T, w *world) (stop func()) {
	lines, _, stop := startLoad(t, loadTask{First: w.path("first.db"), Second: w.path("second.db")})
	if !lines.Scan() {
		t.Fatal("process: it says nothing")
	}
	return stop
}

// TestLoadProcess is what startLoad starts; by itself it is no test.
func TestLoadProcess(t *testing.T) {
	spec := os.Getenv(loadEnv)
	if spec == "" {
		t.Skip("a part of other tests")
	}
	var task loadTask
	if err := json.Unmarshal([]byte(spec), &task); err != nil {
		t.Fatal(err)
	}
	var err error
	if task.Commits != "" {
		err = measureOnDemand(task)
	} else {
		closed := make(chan struct{})
		go func() {
			os.Stdin.Read(make([]byte, 1)) // until it is closed
			close(closed)
		}()
		fmt.Println("ready")
		err = keepInStep(task.First, task.Second, func() bool { return !isClosed(closed) })
	}
	if err != nil {
		t.Fatal(err)
	}
}

func queryNumber(c *sqlite3.Conn, sql string) (n int, err error) {
	stmt, _, err := c.Prepare(sql)
	if err != nil {
		return 0, err
	}
	if stmt.Step() {
		n = stmt.ColumnInt(0)
	}
	return n, errors.Join(stmt.Err(), stmt.Close())
}

// BenchmarkCommit measures how long a service's commits take, in WAL mode on
// a database of 50 MB, with nobody else at it and while Create runs over and
// over. It reports the 50th and the 99th of 100 commits of each, in
// nanoseconds, and by how much Create slows them down. Run it with
//
//	go test -run '^$' -bench Commit -benchtime 2000x
//
// A commit with synchronous=FULL, SQLite's default, waits for the disk, which
// Create's own syncs keep busy; one with NORMAL does not.
func BenchmarkCommit(b *testing.B) {
	services := map[string]func(b *testing.B, task loadTask) (measure func(n int) []time.Duration){
		"goroutine": measureInGoroutine, "process": measureInProcess,
	}
	for _, synchronous := range []string{"FULL", "NORMAL"} {
		for name, start := range services {
			b.Run(synchronous+"/"+name, func(b *testing.B) {
				path := filepath.Join(b.TempDir(), "app.db")
				makeLoad(b, path, 50<<20)
				measure := start(b, loadTask{Commits: path, Pragmas: "PRAGMA synchronous=" + synchronous})
				alone := measure(b.N)
				stop := createOverAndOver(b, path)
				during := measure(b.N)
				b.ReportMetric(float64(stop()), "creates")
				for name, percent := range map[string]int{"p50": 50, "p99": 99} {
					before, after := percentile(alone, percent), percentile(during, percent)
					b.ReportMetric(float64(before), name+"-alone-ns")
					b.ReportMetric(float64(after), name+"-create-ns")
					b.ReportMetric(float64(after)/float64(before), name+"-ratio")
				}
				b.ReportMetric(0, "ns/op") // of no meaning here
			})
		}
	}
}

// percentile returns the smallest of the values that so many of a hundred do
// not exceed.
func percentile(values []time.Duration, percent int) time.Duration {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[max(0, (len(sorted)*percent+99)/100-1)]
}

// makeLoad makes a database of so many bytes, in rows of 1000.
func makeLoad(b *testing.B, path string, size int) {
	b.Helper()
	c, err := sqlite3.Open(path)
	if err != nil {
		b.Fatal(err)
	}
	err = c.Exec(fmt.Sprintf(`PRAGMA journal_mode=WAL;
		CREATE TABLE log (id INTEGER PRIMARY KEY, line BLOB);
		WITH RECURSIVE i (i) AS (SELECT 1 UNION ALL SELECT i+1 FROM i WHERE i < %d)
		INSERT INTO log (line) SELECT randomblob(1000) FROM i`, size/1000))
	if err := errors.Join(err, c.Close()); err != nil {
		b.Fatal(err)
	}
}

// createOverAndOver takes one snapshot after the other. It returns once the
// first is being copied; stop returns how many were begun.
func createOverAndOver(b *testing.B, path string) (stop func() int) {
	b.Helper()
	ctx, cancel := context.WithCancel(b.Context())
	copying := make(chan struct{})
	begun := sync.OnceFunc(func() { close(copying) })
	s, err := backup.New(backup.Config{
		Dir:      filepath.Join(b.TempDir(), "backups"),
		Sources:  []backup.Source{{Name: "db", Kind: backup.Database, Path: path}},
		Progress: func(backup.Progress) { begun() },
	})
	if err != nil {
		b.Fatal(err)
	}
	creates := 0
	var wg sync.WaitGroup
	wg.Go(func() {
		defer begun() // should it fail
		for ctx.Err() == nil {
			creates++
			snap, err := s.Create(ctx, nil)
			if err == nil {
				err = s.Delete(ctx, snap.Stamp)
			}
			if err != nil && ctx.Err() == nil {
				b.Error(err)
				return
			}
		}
	})
	<-copying
	return func() int {
		cancel()
		wg.Wait()
		return creates
	}
}

// measureCommits makes n commits and returns how long each of them took.
func measureCommits(c *sqlite3.Conn, n int) ([]time.Duration, error) {
	took := make([]time.Duration, n)
	for i := range took {
		began := time.Now()
		if err := c.Exec("INSERT INTO log (line) VALUES (randomblob(200))"); err != nil {
			return nil, err
		}
		took[i] = time.Since(began)
	}
	return took, nil
}

func openLoad(task loadTask) (*sqlite3.Conn, error) {
	c, err := sqlite3.Open(task.Commits)
	if err != nil {
		return nil, err
	}
	// What is blocked is to be seen, not to fail.
	if err := c.Exec("PRAGMA busy_timeout=60000; " + task.Pragmas); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

func measureInGoroutine(b *testing.B, task loadTask) (measure func(n int) []time.Duration) {
	b.Helper()
	c, err := openLoad(task)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { c.Close() })
	return func(n int) []time.Duration {
		took, err := measureCommits(c, n)
		if err != nil {
			b.Fatal(err)
		}
		return took
	}
}

func measureInProcess(b *testing.B, task loadTask) (measure func(n int) []time.Duration) {
	b.Helper()
	lines, tell, _ := startLoad(b, task)
	return func(n int) []time.Duration {
		tell(strconv.Itoa(n))
		took := make([]time.Duration, n)
		for i := range took {
			if !lines.Scan() {
				b.Fatalf("process: it stopped after %d commits", i)
			}
			d, err := time.ParseDuration(lines.Text())
			if err != nil {
				b.Fatal(err)
			}
			took[i] = d
		}
		return took
	}
}

// measureOnDemand measures as many commits as it is told on its standard
// input, and says how long they took.
func measureOnDemand(task loadTask) error {
	c, err := openLoad(task)
	if err != nil {
		return err
	}
	defer c.Close()
	for orders := bufio.NewScanner(os.Stdin); orders.Scan(); {
		n, err := strconv.Atoi(orders.Text())
		if err != nil {
			return err
		}
		took, err := measureCommits(c, n)
		if err != nil {
			return err
		}
		for _, d := range took {
			fmt.Println(d)
		}
	}
	return c.Close()
}
