package main

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/atocore/backup"
)

// A contender is one way to do a workload.
type contender struct {
	name  string
	needs []string // see lab.has
	keep  string   // a path that lasts from setup to the end of the workload; "": none

	setup  func(context.Context) error                 // once
	before func(ctx context.Context, out string) error // each time, not measured
	job    func(out string) job                        // what is measured; out is an empty directory
	after  func(context.Context) error                 // each time, not measured
}

// create is ours on a database.
func create(db string, level backup.Level) contender {
	name := "Create"
	if level != backup.ValidateFull {
		name = "Create, ValidateStructure"
	}
	return createOf(name, level, databaseSource(db))
}

func databaseSource(db string) source { return source{Name: "db", Kind: backup.Database, Path: db} }

func createOf(name string, level backup.Level, src source) contender {
	return contender{name: name, job: func(out string) job {
		return createJob(out, level, src)
	}}
}

func createJob(dir string, level backup.Level, src source) job {
	return job{task: task{Name: "create", Dir: dir, Level: level, Source: src}}
}

// createAgain is ours where there is a snapshot already. A source that may
// link to it is another contender.
func (l *lab) createAgain(name string, src source) contender {
	dir := l.newPath(l.dir, "store")
	return contender{
		name: name,
		keep: dir,
		setup: func(ctx context.Context) error {
			_, err := src.snapshot(ctx, dir)
			return err
		},
		job: func(string) job { return createJob(dir, backup.ValidateFull, src) },
	}
}

// restore is ours onto a database that is there, in a new directory within one.
func (l *lab) restore(name, within, db string, opts backup.RestoreOptions) contender {
	dir := l.newPath(within, "restore")
	live := databaseSource(filepath.Join(dir, "live", "app.db"))
	t := task{Name: "restore", Dir: filepath.Join(dir, "store"), Source: live, Restore: opts}
	return contender{
		name: name,
		keep: dir,
		setup: func(ctx context.Context) error {
			_, err := l.runJob(ctx, 0, tools(
				[]string{"mkdir", "-p", filepath.Dir(live.Path)},
				[]string{"cp", db, live.Path}))
			if err != nil {
				return err
			}
			t.Stamp, err = live.snapshot(ctx, t.Dir)
			return err
		},
		job: func(string) job { return job{task: t} },
	}
}

// restoreTree is ours to where there is nothing yet.
func (l *lab) restoreTree(tree string) contender {
	dir := l.newPath(l.dir, "store")
	src := source{Name: "tree", Kind: backup.Tree, Path: tree}
	t := task{Name: "restore", Dir: dir, Restore: backup.RestoreOptions{ConfirmServiceStopped: true, SkipSafetySnapshot: true}}
	return contender{
		name: "Restore",
		keep: dir,
		setup: func(ctx context.Context) (err error) {
			t.Stamp, err = src.snapshot(ctx, dir)
			return err
		},
		job: func(out string) job {
			t.Source = src
			t.Source.Path = filepath.Join(out, "tree")
			return job{task: t}
		},
	}
}

const nobody = "nothing, for a second"

// nothing is what a writer is compared with that nobody disturbs.
func nothing() contender {
	return contender{name: nobody, job: func(string) job { return tools() }}
}

// cleanup is ours on a store of many snapshots, of which it removes the oldest.
func cleanup(name, store string, src source, remove int) contender {
	return contender{name: name, keep: store, job: func(string) job {
		return job{task: task{Name: "cleanup", Dir: store, Source: src, Remove: remove}}
	}}
}

// newPath returns a path within a directory that nobody else has.
func (l *lab) newPath(within, what string) string {
	l.paths++
	return filepath.Join(within, fmt.Sprintf("%s-%d", what, l.paths))
}
