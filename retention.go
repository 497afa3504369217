package backup

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Retention says which snapshots [Store.Cleanup] keeps. A snapshot is kept
// if any rule keeps it; one that is kept by one rule still counts in the
// others. Calendar and MinKeep are not rules: without one they are refused.
//
// The zero Retention stands for [DefaultRetention] in a [Config], and keeps
// everything in [CleanupOptions] and [Retention.Plan].
type Retention struct {
	Last   int           `json:"last,omitempty"`   // the newest n; negative: all
	Within time.Duration `json:"within,omitempty"` // all that are less than this much older than the newest one

	// The newest snapshot of each of the n newest hours, days, … that have
	// one. Calendar says which days count for Weekly, Monthly and Yearly.
	// A negative n stands for all of them. An hour is what the clock shows:
	// the one that it shows twice when summer time ends is one hour.
	Hourly  int `json:"hourly,omitempty"`
	Daily   int `json:"daily,omitempty"`
	Weekly  int `json:"weekly,omitempty"`
	Monthly int `json:"monthly,omitempty"`
	Yearly  int `json:"yearly,omitempty"`

	Calendar Calendar `json:"calendar,omitempty"`

	// MinKeep is the number of good snapshots that stay whatever the rules
	// say; less than 1 counts as 1.
	MinKeep int `json:"min_keep,omitempty"`
}

// Calendar says what Weekly, Monthly and Yearly mean.
type Calendar int

const (
	// Anchored counts Sundays, firsts of a month and firsts of January that
	// have a snapshot, as the Python module of ATOCore did.
	Anchored Calendar = iota

	// Newest counts ISO weeks, months and years that have a snapshot, as
	// restic does. As in restic since 0.16, each of Hourly to Yearly that
	// finds fewer than its n also keeps the oldest snapshot, so that a young
	// store's history grows to its full length; one without limit always
	// does.
	Newest
)

var calendarNames = []string{"anchored", "newest"}

// String returns "anchored" or "newest".
func (c Calendar) String() string {
	if c.valid() {
		return calendarNames[c]
	}
	return fmt.Sprintf("Calendar(%d)", int(c))
}

func (c Calendar) valid() bool { return c >= 0 && int(c) < len(calendarNames) }

// MarshalText returns what String does.
func (c Calendar) MarshalText() ([]byte, error) {
	if !c.valid() {
		return nil, fmt.Errorf("%v: no such calendar", c)
	}
	return []byte(c.String()), nil
}

// UnmarshalText accepts what String returns.
func (c *Calendar) UnmarshalText(text []byte) error {
	i := slices.Index(calendarNames, string(text))
	if i < 0 {
		return fmt.Errorf("calendar %q: want one of %v", text, calendarNames)
	}
	*c = Calendar(i)
	return nil
}

// DefaultRetention keeps the newest snapshot of each of the 7 newest days, 4
// newest Sundays and 6 newest firsts of a month that have one.
func DefaultRetention() Retention {
	return Retention{Daily: 7, Weekly: 4, Monthly: 6}
}

// hasRules reports whether any rule is set.
func (r Retention) hasRules() bool {
	return r != Retention{Calendar: r.Calendar, MinKeep: r.MinKeep}
}

// validate refuses what can only be a slip.
func (r Retention) validate() error {
	if r.Within < 0 {
		return errors.New("the duration within which all are kept is negative")
	}
	if !r.Calendar.valid() {
		return fmt.Errorf("%v: no such calendar: want Anchored or Newest", r.Calendar)
	}
	if r != (Retention{}) && !r.hasRules() {
		return errors.New("no rule beside Calendar and MinKeep: set Last, Within, Hourly, Daily, Weekly, Monthly or Yearly, or begin with DefaultRetention()")
	}
	return nil
}

// A Decision says what is to become of one snapshot, and why.
type Decision struct {
	Stamp   string   `json:"stamp"`
	Keep    bool     `json:"keep"`
	Reasons []string `json:"reasons"` // never empty; rules first, in the order of Retention's fields
}

const (
	// safetyAge is how long the undo of a restore stays, good or not.
	safetyAge = 7 * 24 * time.Hour

	// incompleteAge is how long an unfinished snapshot stays: somebody whose
	// lock we cannot see, on another machine say, may be writing it.
	incompleteAge = 24 * time.Hour
)

