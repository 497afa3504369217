// Command bench measures the library beside the tools that do the same work,
// in one run, and writes RESULTS.md.
//
//	go run .                          all of it; 10 GB and half an hour
//	go run . -quick                   small and once: whether it works at all
//	go run . -only 'PocketBase|tree'  the workloads whose names match
//
// Each thing is measured in a process of its own, from the beginning of the
// work to the end of the last sync. The contenders of a workload take turns, from
// the first to the last and back. Their input, such as a snapshot before, has been
// read, so that it is in the page cache, what others have written has been synced,
// what the kernel remembers of other files has been dropped if we are root, and its
// free memory been put together, some of which has been in use: see forgetNames and
// useMemory. A rival that is not installed is left out with a line that says so; to
// measure on XFS takes root and mkfs.xfs.
//
// Those that are Go modules are built from the directory rivals, as programs
// of their own: what they link must not count as our memory.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"strings"
	"syscall"
)

func main() {
	if childMain() {
		return
	}
	var opts options
	flag.StringVar(&opts.dir, "dir", os.TempDir(), "measure in a new `directory` within this one, on its file system")
	flag.IntVar(&opts.runs, "runs", defaultRuns, "how many times to measure each contender")
	only := flag.String("only", "", "measure the workloads whose names match this `regexp` alone")
	flag.IntVar(&opts.size, "size", defaultSize, "the size of the database in `MB`")
	flag.BoolVar(&opts.quick, "quick", false, "small sizes and one run, to see that it works")
	flag.StringVar(&opts.out, "out", "", "write the results to this `file`; if empty, to RESULTS.md if all was measured at full size, else nowhere")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := opts.complete(*only)
	if err == nil {
		err = run(ctx, os.Stdout, opts)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

const (
	defaultRuns = 5
	defaultSize = 500 // MB
)

// options are what the flags say.
type options struct {
	dir   string
	runs  int
	size  int            // MB
	only  *regexp.Regexp // nil: all
	quick bool
	out   string
}

// complete fills in what depends on other flags.
func (o *options) complete(only string) (err error) {
	if only != "" {
		if o.only, err = regexp.Compile(only); err != nil {
			return err
		}
	}
	if o.runs < 1 || o.size < 1 {
		return fmt.Errorf("%d runs at %d MB: nothing would be measured", o.runs, o.size)
	}
	if o.out == "" && !o.quick && o.only == nil && o.runs == defaultRuns && o.size == defaultSize {
		o.out = "RESULTS.md"
	}
	if o.quick {
		o.runs, o.size = 1, 10
	}
	return nil
}

// run measures, prints what it finds and writes it to a file.
func run(ctx context.Context, out io.Writer, opts options) (err error) {
	l, err := newLab(ctx, opts, out)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := l.close(); err == nil {
			err = cerr
		}
	}()
	results, err := l.measure(ctx)
	if err != nil {
		return err
	}
	var text strings.Builder
	writeResults(&text, l.facts(), results)
	fmt.Fprint(out, "\n", text.String())
	if opts.out == "" {
		return nil
	}
	return os.WriteFile(opts.out, []byte(text.String()), 0o644)
}
