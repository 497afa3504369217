package backup_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/atocore/backup"
)

// TestPlanOracle compares Plan with the definitions of its rules and guards,
// each looked up by scanning all snapshots anew.
func TestPlanOracle(t *testing.T) {
	t.Parallel()
	zones := []*time.Location{nil}
	for _, name := range []string{"UTC", "Europe/Berlin", "America/St_Johns", "Asia/Kathmandu", "Australia/Lord_Howe", "Pacific/Apia"} {
		zones = append(zones, planLocation(t, name))
	}
	seen := make(map[string]bool) // kinds of reasons
	for seed := range uint64(3000) {
		rng := rand.New(rand.NewPCG(seed, 26))
		loc := zones[rng.IntN(len(zones))]
		all := randomPlanInput(rng, rng.IntN(30), loc)
		r := randomRetention(rng)
		want := planOracle{r, all, planNow, loc, make(map[[2]string]string)}.decisions()
		for i := range want {
			for _, reason := range want[i].Reasons {
				seen[reasonKind(reason)] = true
			}
		}
		got := r.Plan(all, planNow, loc)
		for i := range got {
			slices.Sort(got[i].Reasons) // their order is the business of the other tests
		}
		if diff := cmp.Diff(got, want); diff != "" {
			t.Fatalf("seed %d, %+v in %v (-got +want):\n%s", seed, r, loc, diff)
		}
	}
	t.Logf("kinds of reasons: %d", len(seen))
	for _, kind := range []string{
		"last", "within", "hourly", "daily", "weekly", "monthly", "yearly",
		"oldest hourly", "oldest daily", "oldest weekly", "oldest monthly", "oldest yearly",
		"no rule is set", "no rule keeps it", "newest good", "minimum", "pinned", "safety", "dated", "in use",
		"incomplete, and younger than 24h", "incomplete, and nothing newer is good", "incomplete, and a newer one is good",
		"invalid: check_failed, db_corrupt, and nothing newer is good", "invalid: check_failed, db_corrupt, and a newer one is good",
		"not validated, and nothing newer is good", "not validated, and a newer one is good",
		"could not be read", "its metadata cannot be read: only Delete removes it", "invalid: metadata_invalid, and nothing newer is good",
		"invalid: check_failed, db_corrupt, and no newer good one has db, chroma", "not validated, and no newer good one has chroma",
	} {
		if !seen[kind] {
			t.Errorf("no seed led to a reason of the kind %q", kind)
		}
	}
}

// reasonKind cuts off what differs between reasons of one kind.
func reasonKind(reason string) string {
	if rest, ok := strings.CutPrefix(reason, "oldest "); ok {
		return "oldest " + reasonKind(rest)
	}
	switch word, _, _ := strings.Cut(reason, " "); word {
	case "last", "within", "hourly", "daily", "weekly", "monthly", "yearly", "minimum", "safety", "dated":
		return word
	}
	return reason
}

// randomPlanInput returns n snapshots before and a few after planNow, on a
// grid that makes them meet each other and the edges of slots and guards.
func randomPlanInput(rng *rand.Rand, n int, loc *time.Location) []backup.Snapshot {
	if loc == nil {
		loc = time.UTC
	}
	steps := []time.Duration{10 * time.Minute, 30 * time.Minute, 3 * time.Hour, 12 * time.Hour, 24 * time.Hour, 8 * 24 * time.Hour, 60 * 24 * time.Hour}
	step := steps[rng.IntN(len(steps))]
	end := planNow.Add(3 * step)
	if rng.IntN(3) == 0 { // a time when the clocks of some location were changed
		ends := []time.Time{
			time.Date(2025, 10, 26, 3, 0, 0, 0, time.UTC),
			time.Date(2009, 11, 1, 5, 0, 0, 0, time.UTC),
			time.Date(2026, 4, 4, 18, 0, 0, 0, time.UTC),
			time.Date(2011, 12, 31, 0, 0, 0, 0, time.UTC),
		}
		end = ends[rng.IntN(len(ends))]
	}
	all := make([]backup.Snapshot, n)
	for i := range all {
		at := end.Add(-time.Duration(rng.IntN(40)) * step)
		if rng.IntN(4) == 0 { // midnight, often of a Sunday or a first
			y, m, d := at.Date()
			if rng.IntN(2) == 0 {
				d = 1
			}
			if rng.IntN(2) == 0 {
				m = 1
			}
			at = time.Date(y, m, d, 0, 0, 0, 0, loc)
		}
		s := backup.Snapshot{
			Stamp:       at.Add(time.Duration(i) * time.Second).UTC().Format(planStamp), // differs from the others'
			CreatedAt:   at,
			HasMetadata: rng.IntN(8) > 0,
			Validated:   rng.IntN(8) > 0,
			Pinned:      rng.IntN(12) == 0,
			InUse:       rng.IntN(12) == 0,
			Origin:      []string{backup.OriginManual, backup.OriginScheduled, backup.OriginPreRestore, backup.OriginATOCore}[rng.IntN(4)],
		}
		for _, name := range []string{"db", "chroma"} {
			s.Sources = append(s.Sources, backup.SourceState{Name: name, Captured: rng.IntN(4) == 0})
		}
		if rng.IntN(8) == 0 {
			s.Problems = []backup.Problem{{Code: backup.CodeDatabaseCorrupt}, {Code: backup.CodeCheckFailed}}
		} else if rng.IntN(12) == 0 {
			s.Problems = []backup.Problem{{Code: []backup.Code{backup.CodeMetadataInvalid, backup.CodeUnreadable}[rng.IntN(2)]}}
		}
		if rng.IntN(8) == 0 {
			s.CreatedAt = time.Time{}
		}
		all[i] = s
	}
	return all
}

