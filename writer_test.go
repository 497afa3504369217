package backup_test

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/ncruces/go-sqlite3"
)

// bookkeeping makes a database whose transactions each add to two tables, and
// gives it a few megabytes, so that it is copied in several batches.
func (w *world) bookkeeping(t *testing.T, name, journalMode string, megabytes int) {
	t.Helper()
	w.exec(t, name, fmt.Sprintf(`PRAGMA journal_mode=%s;
		CREATE TABLE debits (n INTEGER);
		CREATE TABLE bulk (b BLOB);
		CREATE TABLE credits (n INTEGER);
		WITH RECURSIVE i (i) AS (SELECT 1 UNION ALL SELECT i+1 FROM i WHERE i < %d)
		INSERT INTO bulk SELECT zeroblob(1048576) FROM i;`, journalMode, megabytes))
}

const (
	bookEntry   = "BEGIN IMMEDIATE; INSERT INTO debits VALUES (1); INSERT INTO credits VALUES (1); COMMIT"
	bookCount   = "SELECT count(*) FROM debits"
	bookBalance = "SELECT (SELECT count(*) FROM debits) - (SELECT count(*) FROM credits)"
)

// A writer commits book entries all the time. It says how many there are
// after each, to whoever listens at that moment.
type writer struct {
	commits chan int
	stop    func()
}

// next waits until the writer commits another time than those n.
func (wr *writer) next(t *testing.T, n int) {
	t.Helper()
	giveUp := time.After(time.Minute)
	for {
		select {
		case m := <-wr.commits:
			if m > n {
				return
			}
		case <-giveUp:
			t.Error("the writer makes no headway")
			return
		}
	}
}

// keepWriting commits book entries until told to stop.
func keepWriting(path string, committed func(n int) (more bool)) error {
	c, err := sqlite3.Open(path)
	if err != nil {
		return err
	}
	defer c.Close()
	// Nothing here is to survive a power cut.
	if err := c.Exec("PRAGMA busy_timeout=60000; PRAGMA synchronous=OFF"); err != nil {
		return err
	}
	for n := 1; ; n++ {
		if err := c.Exec(bookEntry); err != nil {
			return err
		}
		if !committed(n) {
			return c.Close()
		}
	}
}

// startGoroutine starts a writer in this process.
func startGoroutine(t *testing.T, path string) *writer {
	wr := &writer{commits: make(chan int)}
	stop, stopped := make(chan struct{}), make(chan error, 1)
	go func() {
		stopped <- keepWriting(path, func(n int) bool {
			select {
			case <-stop:
				return false
			case wr.commits <- n:
			default:
			}
			return true
		})
	}()
	wr.stop = sync.OnceFunc(func() {
		close(stop)
		if err := <-stopped; err != nil {
			t.Errorf("writer: %v", err)
		}
	})
	t.Cleanup(wr.stop)
	return wr
}

const writerEnv = "BACKUP_TEST_WRITER" // the path of the database to write to

// startProcess starts a writer in a process of its own: this test binary.
func startProcess(t *testing.T, path string) *writer {
	cmd := rerun(t, "TestWriterProcess", writerEnv+"="+path)
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
	wr := &writer{commits: make(chan int)}
	read := make(chan struct{})
	go func() {
		defer close(read)
		for lines := bufio.NewScanner(stdout); lines.Scan(); {
			n, _ := strconv.Atoi(lines.Text()) // the last lines are the test's
			select {
			case wr.commits <- n:
			default:
			}
		}
	}()
	wr.stop = sync.OnceFunc(func() {
		stdin.Close()
		<-read
		if err := cmd.Wait(); err != nil {
			t.Errorf("writer: %v", err)
		}
	})
	t.Cleanup(wr.stop)
	return wr
}

// TestWriterProcess is what startProcess starts; by itself it is no test.
func TestWriterProcess(t *testing.T) {
	path := os.Getenv(writerEnv)
	if path == "" {
		t.Skip("a part of other tests")
	}
	stop := make(chan struct{})
	go func() {
		os.Stdin.Read(make([]byte, 1)) // until it is closed
		close(stop)
	}()
	err := keepWriting(path, func(n int) bool {
		fmt.Println(n)
		select {
		case <-stop:
			return false
		default:
			return true
		}
	})
	if err != nil {
		t.Fatal(err)
	}
}

func countRows(t *testing.T, c *sqlite3.Conn) int {
	t.Helper()
	stmt, _, err := c.Prepare(bookCount)
	if err != nil {
		t.Error(err)
		return 0
	}
	defer stmt.Close()
	stmt.Step()
	return stmt.ColumnInt(0)
}
