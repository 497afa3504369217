package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"time"

	"github.com/atocore/backup/bench/internal/measured"
)

// A result is what was found of one contender.
type result struct {
	workload  string
	contender string
	samples   []measured.Report
	absent    string // why there are no samples, or no more of them
}

// A job is what a measured process does: a task of this program, or one of
// those in rivals with its arguments.
type job struct {
	task  task
	rival []string
}

// measure runs the workloads, and the contenders of each in turns.
func (l *lab) measure(ctx context.Context) ([]result, error) {
	var results []result
	for _, w := range l.workloads() {
		if l.opts.only != nil && !l.opts.only.MatchString(w.name) {
			continue
		}
		if !l.hasAll(w.needs) {
			l.skip("%s: needs %v", w.name, w.needs)
			continue
		}
		fmt.Fprintln(l.out, w.name)
		found, err := l.measureWorkload(ctx, w)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", w.name, err)
		}
		results = append(results, found...)
	}
	if len(results) == 0 {
		return nil, errors.New("nothing was measured: no workload has such a name, or what it needs")
	}
	return results, nil
}

func (l *lab) hasAll(names []string) bool {
	return !slices.ContainsFunc(names, func(name string) bool { return !l.has(name) })
}

func (l *lab) measureWorkload(ctx context.Context, w workload) (results []result, err error) {
	if w.setup != nil {
		if err := w.setup(ctx); err != nil {
			return nil, fmt.Errorf("set up: %w", err)
		}
	}
	contenders := l.present(w)
	defer func() {
		for _, c := range contenders {
			err = errors.Join(err, w.dispose(c.keep))
		}
	}()
	for _, c := range contenders {
		r := result{workload: w.name, contender: c.name}
		if c.setup != nil {
			if err := c.setup(ctx); err != nil {
				r.absent = "cannot be set up: " + err.Error()
			}
		}
		results = append(results, r)
	}
	turns := make([]int, len(contenders))
	for i := range turns {
		turns[i] = i
	}
	for range l.opts.runs {
		for _, i := range turns {
			if results[i].absent != "" {
				continue
			}
			l.sampleInto(ctx, &results[i], w, contenders[i])
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
		}
		slices.Reverse(turns) // so that nobody always comes after the same
	}
	return results, nil
}

// present returns the contenders that are installed.
func (l *lab) present(w workload) []contender {
	var found []contender
	for _, c := range w.contenders {
		if l.hasAll(c.needs) {
			found = append(found, c)
		} else {
			l.skip("%s: %s: needs %v", w.name, c.name, c.needs)
		}
	}
	return found
}

// sampleInto adds a sample to the result, or the reason why there are no
// more: a rival that fails, or does not end, does not stop the others.
func (l *lab) sampleInto(ctx context.Context, r *result, w workload, c contender) {
	sample, err := l.sample(ctx, w, c)
	if err != nil {
		r.absent = err.Error()
		fmt.Fprintf(l.out, "  %-60s %v\n", c.name, err)
		return
	}
	r.samples = append(r.samples, sample)
	fmt.Fprintf(l.out, "  %-60s %8.3f s\n", c.name, sample.Seconds)
}

// sample measures a contender once, in a new directory.
func (l *lab) sample(ctx context.Context, w workload, c contender) (r measured.Report, err error) {
	out, err := os.MkdirTemp(w.dir, "out-")
	if err != nil {
		return r, err
	}
	defer func() {
		err = errors.Join(err, w.dispose(out))
		if c.after != nil {
			err = errors.Join(err, c.after(context.WithoutCancel(ctx)))
		}
	}()
	if c.before != nil {
		if err := c.before(ctx, out); err != nil {
			return r, fmt.Errorf("prepare: %w", err)
		}
	}
	syncAll()
	l.keepsNames = l.keepsNames || !forgetNames()
	if c.keep != "" && !slices.Contains(w.inputs, c.keep) { // such as the snapshot before
		if _, err := warm(c.keep); err != nil {
			return r, err
		}
	}
	var read int64
	for _, input := range w.inputs {
		size, err := warm(input)
		if err != nil {
			return r, err
		}
		read += size
	}
	if err := l.useMemory(ctx, 2*read); err != nil {
		return r, err
	}
	if w.writesTo == "" {
		return l.runJob(ctx, w.limit, c.job(out))
	}
	writer, err := l.startWriter(ctx, w.writesTo)
	if err != nil {
		return r, err
	}
	r, err = l.runJob(ctx, w.limit, c.job(out))
	wrote, werr := writer.stop()
	r.LongestCommit, r.Commits = wrote.LongestCommit, wrote.Commits
	return r, errors.Join(err, werr)
}

// useMemory has a process use so many bytes of memory, about, and end. The host of a
// virtual machine may take back what has been free for some seconds. To write
// there again, be it to the page cache, then takes ten times as long: whoever
// came after somebody large would win.
func (l *lab) useMemory(ctx context.Context, size int64) error {
	const least, most = 512 << 20, 2 << 30 // many small files take more than their bytes
	_, err := l.runJob(ctx, 0, job{task: task{Name: "memory", Memory: max(least, min(size, most))}})
	return err
}

// dispose removes what is not needed any more. Many files stay until all has
// been measured: on ext4 a new file takes no inode that was freed in the last
// minutes, and whoever makes it looks at each of them, so that one contender
// would pay for what the one before had written.
func (w workload) dispose(path string) error {
	if w.manyFiles {
		return nil
	}
	return os.RemoveAll(path)
}

// runJob runs a process that is measured, for no longer than limit if that
// is not zero.
func (l *lab) runJob(ctx context.Context, limit time.Duration, j job) (r measured.Report, err error) {
	if limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, limit, errDoesNotEnd{limit})
		defer cancel()
	}
	cmd, err := l.command(ctx, j)
	if err != nil {
		return r, err
	}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return r, context.Cause(ctx)
		}
		return r, fmt.Errorf("%w: %s", err, firstLine(stderr.Bytes()))
	}
	return r, json.Unmarshal(stdout.Bytes(), &r)
}

// errDoesNotEnd is that of a contender that was stopped.
type errDoesNotEnd struct{ limit time.Duration }

func (e errDoesNotEnd) Error() string { return fmt.Sprintf("had not ended after %v", e.limit) }

func (l *lab) command(ctx context.Context, j job) (*exec.Cmd, error) {
	if j.rival != nil {
		cmd := exec.CommandContext(ctx, l.program(j.rival[0]), j.rival[1:]...)
		alone(cmd)
		return cmd, nil
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	spec, err := json.Marshal(j.task)
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, self)
	cmd.Env = append(os.Environ(), childEnv+"="+string(spec))
	alone(cmd)
	return cmd, nil
}
