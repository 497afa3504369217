package backup_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/atocore/backup"
)

// TestPlanRestic compares Newest with what restic did. Each letter of kept
// stands for a snapshot, in the order of times:
//
//	x  kept by restic 0.14.0 and by restic 0.18.1
//	o  kept by restic 0.18.1 only: the oldest, while there are fewer than n
//	.  removed by both
//
// Recorded on 2026-11-23 with the restic 0.14.0 of Debian and a restic 0.18.1
// built from its source, TZ being the zone of the case (Etc/GMT-2 and -1 for
// those in the hour that came twice):
//
//	restic backup --time "2025-04-21 11:00:00" f                       # 0.14.0
//	restic forget --dry-run --json --group-by "" --keep-daily 5        # both
//
// A negative n is the "unlimited" of 0.18.1, which also says which one it
// keeps for being the oldest; 0.14.0 takes -1 for 0.
func TestPlanRestic(t *testing.T) {
	type result struct {
		retention backup.Retention
		kept      string
	}
	for _, tc := range []struct {
		name, zone string
		times      []string
		results    []result
	}{{
		name: "weekdays_and_friday_evenings",
		zone: "UTC",
		times: []string{
			"2025-04-21T11:00:00Z", "2025-04-22T11:00:00Z", "2025-04-23T11:00:00Z", "2025-04-24T11:00:00Z",
			"2025-04-25T11:00:00Z", "2025-04-25T23:00:00Z", "2025-04-28T11:00:00Z", "2025-04-29T11:00:00Z",
			"2025-05-01T11:00:00Z", "2025-05-02T11:00:00Z", "2025-05-02T23:00:00Z",
		},
		results: []result{
			{backup.Retention{Last: 3}, "........xxx"},
			{backup.Retention{Last: 11}, "xxxxxxxxxxx"},
			{backup.Retention{Last: -1}, "xxxxxxxxxxx"},
			{backup.Retention{Within: 12 * time.Hour}, "..........x"},
			{backup.Retention{Within: 84 * time.Hour}, "........xxx"},
			{backup.Retention{Within: 85 * time.Hour}, ".......xxxx"},
			{backup.Retention{Hourly: 4}, ".......xxxx"},
			{backup.Retention{Hourly: 20}, "xxxxxxxxxxx"},
			{backup.Retention{Daily: 5}, ".....xxxx.x"},
			{backup.Retention{Daily: 8}, ".xxx.xxxx.x"},
			{backup.Retention{Daily: 9}, "xxxx.xxxx.x"},
			{backup.Retention{Daily: 20}, "xxxx.xxxx.x"},
			{backup.Retention{Daily: -1}, "xxxx.xxxx.x"},
			{backup.Retention{Weekly: 1}, "..........x"},
			{backup.Retention{Weekly: 2}, ".....x....x"},
			{backup.Retention{Weekly: 5}, "o....x....x"},
			{backup.Retention{Weekly: -1}, "o....x....x"},
			{backup.Retention{Monthly: 1}, "..........x"},
			{backup.Retention{Monthly: 2}, ".......x..x"},
			{backup.Retention{Monthly: 3}, "o......x..x"},
			{backup.Retention{Monthly: -1}, "o......x..x"},
			{backup.Retention{Yearly: 1}, "..........x"},
			{backup.Retention{Yearly: 3}, "o.........x"},
			{backup.Retention{Yearly: -1}, "o.........x"},
			{backup.Retention{Daily: 2, Weekly: 2}, ".....x..x.x"},
			{backup.Retention{Last: 2, Monthly: 3}, "o......x.xx"},
			{backup.Retention{Daily: 3, Weekly: 1, Monthly: 1, Yearly: 1}, ".......xx.x"},
			{backup.Retention{Last: 1, Within: 24 * time.Hour, Yearly: 2}, "o........xx"},
		},
	}, {
		name: "sundays",
		zone: "UTC",
		times: []string{
			"2019-09-01T11:00:00Z", "2019-09-08T11:00:00Z", "2019-09-15T11:00:00Z", "2019-09-22T11:00:00Z",
			"2019-09-29T11:00:00Z", "2019-10-06T11:00:00Z", "2019-10-13T11:00:00Z", "2019-10-20T11:00:00Z",
			"2019-10-27T11:00:00Z", "2019-11-03T11:00:00Z", "2019-11-10T11:00:00Z", "2019-11-17T11:00:00Z",
		},
		results: []result{
			{backup.Retention{Daily: 4}, "........xxxx"},
			{backup.Retention{Weekly: 3}, ".........xxx"},
			{backup.Retention{Weekly: 12}, "xxxxxxxxxxxx"},
			{backup.Retention{Monthly: 2}, "........x..x"},
			{backup.Retention{Monthly: 3}, "....x...x..x"},
			{backup.Retention{Monthly: 4}, "o...x...x..x"},
			{backup.Retention{Monthly: -1}, "o...x...x..x"},
			{backup.Retention{Yearly: 1}, "...........x"},
			{backup.Retention{Daily: 1, Monthly: 2}, "........x..x"},
		},
	}, {
		name: "turn_of_the_year",
		zone: "UTC",
		times: []string{
			"2019-11-30T08:00:00Z", "2019-12-29T23:59:59Z", "2019-12-30T00:00:00Z", "2020-01-01T00:00:00Z",
			"2020-01-05T23:59:59Z", "2020-01-06T00:00:00Z", "2020-12-27T12:00:00Z", "2020-12-31T23:59:59Z",
			"2021-01-01T00:00:00Z", "2021-01-03T23:59:59Z", "2021-01-04T00:00:00Z",
		},
		results: []result{
			{backup.Retention{Last: 4}, ".......xxxx"},
			{backup.Retention{Within: 72 * time.Hour}, ".........xx"},
			{backup.Retention{Within: 73 * time.Hour}, ".......xxxx"},
			{backup.Retention{Hourly: 3}, "........xxx"},
			{backup.Retention{Hourly: -1}, "xxxxxxxxxxx"},
			{backup.Retention{Daily: 3}, "........xxx"},
			{backup.Retention{Weekly: 2}, ".........xx"},
			{backup.Retention{Weekly: 3}, "......x..xx"},
			{backup.Retention{Weekly: 5}, "....xxx..xx"},
			{backup.Retention{Weekly: 9}, "xx..xxx..xx"},
			{backup.Retention{Weekly: -1}, "xx..xxx..xx"},
			{backup.Retention{Monthly: 2}, ".......x..x"},
			{backup.Retention{Monthly: 3}, ".....x.x..x"},
			{backup.Retention{Monthly: 9}, "x.x..x.x..x"},
			{backup.Retention{Yearly: 2}, ".......x..x"},
			{backup.Retention{Yearly: 3}, "..x....x..x"},
			{backup.Retention{Yearly: 9}, "o.x....x..x"},
			{backup.Retention{Yearly: -1}, "o.x....x..x"},
		},
	}, {
		name: "summer_time_ends",
		zone: "Europe/Berlin",
		times: []string{
			"2026-10-24T22:00:00+02:00", "2026-10-25T01:59:59+02:00", "2026-10-25T02:10:00+02:00",
			"2026-10-25T02:50:00+02:00", "2026-10-25T02:05:00+01:00", "2026-10-25T02:30:00+01:00",
			"2026-10-25T03:00:00+01:00", "2026-10-25T23:30:00+01:00", "2026-10-26T00:15:00+01:00",
		},
		results: []result{
			{backup.Retention{Within: 1 * time.Hour}, ".......xx"},
			{backup.Retention{Within: 21 * time.Hour}, ".......xx"},
			{backup.Retention{Within: 24 * time.Hour}, ".xxxxxxxx"},
			{backup.Retention{Hourly: 2}, ".......xx"},
			{backup.Retention{Hourly: 3}, "......xxx"},
			{backup.Retention{Hourly: 4}, ".....xxxx"},
			{backup.Retention{Hourly: 9}, "xx...xxxx"},
			{backup.Retention{Hourly: -1}, "xx...xxxx"},
			{backup.Retention{Daily: 2}, ".......xx"},
			{backup.Retention{Daily: 3}, "x......xx"},
			{backup.Retention{Daily: 9}, "x......xx"},
			{backup.Retention{Weekly: 1}, "........x"},
			{backup.Retention{Weekly: 2}, ".......xx"},
		},
	}, {
		name: "summer_time_begins",
		zone: "Europe/Berlin",
		times: []string{
			"2026-03-28T02:30:00+01:00", "2026-03-29T00:30:00+01:00", "2026-03-29T01:30:00+01:00",
			"2026-03-29T03:00:00+02:00", "2026-03-29T03:30:00+02:00", "2026-03-29T04:00:00+02:00",
			"2026-03-30T02:30:00+02:00",
		},
		results: []result{
			{backup.Retention{Within: 23 * time.Hour}, ".....xx"},
			{backup.Retention{Within: 24 * time.Hour}, "...xxxx"},
			{backup.Retention{Within: 47 * time.Hour}, ".xxxxxx"},
			{backup.Retention{Hourly: 3}, "....xxx"},
			{backup.Retention{Hourly: 4}, "..x.xxx"},
			{backup.Retention{Hourly: 5}, ".xx.xxx"},
			{backup.Retention{Daily: 2}, ".....xx"},
			{backup.Retention{Daily: 3}, "x....xx"},
		},
	}} {
		t.Run(tc.name, func(t *testing.T) {
			var all []backup.Snapshot
			for _, at := range tc.times {
				created, err := time.Parse(time.RFC3339, at)
				if err != nil {
					t.Fatal(err)
				}
				all = append(all, backup.Snapshot{
					Stamp: created.UTC().Format(planStamp), CreatedAt: created, HasMetadata: true, Validated: true,
				})
			}
			now := all[len(all)-1].CreatedAt.AddDate(1, 0, 0)
			for _, result := range tc.results {
				r := result.retention
				r.Calendar = backup.Newest
				got := resticLetters(r.Plan(all, now, planLocation(t, tc.zone)))
				if got != result.kept {
					t.Errorf("%+v\n got %s\nwant %s", result.retention, got, result.kept)
				}
			}
		})
	}
}

