package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/atocore/backup"
)

// A verb is something that the command does.
type verb struct {
	name, summary string
	stamp         operand
	flags         func(*flag.FlagSet, *options) // if nil, none of its own
	run           func(context.Context, *call) (*output, error)
}

// An operand says which STAMP a verb takes.
type operand int

const (
	noStamp    operand = iota
	anyStamp           // one, or the word latest
	exactStamp         // one, spelled out
)

const latest = "latest"

func (o operand) operand() string {
	return []string{"", " STAMP|latest", " STAMP"}[o]
}

func verbs() []*verb {
	return []*verb{
		{"create", "take a snapshot while the service runs, and read it back", noStamp, createFlags, create},
		{"list", "list the snapshots, newest first", noStamp, nil, list},
		{"validate", "prove that a snapshot is good", anyStamp, validateFlags, validate},
		{"restore", "replace the live state by a snapshot's; the service is stopped", anyStamp, restoreFlags, restore},
		{"recover", "finish or undo a restore that was interrupted", noStamp, nil, recoverRestore},
		{"cleanup", "say which snapshots the retention does not keep, and remove them with -confirm", noStamp, cleanupFlags, cleanup},
		{"delete", "remove one snapshot, whatever the retention says", exactStamp, deleteFlags, deleteSnapshot},
	}
}

func findVerb(name string) (*verb, error) {
	var names []string
	for _, v := range verbs() {
		if v.name == name {
			return v, nil
		}
		names = append(names, v.name)
	}
	return nil, usagef("%q is no verb: the first argument is one of %s", name, strings.Join(names, ", "))
}

// usage is the help on everything.
func usage() string {
	var b strings.Builder
	b.WriteString("Atobackup backs up, checks and restores the state of a service.\n\n" +
		"usage: atobackup VERB -config FILE [flags] [STAMP]\n\nverbs:\n")
	for _, v := range verbs() {
		fmt.Fprintf(&b, "  %-23s %s\n", v.name+v.stamp.operand(), v.summary)
	}
	b.WriteString("\n\"atobackup help VERB\" lists the flags of a verb.\n" +
		"Exit codes: 0 done, 1 failed, 2 usage, 3 the snapshot is not valid.\n")
	return b.String()
}

// A call is a verb on its way.
type call struct {
	*options
	store   *backup.Store
	sources []backup.Source
	now     time.Time
	stderr  io.Writer
}

func (c *call) run(ctx context.Context, v *verb) (*output, error) {
	if c.stamp == latest {
		stamp, err := c.latest(ctx)
		if err != nil {
			return nil, err
		}
		c.stamp = stamp
		fmt.Fprintf(c.stderr, "atobackup: latest is %s\n", stamp)
	}
	return v.run(ctx, c)
}

// latest returns the stamp of the newest snapshot that is finished and no
// safety snapshot. One that is in use counts: who asks for the latest while
// it is validated must not get an older one. One that was taken while the
// clock was ahead does not, and that is said.
func (c *call) latest(ctx context.Context) (string, error) {
	snapshots, err := c.store.List(ctx)
	if err != nil {
		return "", err
	}
	for _, s := range snapshots {
		switch {
		case !s.HasMetadata || s.Origin == backup.OriginPreRestore:
		case s.CreatedAt.After(c.now):
			fmt.Fprintf(c.stderr, "atobackup: %s is dated in the future, and not taken for the latest\n", s.Stamp)
		default:
			return s.Stamp, nil
		}
	}
	return "", fmt.Errorf("%w: there is none", backup.ErrInvalidSnapshot)
}

// checkNames refuses names, given with a flag, that are those of no source.
func (c *call) checkNames(flag string, names []string) error {
	var known []string
	for _, src := range c.sources {
		known = append(known, src.Name)
	}
	for _, name := range names {
		if !slices.Contains(known, name) {
			return usagef("%s %q: no such source: want one of %s", flag, name, strings.Join(known, ", "))
		}
	}
	return nil
}

// An invalidError is that of a snapshot with problems. Those themselves are in
// the output.
type invalidError struct {
	stamp    string
	problems []backup.Problem
}

func (e invalidError) Error() string {
	return fmt.Sprintf("%s: %v: %s", e.stamp, backup.ErrInvalidSnapshot, strings.Join(codes(e.problems), ", "))
}

func (e invalidError) Unwrap() []error {
	errs := []error{backup.ErrInvalidSnapshot}
	for _, p := range e.problems {
		errs = append(errs, p)
	}
	return errs
}

func createFlags(flags *flag.FlagSet, o *options) {
	repeated(flags, &o.include, "include", "capture the on_request source `NAME` too")
	levelFlag(flags, o)
	flags.BoolVar(&o.pin, "pin", false, "keep cleanup from ever removing it")
	flags.Func("label", "note `KEY=TEXT` with it (repeatable)", o.addLabel)
	flags.BoolVar(&o.scheduled, "scheduled", false, "note that a timer asked for it")
}

