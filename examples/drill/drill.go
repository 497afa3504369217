package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/atocore/backup"
)

// A drill is one run: what its steps find out, the later ones need.
type drill struct {
	dir      string
	original string // the database to drill on a copy of, or ""
	service  *service
	store    *backup.Store

	baseline string // what the service's state said when it was backed up
	stamp    string // of the snapshot
	safety   string // of the snapshot that the restore took
}

type step struct {
	name string
	do   func(ctx context.Context) (detail string, err error)
}

func (d *drill) steps() []step {
	return []step{
		{"seed", d.seed},
		{"back up under write load", d.backUp},
		{"validate", d.validate},
		{"lose rows and files", d.mutate},
		{"refuse to restore under a running service", d.refuse},
		{"restore", d.restore},
		{"baseline there, mutation gone", d.checkBaseline},
		{"restore the safety snapshot: undo", d.undo},
		{"overwrite the database with garbage", d.damage},
		{"restore over the damage", d.restore},
		{"baseline there, mutation gone", d.checkBaseline},
		{"service runs again", d.runAgain},
		{"cleanup, dry run", d.cleanup},
	}
}

var confirmed = &backup.RestoreOptions{ConfirmServiceStopped: true}

func (d *drill) seed(ctx context.Context) (string, error) {
	if err := d.service.makeDirs(); err != nil {
		return "", err
	}
	if d.original != "" {
		if err := copyDatabase(ctx, d.original, d.service.db, filepath.Join(d.dir, "copy")); err != nil {
			return "", err
		}
	}
	if err := d.service.seed(); err != nil {
		return "", err
	}
	var err error
	d.baseline, err = d.service.state()
	return d.baseline, err
}

// copyDatabase copies a database that may be in use: a snapshot of it there,
// restored here.
func copyDatabase(ctx context.Context, from, to, dir string) error {
	store := func(path string) (*backup.Store, error) {
		return backup.New(backup.Config{
			Dir:     dir,
			Sources: []backup.Source{{Name: "db", Kind: backup.Database, Path: path}},
		})
	}
	there, err := store(from)
	if err != nil {
		return err
	}
	here, err := store(to)
	if err != nil {
		return err
	}
	snap, err := there.Create(ctx, nil)
	if err != nil {
		return err
	}
	if _, err := here.Restore(ctx, snap.Stamp, confirmed); err != nil {
		return err
	}
	return os.Chmod(to, 0o600) // the original may be read-only
}

func (d *drill) backUp(ctx context.Context) (string, error) {
	if err := d.service.start(); err != nil {
		return "", err
	}
	before := d.service.written.Load()
	snap, err := d.store.Create(ctx, &backup.CreateOptions{Include: []string{"vectors"}})
	if err != nil {
		return "", err
	}
	during := d.service.written.Load() - before
	if err := snap.Err(); err != nil {
		return "", fmt.Errorf("%s: %w", snap.Stamp, err)
	}
	if during == 0 {
		return "", errors.New("the service could not write meanwhile")
	}
	d.stamp = snap.Stamp
	return fmt.Sprintf("%s, %d files of %d bytes; the service wrote %d rows meanwhile", snap.Stamp, snap.Files, snap.Bytes, during), nil
}

func (d *drill) validate(ctx context.Context) (string, error) {
	report, err := d.store.Validate(ctx, d.stamp, nil)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%d files of %d bytes, no problem", report.Files, report.Bytes), report.Err()
}

func (d *drill) mutate(context.Context) (string, error) {
	if err := d.service.mutate(); err != nil {
		return "", err
	}
	now, err := d.service.state()
	if err == nil && now == d.baseline {
		err = errors.New("nothing has changed")
	}
	return now, err
}

func (d *drill) refuse(ctx context.Context) (string, error) {
	_, err := d.store.Restore(ctx, d.stamp, nil)
	if !errors.Is(err, backup.ErrNotConfirmed) {
		return "", fmt.Errorf("without confirmation: %v", err)
	}
	_, err = d.store.Restore(ctx, d.stamp, confirmed)
	if !errors.Is(err, backup.ErrServiceRunning) {
		return "", fmt.Errorf("although it runs: %v", err)
	}
	return "both without confirmation and with a false one", d.service.stop()
}

func (d *drill) restore(ctx context.Context) (string, error) {
	restored, err := d.store.Restore(ctx, d.stamp, confirmed)
	if err != nil {
		return "", err
	}
	if !restored.IntegrityOK || restored.SafetyStamp == "" {
		return "", fmt.Errorf("%+v", *restored)
	}
	d.safety = restored.SafetyStamp
	return fmt.Sprintf("%s of %s; safety snapshot %s", strings.Join(restored.Restored, ", "), restored.Stamp, restored.SafetyStamp), nil
}

func (d *drill) checkBaseline(context.Context) (string, error) {
	if err := d.service.check(); err != nil {
		return "", err
	}
	now, err := d.service.state()
	if err == nil && now != d.baseline {
		err = fmt.Errorf("%s; want %s", now, d.baseline)
	}
	return now, err
}

// undo brings the mutation back.
func (d *drill) undo(ctx context.Context) (string, error) {
	if _, err := d.store.Restore(ctx, d.safety, confirmed); err != nil {
		return "", err
	}
	now, err := d.service.state()
	if err == nil && (now == d.baseline || !strings.Contains(now, mutation)) {
		err = fmt.Errorf("the mutation is not back: %s", now)
	}
	return now, err
}

func (d *drill) damage(context.Context) (string, error) {
	garbage := bytes.Repeat([]byte("garbage "), 8<<10)
	if err := os.WriteFile(d.service.db, garbage, 0o600); err != nil {
		return "", err
	}
	_, err := d.service.state()
	if err == nil {
		return "", errors.New("SQLite can still read it")
	}
	return err.Error(), nil
}

func (d *drill) runAgain(context.Context) (string, error) {
	if err := d.service.start(); err != nil {
		return "", err
	}
	return fmt.Sprintf("%d rows written", d.service.written.Load()), d.service.stop()
}

func (d *drill) cleanup(ctx context.Context) (string, error) {
	if _, err := d.store.Create(ctx, &backup.CreateOptions{Include: []string{"vectors"}}); err != nil {
		return "", err
	}
	before, err := d.store.List(ctx)
	if err != nil {
		return "", err
	}
	plan, err := d.store.Cleanup(ctx, &backup.CleanupOptions{Retention: &backup.Retention{Last: 1}})
	if err != nil {
		return "", err
	}
	after, err := d.store.List(ctx)
	if err == nil && (plan.WouldDelete != 1 || len(after) != len(before)) {
		err = fmt.Errorf("would delete %d; there were %d snapshots, and are %d", plan.WouldDelete, len(before), len(after))
	}
	return fmt.Sprintf("with a newer one, would delete 1 of %d, and has deleted none", len(before)), err
}