// resticLetters renders decisions oldest first, as TestPlanRestic has them.
func resticLetters(decisions []backup.Decision) string {
	var b strings.Builder
	for _, d := range slices.Backward(decisions) {
		onlyOldest := !slices.ContainsFunc(d.Reasons, func(r string) bool { return !strings.HasPrefix(r, "oldest ") })
		switch {
		case !d.Keep:
			b.WriteByte('.')
		case onlyOldest:
			b.WriteByte('o')
		default:
			b.WriteByte('x')
		}
	}
	return b.String()
}

// The examples of restic's manual, chapter "Removing snapshots according to a
// policy" of 0.18.
func TestPlanResticManual(t *testing.T) {
	t.Run("days_without_a_snapshot_do_not_count", func(t *testing.T) {
		all := planSnapshots(t,
			"20250421T110000Z", "20250422T110000Z", "20250423T110000Z", "20250424T110000Z",
			"20250425T110000Z", "20250425T230000Z", "20250428T110000Z", "20250429T110000Z",
			"20250501T110000Z", "20250502T110000Z", "20250502T230000Z")
		got := keptStamps(backup.Retention{Daily: 5, Calendar: backup.Newest}.Plan(all, planNow, nil))
		want := []string{"20250502T230000Z", "20250501T110000Z", "20250429T110000Z", "20250428T110000Z", "20250425T230000Z"}
		if diff := cmp.Diff(got, want); diff != "" {
			t.Errorf("kept (-got +want):\n%s", diff)
		}
	})

	t.Run("a_weekly_rhythm_makes_a_daily_rule_a_weekly_one", func(t *testing.T) {
		all := planSnapshots(t,
			"20190901T110000Z", "20190908T110000Z", "20190915T110000Z", "20190922T110000Z", "20190929T110000Z", "20191006T110000Z",
			"20191013T110000Z", "20191020T110000Z", "20191027T110000Z", "20191103T110000Z", "20191110T110000Z", "20191117T110000Z")
		got := keptStamps(backup.Retention{Daily: 4, Calendar: backup.Newest}.Plan(all, planNow, nil))
		want := []string{"20191117T110000Z", "20191110T110000Z", "20191103T110000Z", "20191027T110000Z"}
		if diff := cmp.Diff(got, want); diff != "" {
			t.Errorf("kept (-got +want):\n%s", diff)
		}
	})

	// "Suppose you make one backup every day for 100 years": of the 7 dailies
	// one is a weekly and, on this Sunday in mid-month, the same one is the
	// newest monthly and yearly; 4, 11 and 74 more are the last of their week,
	// month and year, one of them of both a month and a year.
	t.Run("a_backup_a_day_for_a_hundred_years", func(t *testing.T) {
		end := time.Date(2026, time.March, 22, 12, 0, 0, 0, time.UTC)
		var all []backup.Snapshot
		for day := end.AddDate(-100, 0, 0); !day.After(end); day = day.AddDate(0, 0, 1) {
			all = append(all, planSnapshots(t, day.Format(planStamp))...)
		}
		r := backup.Retention{Daily: 7, Weekly: 5, Monthly: 12, Yearly: 75, Calendar: backup.Newest}
		got := make(map[string]int)
		for i, d := range r.Plan(all, end, nil) {
			if !d.Keep {
				continue
			}
			got["snapshots"]++
			day, err := time.Parse(planStamp, d.Stamp)
			if err != nil {
				t.Fatal(err)
			}
			next := day.AddDate(0, 0, 1)
			isLast := map[string]bool{
				"daily": true, "weekly": next.Weekday() == time.Monday, "monthly": next.Day() == 1, "yearly": next.YearDay() == 1,
			}
			for _, reason := range d.Reasons {
				rule, _, _ := strings.Cut(reason, " ")
				got[rule]++
				if i > 0 && !isLast[rule] {
					t.Errorf("%s is kept for %q, and is not the last day of that", d.Stamp, reason)
				}
			}
		}
		want := map[string]int{"snapshots": 7 + 4 + 11 + 74 - 1, "daily": 7, "weekly": 5, "monthly": 12, "yearly": 75, "newest": 1}
		if diff := cmp.Diff(got, want); diff != "" {
			t.Errorf("kept (-got +want):\n%s", diff)
		}
	})

	// restic issue 3624: with yearly backups wanted and a start in March, the
	// start stays until there are n years.
	t.Run("the_first_backup_of_all_stays_until_there_are_enough", func(t *testing.T) {
		all := planSnapshots(t, "20240301T100000Z", "20240601T100000Z", "20241231T100000Z", "20250601T100000Z")
		for n, want := range map[int][]string{
			2: {"20250601T100000Z", "20241231T100000Z"},
			3: {"20250601T100000Z", "20241231T100000Z", "20240301T100000Z"},
		} {
			got := keptStamps(backup.Retention{Yearly: n, Calendar: backup.Newest}.Plan(all, planNow, nil))
			if diff := cmp.Diff(got, want); diff != "" {
				t.Errorf("yearly %d: kept (-got +want):\n%s", n, diff)
			}
		}
	})
}

func keptStamps(decisions []backup.Decision) []string {
	var stamps []string
	for _, d := range decisions {
		if d.Keep {
			stamps = append(stamps, d.Stamp)
		}
	}
	return stamps
}
