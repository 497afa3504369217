package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/atocore/backup"
)

// options are what the command line says behind the verb.
type options struct {
	configFile string
	overrides  []func(*settings) // of what the file says, in order
	json       bool
	stamp      string

	include, only   []string
	accept          []backup.Code
	level           backup.Level
	labels          map[string]string
	pin             bool
	scheduled       bool
	confirm         bool
	serviceStopped  bool
	noPreSnapshot   bool
	dryRun          bool
	sourcesFromFlag []string
}

// parse reads the arguments of a verb. Package flag stops at the first one
// that is no flag, which for us is the STAMP: flags may follow it.
func parse(v *verb, args []string) (*options, error) {
	o := &options{labels: make(map[string]string)}
	flags := newFlagSet(v.name)
	o.settingFlags(flags)
	o.verbFlags(flags, v)
	var operands []string
	for {
		err := flags.Parse(args)
		if errors.Is(err, flag.ErrHelp) {
			return nil, err
		}
		if err != nil {
			return nil, usagef("%s: %w", v.name, err)
		}
		if flags.NArg() == 0 {
			break
		}
		operands = append(operands, flags.Arg(0))
		args = flags.Args()[1:]
	}
	return o, o.setStamp(v, operands)
}

func newFlagSet(name string) *flag.FlagSet {
	flags := flag.NewFlagSet(name, flag.ContinueOnError)
	flags.SetOutput(io.Discard) // errors are returned, and printed once
	return flags
}

func (o *options) setStamp(v *verb, operands []string) error {
	switch {
	case v.stamp == noStamp && len(operands) > 0:
		return usagef("%s: unexpected argument %q", v.name, operands[0])
	case v.stamp == noStamp:
		return nil
	case len(operands) != 1:
		return usagef("%s: want one STAMP, as \"atobackup list\" shows them, and not %d", v.name, len(operands))
	case v.stamp == exactStamp && operands[0] == latest:
		return usagef("%s: want the STAMP itself: what is latest changes with every snapshot", v.name)
	}
	o.stamp = operands[0]
	return nil
}

// verbFlags defines the flags of one verb.
func (o *options) verbFlags(flags *flag.FlagSet, v *verb) {
	flags.BoolVar(&o.json, "json", false, "print one JSON object instead of a table")
	if v.flags != nil {
		v.flags(flags, o)
	}
}

// settingFlags defines the flags that stand for, and win over, what the
// configuration file says.
func (o *options) settingFlags(flags *flag.FlagSet) {
	flags.StringVar(&o.configFile, "config", "", "read the settings from `FILE`")
	o.setting(flags, "dir", "keep snapshots in `DIR`", func(value string) (func(*settings), error) {
		return func(s *settings) { s.Dir = value }, nil
	})
	o.setting(flags, "source", "back up `SOURCE`: name=NAME,kind=database|file|tree,path=PATH[,optional][,on_request][,link_unchanged] (repeatable)", o.sourceSetting)
	o.setting(flags, "location", "reckon days in the time zone `NAME`, such as Europe/Berlin", func(value string) (func(*settings), error) {
		return func(s *settings) { s.Location = value }, nil
	})
	o.setting(flags, "busy-timeout", "wait `DURATION` for a locked database", func(value string) (func(*settings), error) {
		var d duration
		err := d.UnmarshalText([]byte(value))
		return func(s *settings) { s.BusyTimeout = d }, err
	})
	o.setting(flags, "keep-within", "keep all that are less than `DURATION` older than the newest, such as 48h or 30d", func(value string) (func(*settings), error) {
		var d duration
		err := d.UnmarshalText([]byte(value))
		return func(s *settings) { s.Retention.Within = &d }, err
	})
	o.setting(flags, "calendar", "take weeks, months and years as `WORD`: anchored or newest", func(value string) (func(*settings), error) {
		var c backup.Calendar
		err := c.UnmarshalText([]byte(value))
		return func(s *settings) { s.Retention.Calendar = c }, err
	})
	o.countFlags(flags)
}