func levelFlag(flags *flag.FlagSet, o *options) {
	flags.TextVar(&o.level, "level", backup.ValidateFull, "validate at `LEVEL`: full (the default), quick or structure")
}

func create(ctx context.Context, c *call) (*output, error) {
	if err := c.checkNames("-include", c.include); err != nil {
		return nil, err
	}
	opts := &backup.CreateOptions{Include: c.include, Level: c.level, Labels: c.labels, Pin: c.pin}
	if c.scheduled {
		opts.Origin = backup.OriginScheduled
	}
	snap, err := c.store.Create(ctx, opts)
	if snap == nil {
		return nil, err
	}
	if err == nil && !snap.Validated {
		err = invalidError{snap.Stamp, snap.Problems}
	}
	return &output{snap, func(w io.Writer) { c.writeCreated(w, snap) }}, err
}

func list(ctx context.Context, c *call) (*output, error) {
	snapshots, err := c.store.List(ctx)
	if err != nil {
		return nil, err
	}
	value := struct {
		Snapshots []backup.Snapshot `json:"snapshots"`
	}{snapshots}
	return &output{value, func(w io.Writer) { c.writeList(w, snapshots) }}, nil
}

func validateFlags(flags *flag.FlagSet, o *options) { levelFlag(flags, o) }

func validate(ctx context.Context, c *call) (*output, error) {
	report, err := c.store.Validate(ctx, c.stamp, &backup.ValidateOptions{Level: c.level})
	if err != nil {
		return nil, err
	}
	if !report.Valid {
		err = invalidError{report.Stamp, report.Problems}
	}
	return &output{report, func(w io.Writer) { writeReport(w, report) }}, err
}

func restoreFlags(flags *flag.FlagSet, o *options) {
	flags.BoolVar(&o.serviceStopped, "confirm-service-stopped", false, "say that nobody has the state open")
	flags.BoolVar(&o.noPreSnapshot, "no-pre-snapshot", false, "take no safety snapshot: what is replaced is gone")
	repeated(flags, &o.only, "only", "restore the source `NAME` and leave the others alone")
	flags.BoolVar(&o.dryRun, "dry-run", false, "validate the snapshot and say what would be restored")
	flags.Func("accept", "restore in spite of problems with `CODE` that were found when the snapshot was taken too: file_changed, file_vanished, raw_copy, db_corrupt or check_failed (repeatable)", o.addAccepted)
}

func restore(ctx context.Context, c *call) (*output, error) {
	if err := c.checkNames("-only", c.only); err != nil {
		return nil, err
	}
	if !c.serviceStopped && !c.dryRun {
		return nil, usagef("restore replaces the live state: stop the service, then say so with -confirm-service-stopped (or look first, with -dry-run)")
	}
	r, err := c.store.Restore(ctx, c.stamp, &backup.RestoreOptions{
		ConfirmServiceStopped: c.serviceStopped,
		Sources:               c.only,
		SkipSafetySnapshot:    c.noPreSnapshot,
		DryRun:                c.dryRun,
		Accept:                c.accept,
	})
	if r == nil {
		return nil, err
	}
	return &output{r, func(w io.Writer) { c.writeRestoration(w, r) }}, err
}

func recoverRestore(ctx context.Context, c *call) (*output, error) {
	r, err := c.store.Recover(ctx)
	if err != nil {
		return nil, err
	}
	return &output{r, func(w io.Writer) { writeRecovery(w, r) }}, nil
}

func cleanupFlags(flags *flag.FlagSet, o *options) {
	flags.BoolVar(&o.confirm, "confirm", false, "remove them; else nothing is removed")
}

func cleanup(ctx context.Context, c *call) (*output, error) {
	result, err := c.store.Cleanup(ctx, &backup.CleanupOptions{Confirm: c.confirm})
	if result == nil {
		return nil, err
	}
	return &output{result, func(w io.Writer) { writeCleanup(w, result) }}, err
}

func deleteFlags(flags *flag.FlagSet, o *options) {
	flags.BoolVar(&o.confirm, "confirm", false, "say that it may be removed for good")
}

func deleteSnapshot(ctx context.Context, c *call) (*output, error) {
	if !c.confirm {
		return nil, usagef("delete removes %s for good: say so with -confirm", c.stamp)
	}
	err := c.store.Delete(ctx, c.stamp)
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("there is no snapshot %s: %w", c.stamp, err)
	}
	if err != nil {
		return nil, err
	}
	value := struct {
		Stamp   string `json:"stamp"`
		Deleted bool   `json:"deleted"`
	}{c.stamp, true}
	return &output{value, func(w io.Writer) { fmt.Fprintf(w, "deleted %s\n", c.stamp) }}, nil
}