// Plan decides for each snapshot whether r keeps it, as of now, with days
// reckoned in loc (nil: UTC). It is a pure function: it reads no clock, no
// file system, and leaves snapshots as they are. The decisions come newest
// first, whatever the order of snapshots, whose stamps must differ.
//
// Guards may only add keeps: the newest good snapshot, and the newest of each
// source, MinKeep good ones, pinned ones, safety snapshots younger than 7
// days, those dated after now, those in use, those that could not be read, and
// those whose metadata are damaged, or of a later format: they may be pinned.
// Unfinished and invalid snapshots take no slot from a good one, and go only
// when a newer good one exists, newer good ones have each source that they
// captured, and, if unfinished, they are at least 24 hours old. Those dated
// after now take no slot either, and do not pass for the newest good one.
//
// Safety snapshots take no slot: they hold the state that somebody wanted to
// get rid of, and only as much of it as was replaced.
func (r Retention) Plan(snapshots []Snapshot, now time.Time, loc *time.Location) []Decision {
	all := r.judge(snapshots, now, loc)
	decisions := make([]Decision, len(all))
	for i, c := range all {
		decisions[i] = c.decide()
	}
	return decisions
}

// judge gives each snapshot the reasons to keep it, newest first.
func (r Retention) judge(snapshots []Snapshot, now time.Time, loc *time.Location) []candidate {
	all := newestFirst(snapshots, now, loc)
	r.applyRules(all)
	r.applyGuards(all, now)
	return all
}

// A candidate is a snapshot whose decision is being made.
type candidate struct {
	*Snapshot
	at      time.Time // when it was taken, in the location of the calendar
	flaw    string    // why it is not good; "" if it is
	past    bool      // not dated after now
	counts  bool      // takes part in the rules: good, past and no safety snapshot
	keep    []string  // the reasons to keep it
	support bool      // is one of the good ones because of which others may go
}

func newestFirst(snapshots []Snapshot, now time.Time, loc *time.Location) []candidate {
	if loc == nil {
		loc = time.UTC
	}
	all := make([]candidate, len(snapshots))
	for i := range snapshots {
		s := &snapshots[i]
		at := s.CreatedAt
		if at.IsZero() {
			at, _ = parseStamp(s.Stamp) // the zero time if that fails: older than all others
		}
		c := candidate{Snapshot: s, at: at.In(loc), flaw: s.flaw(), past: !at.After(now)}
		c.counts = c.flaw == "" && c.past && s.Origin != OriginPreRestore
		all[i] = c
	}
	slices.SortFunc(all, func(a, b candidate) int {
		return cmp.Or(b.at.Compare(a.at), cmp.Compare(b.Stamp, a.Stamp))
	})
	return all
}

// has reports whether s as a whole, and not one of its sources, has a problem
// of that code.
func (s *Snapshot) has(code Code) bool {
	return slices.ContainsFunc(s.Problems, func(p Problem) bool {
		return p.Code == code && p.Source == ""
	})
}

// flaw says why s is not good, or "".
func (s *Snapshot) flaw() string {
	switch {
	case s.good():
		return ""
	case !s.HasMetadata:
		return "incomplete"
	case len(s.Problems) == 0:
		return "not validated"
	}
	codes := make([]string, len(s.Problems))
	for i, p := range s.Problems {
		codes[i] = string(p.Code)
	}
	slices.Sort(codes)
	return "invalid: " + strings.Join(slices.Compact(codes), ", ")
}

func (c *candidate) decide() Decision {
	d := Decision{Stamp: c.Stamp, Keep: len(c.keep) > 0, Reasons: c.keep}
	switch {
	case d.Keep:
	case c.flaw != "":
		d.Reasons = []string{c.flaw + ", and a newer one is good"}
	default:
		d.Reasons = []string{"no rule keeps it"}
	}
	return d
}

func (r Retention) applyRules(all []candidate) {
	if !r.hasRules() {
		for i := range all {
			all[i].keep = append(all[i].keep, "no rule is set")
		}
		return
	}

	var counting []*candidate
	for i := range all {
		if all[i].counts {
			counting = append(counting, &all[i])
		}
	}
	r.keepRecent(counting)
	for _, rule := range r.slotRules() {
		rule.apply(counting, r.Calendar == Newest)
	}
}

// keepRecent applies Last and Within. Like restic, it measures ages from the
// newest snapshot, not from now: a store that gets no new ones does not melt
// away. Also like restic, one that is exactly Within older is out. A negative
// Within, which only a caller of Plan can still have, keeps all: the safe
// reading of a slip.
func (r Retention) keepRecent(counting []*candidate) {
	last, within := fmt.Sprintf("last %d", r.Last), "within "+r.Within.String()
	if r.Last < 0 {
		last = "last unlimited"
	}
	for i, c := range counting {
		if r.Last < 0 || i < r.Last {
			c.keep = append(c.keep, last)
		}
		if r.Within < 0 || counting[0].at.Sub(c.at) < r.Within {
			c.keep = append(c.keep, within)
		}
	}
}

// A slotRule keeps the newest snapshot in each of the n newest slots.
type slotRule struct {
	name string
	n    int                    // negative: no limit
	slot func(time.Time) string // names the slot; "": none
}