func randomRetention(rng *rand.Rand) backup.Retention {
	n := func() int { return max(0, rng.IntN(9)-4) }
	r := backup.Retention{
		Last: n(), Hourly: n(), Daily: n(), Weekly: n(), Monthly: n(), Yearly: n(),
		Calendar: backup.Calendar(rng.IntN(2)),
		MinKeep:  rng.IntN(5) - 1,
	}
	if rng.IntN(3) == 0 {
		r.Within = time.Duration(rng.IntN(200)) * 30 * time.Minute
	}
	for _, field := range []*int{&r.Last, &r.Hourly, &r.Daily, &r.Weekly, &r.Monthly, &r.Yearly} {
		if rng.IntN(20) == 0 {
			*field = -1 - rng.IntN(3)
		}
	}
	return r
}

type planOracle struct {
	r   backup.Retention
	all []backup.Snapshot
	now time.Time
	loc *time.Location

	slots map[[2]string]string // by rule and stamp, to look up what is asked for over and over
}

func (o planOracle) decisions() []backup.Decision {
	got := make([]backup.Decision, len(o.all))
	for _, s := range o.all {
		rank := 0
		for _, other := range o.all {
			if o.newer(other, s) {
				rank++
			}
		}
		keep := append(o.rules(s), o.guards(s)...)
		d := backup.Decision{Stamp: s.Stamp, Keep: len(keep) > 0, Reasons: keep}
		if !d.Keep {
			d.Reasons = []string{"no rule keeps it"}
			if flaw := o.flaw(s); flaw != "" {
				d.Reasons = []string{flaw + ", and a newer one is good"}
			}
		}
		slices.Sort(d.Reasons)
		got[rank] = d
	}
	return got
}

func (o planOracle) at(s backup.Snapshot) time.Time {
	if !s.CreatedAt.IsZero() {
		return s.CreatedAt
	}
	at, err := time.Parse(planStamp, s.Stamp)
	if err != nil {
		panic(err)
	}
	return at
}

func (o planOracle) newer(a, b backup.Snapshot) bool {
	if o.at(a).Equal(o.at(b)) {
		return a.Stamp > b.Stamp
	}
	return o.at(a).After(o.at(b))
}

func (o planOracle) flaw(s backup.Snapshot) string {
	if !s.HasMetadata {
		return "incomplete"
	}
	if len(s.Problems) == 2 {
		return "invalid: check_failed, db_corrupt"
	}
	if len(s.Problems) == 1 {
		return "invalid: " + string(s.Problems[0].Code)
	}
	if !s.Validated && s.Origin != "atocore" {
		return "not validated"
	}
	return ""
}

func (o planOracle) takesPart(s backup.Snapshot) bool {
	return o.isPastGood(s) && s.Origin != "pre_restore"
}

func (o planOracle) isPastGood(s backup.Snapshot) bool {
	return o.flaw(s) == "" && !o.now.Before(o.at(s))
}

func (o planOracle) slot(rule string, s backup.Snapshot) string {
	key := [2]string{rule, s.Stamp}
	name, ok := o.slots[key]
	if !ok {
		name = o.nameSlot(rule, s)
		o.slots[key] = name
	}
	return name
}

// nameSlot returns the name that the rule has for the slot of s, if it has
// one.
func (o planOracle) nameSlot(rule string, s backup.Snapshot) string {
	t := o.at(s).UTC()
	if o.loc != nil {
		t = o.at(s).In(o.loc)
	}
	y, m, d := t.Date()
	anchored := o.r.Calendar == backup.Anchored
	switch {
	case rule == "hourly":
		return fmt.Sprintf("%d-%02d-%02dT%02d", y, m, d, t.Hour())
	case rule == "daily", rule == "weekly" && anchored && t.Weekday() == 0:
		return fmt.Sprintf("%d-%02d-%02d", y, m, d)
	case rule == "weekly" && !anchored: // a week belongs to the year of its Thursday
		thursday := time.Date(y, m, d+3-(int(t.Weekday())+6)%7, 0, 0, 0, 0, time.UTC)
		return fmt.Sprintf("%d-W%02d", thursday.Year(), (thursday.YearDay()+6)/7)
	case rule == "monthly" && (!anchored || d == 1):
		return fmt.Sprintf("%d-%02d", y, m)
	case rule == "yearly" && (!anchored || d == 1 && m == 1):
		return fmt.Sprintf("%d", y)
	}
	return ""
}

