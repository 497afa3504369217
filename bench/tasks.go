package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/atocore/backup"
	"github.com/atocore/backup/bench/internal/measured"
)

// A source is the part of a [backup.Source] that another process can be told.
type source struct {
	Name string
	Kind backup.Kind
	Path string

	LinkUnchanged bool
}

// store returns the one in a directory that has this source alone.
func (s source) store(dir string) (*backup.Store, error) {
	return backup.New(backup.Config{
		Dir:     dir,
		Sources: []backup.Source{{Name: s.Name, Kind: s.Kind, Path: s.Path, LinkUnchanged: s.LinkUnchanged}},
	})
}

// snapshot takes one in the store in a directory, and returns its stamp.
func (s source) snapshot(ctx context.Context, dir string) (stamp string, err error) {
	store, err := s.store(dir)
	if err != nil {
		return "", err
	}
	snap, err := store.Create(ctx, nil)
	if err != nil {
		return "", err
	}
	return snap.Stamp, snap.Err()
}

func createTask(ctx context.Context, t task, _ *measured.Report) error {
	store, err := t.Source.store(t.Dir)
	if err != nil {
		return err
	}
	snap, err := store.Create(ctx, &backup.CreateOptions{Level: t.Level})
	if err != nil {
		return err
	}
	return snap.Err()
}

func restoreTask(ctx context.Context, t task, _ *measured.Report) error {
	store, err := t.Source.store(t.Dir)
	if err != nil {
		return err
	}
	_, err = store.Restore(ctx, t.Stamp, &t.Restore)
	return err
}

func memoryTask(_ context.Context, t task, _ *measured.Report) error {
	used := make([]byte, t.Memory)
	for i := 0; i < len(used); i += os.Getpagesize() {
		used[i] = 1
	}
	return nil
}

func listTask(ctx context.Context, t task, _ *measured.Report) error {
	store, err := t.Source.store(t.Dir)
	if err != nil {
		return err
	}
	snapshots, err := store.List(ctx)
	if err == nil && len(snapshots) == 0 {
		return fmt.Errorf("%s: no snapshots", t.Dir)
	}
	return err
}

func cleanupTask(ctx context.Context, t task, _ *measured.Report) error {
	store, err := t.Source.store(t.Dir)
	if err != nil {
		return err
	}
	all, err := os.ReadDir(filepath.Join(t.Dir, "snapshots"))
	if err != nil {
		return err
	}
	c, err := store.Cleanup(ctx, &backup.CleanupOptions{
		Retention: &backup.Retention{Last: len(all) - t.Remove}, Confirm: t.Remove > 0,
	})
	if err == nil && (c.Deleted != t.Remove || c.Kept != len(all)-t.Remove) {
		return fmt.Errorf("%s: %d were kept of %d, and %d deleted", t.Dir, c.Kept, len(all), c.Deleted)
	}
	return err
}

// toolsTask runs programs, one after the other.
func toolsTask(ctx context.Context, t task, _ *measured.Report) error {
	for _, step := range t.Steps {
		cmd := exec.CommandContext(ctx, step[0], step[1:]...)
		cmd.Env = append(os.Environ(), "RESTIC_PASSWORD=bench", "RESTIC_PROGRESS_FPS=0")
		text, err := cmd.CombinedOutput()
		if err != nil {
			return fmt.Errorf("%s: %w: %s", step[0], err, firstLine(text))
		}
		// The sqlite3 shell exits with 0 when it has found damage.
		if strings.HasSuffix(step[len(step)-1], integrityCheck) && firstLine(text) != "ok" {
			return fmt.Errorf("%s: %s", integrityCheck, firstLine(text))
		}
	}
	if len(t.Steps) == 0 {
		time.Sleep(time.Second) // nothing but the writer is to be measured
	}
	return nil
}
