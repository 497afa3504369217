package main

import (
	"context"
	"debug/buildinfo"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
)

// A lab is the directory that is measured in, and what is there to measure
// with.
type lab struct {
	opts    options
	out     io.Writer
	dir     string
	rivals  map[string]string // versions of those that are Go modules
	xfs     string            // a directory on XFS with reflink, or ""
	closers []func() error
	skipped []string // what was left out, and why
	paths   int      // see newPath

	keepsNames bool // forgetNames could not do its work
}

func newLab(ctx context.Context, opts options, out io.Writer) (_ *lab, err error) {
	dir, err := filepath.Abs(opts.dir)
	if err != nil {
		return nil, err
	}
	if dir, err = os.MkdirTemp(dir, "backup-bench-"); err != nil {
		return nil, err
	}
	l := &lab{opts: opts, out: out, dir: dir, rivals: make(map[string]string)}
	l.closers = append(l.closers, func() error { return os.RemoveAll(dir) })
	for _, name := range slices.Sorted(maps.Keys(rivalModules)) {
		if err := l.buildRival(ctx, name); err != nil {
			l.skip("%s: %v", name, err)
		}
	}
	if l.xfs, err = l.mountXFS(ctx); err != nil {
		l.skip("XFS with reflink: %v", err)
	}
	if err := ctx.Err(); err != nil {
		return nil, errors.Join(err, l.close())
	}
	return l, nil
}

// close removes all that was made, the last first: a directory cannot be
// removed before what is mounted in it.
func (l *lab) close() error {
	var errs []error
	for len(l.closers) > 0 {
		last := len(l.closers) - 1
		errs = append(errs, l.closers[last]())
		l.closers = l.closers[:last]
	}
	return errors.Join(errs...)
}

// skip notes what is not measured.
func (l *lab) skip(format string, args ...any) {
	line := fmt.Sprintf(format, args...)
	l.skipped = append(l.skipped, line)
	fmt.Fprintln(l.out, "skipped:", line)
}

// program returns the path of that of a rival that is a Go module.
func (l *lab) program(rival string) string { return filepath.Join(l.dir, "bin", rival) }

// buildRival builds a program in the directory rivals. Where it cannot be
// built, as its modules or a C compiler are not there, we measure without.
func (l *lab) buildRival(ctx context.Context, name string) error {
	build := exec.CommandContext(ctx, "go", "build", "-o", l.program(name), "./rivals/"+name)
	if text, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build it: %w: %s", err, firstLine(text))
	}
	info, err := buildinfo.ReadFile(l.program(name))
	if err != nil {
		return err
	}
	l.rivals[name] = moduleVersion(info, rivalModules[name])
	return nil
}

// rivalModules are what the programs in rivals are there for.
var rivalModules = map[string]string{
	"mattn":      "github.com/mattn/go-sqlite3",
	"pocketbase": "github.com/pocketbase/pocketbase",
}

// moduleVersion names a module as it is in a program.
func moduleVersion(info *debug.BuildInfo, path string) string {
	for _, module := range info.Deps {
		if module.Path == path {
			return path + " " + module.Version
		}
	}
	return path
}

// has reports whether a program, a rival or a file system is there.
func (l *lab) has(name string) bool {
	if _, ok := l.rivals[name]; ok {
		return true
	}
	if name == "xfs" {
		return l.xfs != ""
	}
	_, err := exec.LookPath(name)
	return err == nil
}

func firstLine(text []byte) string {
	line, _, _ := strings.Cut(strings.TrimSpace(string(text)), "\n")
	return line
}