// countFlags defines the flags of the retention that are numbers.
func (o *options) countFlags(flags *flag.FlagSet) {
	for _, f := range []struct {
		name, help string
		set        func(r *retention, n *int)
	}{
		{"keep-last", "keep the newest `N` (-1: all)", func(r *retention, n *int) { r.Last = n }},
		{"keep-hourly", "keep one of each of `N` hours", func(r *retention, n *int) { r.Hourly = n }},
		{"keep-daily", "keep one of each of `N` days", func(r *retention, n *int) { r.Daily = n }},
		{"keep-weekly", "keep one of each of `N` weeks", func(r *retention, n *int) { r.Weekly = n }},
		{"keep-monthly", "keep one of each of `N` months", func(r *retention, n *int) { r.Monthly = n }},
		{"keep-yearly", "keep one of each of `N` years", func(r *retention, n *int) { r.Yearly = n }},
		{"min-keep", "keep `N` good ones whatever the rules say", func(r *retention, n *int) { r.MinKeep = *n }},
	} {
		o.setting(flags, f.name, f.help, func(value string) (func(*settings), error) {
			n, err := strconv.Atoi(value)
			if err != nil {
				err = errors.New("want a whole number")
			}
			return func(s *settings) { f.set(&s.Retention, &n) }, err
		})
	}
}

// setting defines a flag whose value, once parsed, overrides something in
// the file, which has not been read by then.
func (o *options) setting(flags *flag.FlagSet, name, help string, parse func(value string) (func(*settings), error)) {
	flags.Func(name, help, func(value string) error {
		override, err := parse(value)
		if err == nil {
			o.overrides = append(o.overrides, override)
		}
		return err
	})
}

func (o *options) sourceSetting(value string) (func(*settings), error) {
	src, err := parseSource(value)
	if err != nil {
		return nil, err
	}
	if slices.Contains(o.sourcesFromFlag, src.Name) {
		return nil, fmt.Errorf("source %q is there twice", src.Name)
	}
	o.sourcesFromFlag = append(o.sourcesFromFlag, src.Name)
	return func(s *settings) { s.setSource(src) }, nil
}

// repeated defines a flag that may be given several times.
func repeated(flags *flag.FlagSet, to *[]string, name, help string) {
	flags.Func(name, help+" (repeatable)", func(value string) error {
		*to = append(*to, value)
		return nil
	})
}

func (o *options) addLabel(value string) error {
	key, text, ok := strings.Cut(value, "=")
	if _, twice := o.labels[key]; !ok || key == "" || twice {
		return errors.New("want KEY=TEXT, each KEY once")
	}
	o.labels[key] = text
	return nil
}

// acceptable are the codes that a restore may be told to accept; see
// [backup.RestoreOptions]. To accept others would be of no avail: what is
// missing cannot be restored.
var acceptable = []backup.Code{
	backup.CodeFileChanged, backup.CodeFileVanished, backup.CodeRawCopy, backup.CodeDatabaseCorrupt, backup.CodeCheckFailed,
}

func (o *options) addAccepted(value string) error {
	if !slices.Contains(acceptable, backup.Code(value)) {
		return fmt.Errorf("want one of %v", acceptable)
	}
	o.accept = append(o.accept, backup.Code(value))
	return nil
}

// usage is the help on one verb.
func (v *verb) usage() string {
	var b strings.Builder
	ofVerb, ofSettings := newFlagSet(v.name), newFlagSet(v.name)
	new(options).verbFlags(ofVerb, v)
	new(options).settingFlags(ofSettings)
	fmt.Fprintf(&b, "usage: atobackup %s -config FILE [flags]%s\n\n%s\n\nflags:\n", v.name, v.stamp.operand(), v.summary)
	writeFlags(&b, ofVerb)
	b.WriteString("\nsettings, which win over those in the file:\n")
	writeFlags(&b, ofSettings)
	return b.String()
}

func writeFlags(w io.Writer, flags *flag.FlagSet) {
	t := table(w)
	flags.VisitAll(func(f *flag.Flag) {
		value, help := flag.UnquoteUsage(f)
		fmt.Fprintf(t, "  -%s\t%s\n", strings.TrimSpace(f.Name+" "+value), help)
	})
	t.Flush()
}
