package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync/atomic"
	"time"

	"github.com/atocore/backup/bench/internal/measured"
	"github.com/ncruces/go-sqlite3"
)

// writeTask commits to a database until its standard input ends, and notes
// how long the longest commit took. It does so without syncing: it is to wait
// for locks, if for anything, and not for a disk that a copy is written to.
func writeTask(_ context.Context, t task, r *measured.Report) (err error) {
	db, err := sqlite3.Open(t.Path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	if err := db.Exec(`PRAGMA busy_timeout = 60000; PRAGMA synchronous = OFF`); err != nil {
		return err
	}
	var over atomic.Bool
	go func() {
		io.Copy(io.Discard, os.Stdin) // the error says that it is over, too
		over.Store(true)
	}()
	for !over.Load() {
		began := time.Now()
		// Rows are changed and none added: the database stays as large as
		// it was.
		if err := db.Exec(`BEGIN IMMEDIATE; UPDATE counters SET n = n + 1 WHERE id = 1 + random() % 1000; COMMIT`); err != nil {
			return err
		}
		r.LongestCommit = max(r.LongestCommit, time.Since(began).Seconds())
		if r.Commits++; r.Commits == 1 {
			r.LongestCommit = 0 // it has opened the database, too
			fmt.Println("writing")
		}
		time.Sleep(2 * time.Millisecond)
	}
	return nil
}

// A writer is a process that commits to a database.
type writer struct {
	cmd   *exec.Cmd
	stdin io.Closer
	out   *bufio.Reader
}

// startWriter returns once the writer has committed.
func (l *lab) startWriter(ctx context.Context, db string) (*writer, error) {
	cmd, err := l.command(ctx, job{task: task{Name: "write", Path: db}})
	if err != nil {
		return nil, err
	}
	cmd.Stderr = os.Stderr
	w := &writer{cmd: cmd}
	if w.stdin, err = cmd.StdinPipe(); err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	w.out = bufio.NewReader(stdout)
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	if _, err := w.out.ReadString('\n'); err != nil {
		return nil, errors.Join(fmt.Errorf("writer: %w", err), cmd.Wait())
	}
	return w, nil
}

// stop ends the writer and returns what it has measured.
func (w *writer) stop() (r measured.Report, err error) {
	err = w.stdin.Close()
	return r, errors.Join(err, json.NewDecoder(w.out).Decode(&r), w.cmd.Wait())
}
