// Command drill is a fire drill: it backs up a small service that keeps
// writing, damages its state, puts it back, and looks at every step whether
// what should be there is there.
//
//	go run ./examples/drill             a service and a database of its own
//	go run ./examples/drill -db FILE    a copy of that database
//	go run ./examples/drill -keep       leave the files, to look around in
//
// All of it happens in a temporary directory. FILE is read as any other
// client of SQLite reads it, while its service runs, and is not otherwise
// touched. The exit status is 1 if a step fails.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"time"
)

func main() {
	db := flag.String("db", "", "drill on a copy of the SQLite database in this `file`")
	keep := flag.Bool("keep", false, "keep the temporary directory")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Stdout, *db, *keep); err != nil {
		fmt.Fprintln(os.Stderr, "drill:", err)
		os.Exit(1)
	}
}

// run holds the drill and prints a line for each step. It stops at the first
// one that fails.
func run(ctx context.Context, out io.Writer, dbFile string, keep bool) (err error) {
	dir, err := os.MkdirTemp("", "atobackup-drill-")
	if err != nil {
		return err
	}
	if keep {
		fmt.Fprintln(out, "in", dir)
	} else {
		defer os.RemoveAll(dir)
	}
	d, err := newDrill(dir, dbFile)
	if err != nil {
		return err
	}
	defer d.service.stop() // after a failed step it still runs
	began := time.Now()
	for _, step := range d.steps() {
		start := time.Now()
		detail, err := step.do(ctx)
		verdict := "PASS"
		if err != nil {
			verdict, detail = "FAIL", err.Error()
		}
		fmt.Fprintf(out, "%s  %7.3fs  %s: %.200s\n", verdict, time.Since(start).Seconds(), step.name, detail)
		if err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
	}
	fmt.Fprintf(out, "the drill passed in %.3fs\n", time.Since(began).Seconds())
	return nil
}

// newDrill sets up a drill in dir.
func newDrill(dir, dbFile string) (*drill, error) {
	d := &drill{dir: dir, original: dbFile, service: newService(filepath.Join(dir, "srv"))}
	var err error
	d.store, err = d.service.backups(filepath.Join(dir, "backups"))
	return d, err
}