func (r Retention) slotRules() []slotRule {
	hour, day, month, year := formatted("2006-01-02T15"), formatted("2006-01-02"), formatted("2006-01"), formatted("2006")
	week := isoWeek
	if r.Calendar != Newest {
		week = only(day, func(t time.Time) bool { return t.Weekday() == time.Sunday })
		month = only(month, func(t time.Time) bool { return t.Day() == 1 })
		year = only(year, func(t time.Time) bool { return t.YearDay() == 1 })
	}
	return []slotRule{
		{"hourly", r.Hourly, hour},
		{"daily", r.Daily, day},
		{"weekly", r.Weekly, week},
		{"monthly", r.Monthly, month},
		{"yearly", r.Yearly, year},
	}
}

func formatted(layout string) func(time.Time) string {
	return func(t time.Time) string { return t.Format(layout) }
}

// isoWeek names the week with the year that ISO 8601 counts it to: the first
// of January 2027 is in 2026-W53.
func isoWeek(t time.Time) string {
	year, week := t.ISOWeek()
	return fmt.Sprintf("%04d-W%02d", year, week)
}

func only(slot func(time.Time) string, days func(time.Time) bool) func(time.Time) string {
	return func(t time.Time) string {
		if !days(t) {
			return ""
		}
		return slot(t)
	}
}

// apply adds a reason to each of counting that the rule keeps. They come
// newest first, so the first one seen in a slot is its newest. All slots are
// remembered, not only the previous one: where a clock is put back across
// midnight, a day goes on after the next one has begun.
func (rule slotRule) apply(counting []*candidate, keepOldest bool) {
	seen := make(map[string]bool)
	for i, c := range counting {
		if rule.n >= 0 && len(seen) >= rule.n {
			return
		}
		slot := rule.slot(c.at)
		switch {
		case slot == "":
		case !seen[slot]:
			seen[slot] = true
			c.keep = append(c.keep, rule.name+" "+slot)
		case keepOldest && i == len(counting)-1:
			c.keep = append(c.keep, "oldest "+rule.name+" "+slot)
		}
	}
}

// applyGuards adds the reasons that hold whatever the rules say.
func (r Retention) applyGuards(all []candidate, now time.Time) {
	minimum := fmt.Sprintf("minimum of %d good ones", r.MinKeep)
	good := 0        // so far, and so newer than all that follow
	anyGood := false // so far, safety snapshots included
	captured := make(map[string]bool)
	for i := range all {
		c := &all[i]
		newest := c.flaw == "" && c.past && !anyGood
		anyGood = anyGood || newest
		if c.counts {
			good++
		}
		newest = newest || c.counts && good == 1
		c.support = newest || c.counts && good <= r.MinKeep
		age := now.Sub(c.at)
		for _, guard := range []struct {
			holds  bool
			reason string
		}{
			{newest, "newest good"},
			{c.counts && good <= r.MinKeep && r.MinKeep > 1, minimum},
			{c.Pinned, "pinned"},
			{c.Origin == OriginPreRestore && age < safetyAge, "safety snapshot younger than 7 days"},
			{age < 0, "dated in the future"},
			{c.InUse, "in use"},
			{c.has(CodeUnreadable), "could not be read"},
			// Nobody knows whether it is pinned; and a later release may.
			{c.has(CodeMetadataInvalid), "its metadata cannot be read: only Delete removes it"},
			{!c.HasMetadata && age < incompleteAge, "incomplete, and younger than 24h"},
			{c.flaw != "" && good == 0, c.flaw + ", and nothing newer is good"},
		} {
			if guard.holds {
				c.keep = append(c.keep, guard.reason)
			}
		}
		c.keepSources(captured, good)
	}
}

// keepSources keeps the newest good snapshot of each source: what is captured
// on request alone is not in every one. It also keeps flawed ones for as long
// as they may hold the best there is of a source. captured are the sources
// of newer good ones, and good their number, c included. Neither the newest of
// all nor what is older than no good one needs such a reason.
func (c *candidate) keepSources(captured map[string]bool, good int) {
	var alone []string // sources of which no newer good one has a copy
	for _, src := range c.Sources {
		if src.Captured && !captured[src.Name] {
			alone = append(alone, src.Name)
		}
	}
	switch {
	case c.counts:
		for _, name := range alone {
			captured[name], c.support = true, true
			if good > 1 {
				c.keep = append(c.keep, "newest good one with "+name)
			}
		}
	case c.flaw != "" && good > 0 && len(alone) > 0 && c.Origin != OriginPreRestore:
		c.keep = append(c.keep, c.flaw+", and no newer good one has "+strings.Join(alone, ", "))
	}
}
