package drivers

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/atocore/backup"
)

// Locks hold against other processes: this binary is those too.

// childEnv, if set, makes this binary a child, with a task in JSON.
const childEnv = "BACKUP_DRIVERS_CHILD"

// A task is what a child is to do.
type task struct {
	Name   string // of one in tasks
	Driver string
	Mode   string
	Path   string // of the database
	Dir    string // of the store
	SQL    string
}

var tasks = map[string]func(ctx context.Context, d driver, t task) error{
	"try":  tryTask,
	"host": hostTask,
}

func TestMain(m *testing.M) {
	spec := os.Getenv(childEnv)
	if spec == "" {
		os.Exit(m.Run())
	}
	if err := runChild(spec); err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
}

func runChild(spec string) error {
	var t task
	if err := json.Unmarshal([]byte(spec), &t); err != nil {
		return err
	}
	d, err := driverCalled(t.Driver)
	if err != nil {
		return err
	}
	return tasks[t.Name](context.Background(), d, t)
}

// A child is a process that says what it has done, line by line, and does
// what it is told to.
type child struct {
	t     *testing.T
	cmd   *exec.Cmd
	stdin io.WriteCloser
	lines *bufio.Scanner
}

func startChild(t *testing.T, spec task) *child {
	t.Helper()
	data, err := json.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+string(data))
	cmd.Stderr = os.Stderr
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
	c := &child{t, cmd, stdin, bufio.NewScanner(stdout)}
	t.Cleanup(func() { c.kill() })
	return c
}

// next returns the next line that the child says.
func (c *child) next() string {
	c.t.Helper()
	if !c.lines.Scan() {
		c.t.Fatalf("child: it said no more: %v", c.lines.Err())
	}
	if why, failed := strings.CutPrefix(c.lines.Text(), "error "); failed {
		c.t.Fatalf("child: %s", why)
	}
	return c.lines.Text()
}

// expect reads on until the child says a line.
func (c *child) expect(want string) {
	c.t.Helper()
	for c.next() != want {
	}
}

func (c *child) tell(line string) {
	c.t.Helper()
	if _, err := fmt.Fprintln(c.stdin, line); err != nil {
		c.t.Fatal(err)
	}
}

// order has the child do one thing after the other.
func (c *child) order(orders ...string) {
	c.t.Helper()
	for _, order := range orders {
		c.tell(order)
		c.expect("done " + order)
	}
}

// kill ends the child as kill -9 does, and waits until it is gone. It
// returns the lines that the child had said and nobody has read.
func (c *child) kill() (rest []string) {
	c.cmd.Process.Kill() // it may be gone already
	for c.lines.Scan() {
		rest = append(rest, c.lines.Text())
	}
	c.cmd.Wait()
	return rest
}

// try has another process run SQL on a host's database, and returns "done"
// or, if a lock was not to be had, "busy".
func (h *host) try(t *testing.T, sql string) string {
	t.Helper()
	c := startChild(t, task{Name: "try", Driver: h.name, Path: h.path, SQL: sql})
	defer c.kill()
	return c.next()
}

func tryTask(ctx context.Context, d driver, t task) error {
	db, err := d.open(t.Path, 0)
	if err != nil {
		return err
	}
	defer db.Close()
	conn, err := db.Conn(ctx)
	if err == nil {
		defer conn.Close()
		_, err = conn.ExecContext(ctx, t.SQL)
	}
	switch {
	case isBusy(err):
		fmt.Println("busy")
	case err == nil:
		fmt.Println("done")
	default:
		return err
	}
	return nil
}

// isBusy reports whether a driver says SQLITE_BUSY. They have no word for it
// in common.
func isBusy(err error) bool {
	return err != nil && strings.Contains(err.Error(), "locked")
}

// hostTask is a host in a process of its own. It does as it is told, until
// it is killed, and says when it is done:
//
//	commit       one commit
//	write        commits on and on, "commit" after each
//	create       Create, with Source.DB
//	open-close   opens the database's files and closes them, as anybody may
//	begin, end   a commit that reads first, and takes its time
func hostTask(ctx context.Context, d driver, t task) error {
	h, err := newHost(ctx, d, t.Mode, t.Path)
	if err != nil {
		return err
	}
	conn, err := h.db.Conn(ctx)
	if err != nil {
		return err
	}
	fmt.Println("ready")
	commit := func() error {
		if err := h.commit(ctx); err != nil {
			return err
		}
		fmt.Println("commit")
		return nil
	}
	for orders := bufio.NewScanner(os.Stdin); orders.Scan(); {
		order := orders.Text()
		switch order {
		case "commit":
			err = commit()
		case "write":
			go func() {
				for {
					if err := commit(); err != nil {
						fmt.Println("error", err)
						return
					}
				}
			}()
		case "create":
			err = h.create(ctx, t.Dir)
		case "open-close":
			err = openClose(h.path)
		case "begin":
			_, err = conn.ExecContext(ctx, beginReading)
		case "end":
			_, err = conn.ExecContext(ctx, endReading)
		default:
			err = errors.New(order)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", order, err)
		}
		fmt.Println("done " + order)
	}
	return nil
}

// openClose opens and closes what there is of a database, as a copy of its
// directory does.
func openClose(path string) error {
	for _, suffix := range sidecars {
		f, err := os.Open(path + suffix)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if err := f.Close(); err != nil {
			return err
		}
	}
	return nil
}

func (h *host) create(ctx context.Context, dir string) error {
	s, err := backup.New(backup.Config{Dir: dir, Sources: []backup.Source{h.source()}})
	if err != nil {
		return err
	}
	snap, err := s.Create(ctx, nil)
	if err == nil && !snap.Validated {
		err = fmt.Errorf("not validated: %v", snap.Problems)
	}
	return err
}

// source is the host's database as it should be configured.
func (h *host) source() backup.Source {
	return backup.Source{Name: "db", Kind: backup.Database, Path: h.path, DB: h.db}
}

// snapshotFile returns the path of a file in a snapshot.
func snapshotFile(dir string, snap *backup.Snapshot, name string) string {
	return filepath.Join(dir, "snapshots", snap.Stamp, filepath.FromSlash(name))
}
