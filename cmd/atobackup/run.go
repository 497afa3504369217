package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/atocore/backup"
)

// Exit codes; the package comment says more.
const (
	exitDone    = 0
	exitFailed  = 1
	exitUsage   = 2
	exitInvalid = 3
)

// A program is one run of the command.
type program struct {
	stdout   io.Writer
	stderr   io.Writer
	terminal bool // stderr is one: draw a progress bar
	now      func() time.Time
}

// An output is what a verb has to tell, for programs and for people.
type output struct {
	value any // becomes a JSON object
	text  func(io.Writer)
}

// A usageError is a mistake on the command line or in the configuration.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func usagef(format string, args ...any) error {
	return usageError{fmt.Errorf(format, args...)}
}

// run does what args, without the program's name, say, and returns the exit
// code.
func (p *program) run(ctx context.Context, args []string) int {
	if len(args) == 0 {
		fmt.Fprint(p.stderr, usage())
		return exitUsage
	}
	switch args[0] {
	case "help", "-h", "-help", "--help":
		return p.help(args[1:])
	}
	v, err := findVerb(args[0])
	if err != nil {
		return p.report(nil, err, wantsJSON(args))
	}
	o, err := parse(v, args[1:])
	if errors.Is(err, flag.ErrHelp) {
		return p.help(args[:1])
	}
	if err != nil {
		return p.report(nil, err, wantsJSON(args))
	}
	out, err := p.call(ctx, v, o)
	return p.report(out, err, o.json)
}

// wantsJSON reads -json off arguments that could not be parsed.
func wantsJSON(args []string) bool {
	for _, arg := range args {
		name, value, given := strings.Cut(arg, "=")
		if name == "-json" || name == "--json" {
			wants, err := strconv.ParseBool(value)
			return !given || err == nil && wants
		}
	}
	return false
}

// help prints what there is to know about the verb that args name or, if
// there is none, about all.
func (p *program) help(args []string) int {
	text := usage()
	if len(args) > 0 {
		v, err := findVerb(args[0])
		if err != nil {
			return p.report(nil, err, wantsJSON(args))
		}
		text = v.usage()
	}
	return p.report(&output{text: func(w io.Writer) { io.WriteString(w, text) }}, nil, false)
}

// call runs a verb on the store that the configuration describes.
func (p *program) call(ctx context.Context, v *verb, o *options) (*output, error) {
	cfg, err := o.config()
	if err != nil {
		return nil, err
	}
	cfg.Now = p.now
	if p.terminal {
		b := &bar{w: p.stderr, now: p.now}
		defer b.erase()
		cfg.Progress = b.draw
	}
	store, err := backup.New(cfg)
	if err != nil {
		return nil, usageError{err}
	}
	c := &call{options: o, store: store, sources: cfg.Sources, now: p.now(), stderr: p.stderr}
	out, err := c.run(ctx, v)
	if err != nil && ctx.Err() != nil {
		err = fmt.Errorf("%w: %w", context.Cause(ctx), err)
	}
	return out, err
}

// report prints the outcome and returns the exit code.
func (p *program) report(out *output, err error, asJSON bool) int {
	var text []byte
	switch {
	case asJSON:
		text = document(out, err)
	case out != nil:
		var b bytes.Buffer
		out.text(&b)
		text = []byte(printable(b.String()))
	}
	if _, writeErr := p.stdout.Write(text); writeErr != nil {
		err = errors.Join(err, fmt.Errorf("print the outcome: %w", writeErr))
	}
	if err != nil {
		fmt.Fprintf(p.stderr, "atobackup: %s\n", printable(message(err)))
		if a := advice(err); a != "" {
			fmt.Fprintf(p.stderr, "atobackup: %s\n", a)
		}
	}
	return exitCode(err)
}

// document is the JSON form of an outcome, with a key "error" if there was
// one.
func document(out *output, err error) []byte {
	var value any
	if out != nil {
		value = out.value
	}
	if err != nil {
		fields := make(map[string]json.RawMessage)
		if out != nil {
			json.Unmarshal(encode(value), &fields) // a type of ours: it is an object
		}
		fields["error"] = encode(message(err))
		value = fields
	}
	return encode(value)
}

// encode returns the JSON of a value of ours, which always has one.
func encode(value any) []byte {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(value); err != nil {
		panic(err)
	}
	return b.Bytes()
}

func message(err error) string {
	return strings.TrimPrefix(err.Error(), "backup: ") // our own name goes before it
}

func exitCode(err error) int {
	_, isUsage := errors.AsType[usageError](err)
	switch {
	case err == nil:
		return exitDone
	case isUsage, errors.Is(err, backup.ErrInvalidStamp), errors.Is(err, backup.ErrUnknownSource):
		return exitUsage
	case errors.Is(err, backup.ErrInvalidSnapshot):
		return exitInvalid
	}
	return exitFailed
}

// advice says what to do about an error, or "".
func advice(err error) string {
	_, isUsage := errors.AsType[usageError](err)
	is := func(target error) bool { return errors.Is(err, target) }
	switch {
	case isUsage:
		return "\"atobackup help\" says how it is used"
	case is(context.Canceled):
		return "interrupted before it was done"
	case is(backup.ErrRecoveryPending):
		return "before the service starts, run: atobackup recover"
	case is(backup.ErrServiceRunning):
		return "stop everything that has the database open, and try again"
	case is(backup.ErrBusy):
		return "somebody else is at work on it: try again later, or wait longer for a database with -busy-timeout"
	case is(backup.ErrNoSpace):
		return "make room; \"atobackup cleanup\" shows which snapshots may go"
	case is(backup.ErrDurabilityUnknown):
		return "it is in place, but may not survive a power cut: look after the disk, and do it again"
	case is(backup.ErrInvalidStamp), is(backup.ErrUnknownSource):
		return "\"atobackup list\" shows the snapshots there are, and what they captured"
	case slices.ContainsFunc(acceptable, func(c backup.Code) bool { return is(c) }):
		return fmt.Sprintf("\"atobackup list\" shows the others; in spite of %v, where the copy was so from the beginning, restore goes ahead with -accept CODE", acceptable)
	case is(backup.ErrInvalidSnapshot):
		return "\"atobackup list\" shows the others; \"atobackup validate\" tells whether one is good"
	case is(fs.ErrNotExist):
		return "compare the paths with the configuration (a source that may be missing is to be \"optional\"), and STAMP with \"atobackup list\""
	case is(fs.ErrPermission):
		return "run it as a user who may read the sources and write to dir"
	}
	return ""
}