func (o planOracle) rules(s backup.Snapshot) (keep []string) {
	r := o.r
	if r.Last == 0 && r.Within == 0 && r.Hourly == 0 && r.Daily == 0 && r.Weekly == 0 && r.Monthly == 0 && r.Yearly == 0 {
		return []string{"no rule is set"}
	}
	if !o.takesPart(s) {
		return nil
	}
	newer, oldest, newest := 0, true, s
	for _, other := range o.all {
		if !o.takesPart(other) {
			continue
		}
		if o.newer(other, s) {
			newer++
		}
		if o.newer(s, other) {
			oldest = false
		}
		if o.newer(other, newest) {
			newest = other
		}
	}
	if r.Last < 0 {
		keep = append(keep, "last unlimited")
	} else if newer < r.Last {
		keep = append(keep, fmt.Sprintf("last %d", r.Last))
	}
	if o.at(s).After(o.at(newest).Add(-r.Within)) {
		keep = append(keep, "within "+r.Within.String())
	}
	for rule, n := range map[string]int{"hourly": r.Hourly, "daily": r.Daily, "weekly": r.Weekly, "monthly": r.Monthly, "yearly": r.Yearly} {
		slot := o.slot(rule, s)
		slots := make(map[string]bool) // of the newer ones
		for _, other := range o.all {
			if o.takesPart(other) && o.newer(other, s) && o.slot(rule, other) != "" {
				slots[o.slot(rule, other)] = true
			}
		}
		roomLeft := n < 0 || len(slots) < n
		if slot != "" && roomLeft && !slots[slot] {
			keep = append(keep, rule+" "+slot)
		}
		if slot != "" && roomLeft && slots[slot] && oldest && r.Calendar == backup.Newest {
			keep = append(keep, "oldest "+rule+" "+slot)
		}
	}
	return keep
}

func (o planOracle) guards(s backup.Snapshot) (keep []string) {
	good := 0 // newer ones that are good and not of the future
	for _, other := range o.all {
		if o.takesPart(other) && o.newer(other, s) {
			good++
		}
	}
	day := 24 * time.Hour
	newerGood := slices.ContainsFunc(o.all, func(other backup.Snapshot) bool {
		return o.isPastGood(other) && o.newer(other, s)
	})
	if o.takesPart(s) && good == 0 || o.isPastGood(s) && !newerGood {
		keep = append(keep, "newest good")
	}
	if o.takesPart(s) && o.r.MinKeep > 1 && good < o.r.MinKeep {
		keep = append(keep, fmt.Sprintf("minimum of %d good ones", o.r.MinKeep))
	}
	if s.Pinned {
		keep = append(keep, "pinned")
	}
	if s.Origin == "pre_restore" && o.at(s).Add(7*day).After(o.now) {
		keep = append(keep, "safety snapshot younger than 7 days")
	}
	if o.at(s).After(o.now) {
		keep = append(keep, "dated in the future")
	}
	if s.InUse {
		keep = append(keep, "in use")
	}
	if len(s.Problems) == 1 && s.Problems[0].Code == "metadata_invalid" {
		keep = append(keep, "its metadata cannot be read: only Delete removes it")
	}
	if len(s.Problems) == 1 && s.Problems[0].Code == "unreadable" {
		keep = append(keep, "could not be read")
	}
	if !s.HasMetadata && o.at(s).Add(day).After(o.now) {
		keep = append(keep, "incomplete, and younger than 24h")
	}
	if flaw := o.flaw(s); flaw != "" && good == 0 {
		keep = append(keep, flaw+", and nothing newer is good")
	}
	var alone []string // sources of which no newer good one has a copy
	for _, name := range []string{"db", "chroma"} {
		if o.newerGoodHas(s, name) || good == 0 {
			continue
		}
		if o.takesPart(s) {
			keep = append(keep, "newest good one with "+name)
		}
		alone = append(alone, name)
	}
	if flaw := o.flaw(s); flaw != "" && len(alone) > 0 && s.Origin != "pre_restore" {
		keep = append(keep, flaw+", and no newer good one has "+strings.Join(alone, ", "))
	}
	return keep
}

// newerGoodHas reports whether there is nothing of a source in s, or a newer
// good one has it too.
func (o planOracle) newerGoodHas(s backup.Snapshot, name string) bool {
	if src, ok := s.Source(name); !ok || !src.Captured {
		return true
	}
	return slices.ContainsFunc(o.all, func(other backup.Snapshot) bool {
		src, ok := other.Source(name)
		return ok && src.Captured && o.takesPart(other) && o.newer(other, s)
	})
}
