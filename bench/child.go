package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"

	"github.com/atocore/backup"
	"github.com/atocore/backup/bench/internal/measured"
)

// childEnv, if set, makes this program a process that is measured, with a
// task in JSON.
const childEnv = "BACKUP_BENCH_TASK"

// A task is what such a process does.
type task struct {
	Name    string // of one in tasks
	Dir     string // of the store
	Source  source
	Level   backup.Level
	Stamp   string // to restore
	Restore backup.RestoreOptions
	Steps   [][]string
	Path    string // of the database to write to
	Memory  int64  // bytes to use
	Remove  int    // so many snapshots; 0: see which would go
}

var tasks = map[string]func(context.Context, task, *measured.Report) error{
	"create":  createTask,
	"restore": restoreTask,
	"list":    listTask,
	"cleanup": cleanupTask,
	"tools":   toolsTask,
	"write":   writeTask,
	"memory":  memoryTask,
}

// childMain does the task that this process was started for, and reports
// whether there was one.
func childMain() bool {
	spec := os.Getenv(childEnv)
	if spec == "" {
		return false
	}
	if err := runChild(spec); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	return true
}

func runChild(spec string) error {
	var t task
	if err := json.Unmarshal([]byte(spec), &t); err != nil {
		return err
	}
	do, ok := tasks[t.Name]
	if !ok {
		return fmt.Errorf("no task %q", t.Name)
	}
	return measured.Run(os.Stdout, func(r *measured.Report) error {
		return do(context.Background(), t, r)
	})
}
