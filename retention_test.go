package backup_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
	_ "time/tzdata" // the cases must not depend on what the machine has

	"github.com/google/go-cmp/cmp"

	"github.com/atocore/backup"
)

const planStamp = "20060102T150405Z"

// planSnapshots builds one snapshot per line: its stamp, then words that make it
// other than good, manual and created when the stamp says.
func planSnapshots(t testing.TB, lines ...string) []backup.Snapshot {
	t.Helper()
	var all []backup.Snapshot
	for _, line := range lines {
		stamp, words, _ := strings.Cut(line, " ")
		at, _ := time.Parse(planStamp, stamp) // some stamps are not valid on purpose
		s := backup.Snapshot{
			Stamp:       stamp,
			CreatedAt:   at,
			HasMetadata: true,
			Validated:   true,
			Origin:      backup.OriginManual,
		}
		for word := range strings.FieldsSeq(words) {
			planWord(t, &s, word)
		}
		all = append(all, s)
	}
	return all
}

func planWord(t testing.TB, s *backup.Snapshot, word string) {
	t.Helper()
	word, value, _ := strings.Cut(word, "=")
	switch word {
	case "at":
		at, err := time.Parse(time.RFC3339, value)
		if err != nil {
			t.Fatal(err)
		}
		s.CreatedAt = at
	case "undated":
		s.CreatedAt = time.Time{}
	case "incomplete":
		s.HasMetadata, s.Validated = false, false
	case "unvalidated":
		s.Validated = false
	case "problem":
		s.Validated = false
		s.Problems = append(s.Problems, backup.Problem{Code: backup.Code(value), Source: "db"})
	case "unreadable", "metadata_invalid": // the snapshot as a whole
		s.Validated = false
		s.Problems = append(s.Problems, backup.Problem{Code: backup.Code(word)})
	case "captured":
		for name := range strings.SplitSeq(value, ",") {
			s.Sources = append(s.Sources, backup.SourceState{Name: name, Captured: true})
		}
	case "pinned":
		s.Pinned = true
	case "in_use":
		s.InUse = true
	case "origin":
		s.Origin = value
	default:
		t.Fatalf("unknown word %q", word)
	}
}

// planLines renders decisions as the cases have them.
func planLines(decisions []backup.Decision) []string {
	var all []string
	for _, d := range decisions {
		verb := "delete"
		if d.Keep {
			verb = "keep"
		}
		all = append(all, fmt.Sprintf("%s %s: %s", d.Stamp, verb, strings.Join(d.Reasons, "; ")))
	}
	return all
}

func planLocation(t testing.TB, name string) *time.Location {
	t.Helper()
	loc, err := time.LoadLocation(name)
	if err != nil {
		t.Fatal(err)
	}
	return loc
}

type planCase struct {
	name      string
	retention backup.Retention
	loc       string // "": nil
	snapshots []string
	want      []string
}

// planNow is the time of every planCase: noon of a Saturday.
var planNow = time.Date(2026, time.April, 11, 12, 0, 0, 0, time.UTC)

func testPlan(t *testing.T, cases []planCase) {
	t.Helper()
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			var loc *time.Location
			if tc.loc != "" {
				loc = planLocation(t, tc.loc)
			}
			got := planLines(tc.retention.Plan(planSnapshots(t, tc.snapshots...), planNow, loc))
			if diff := cmp.Diff(got, tc.want); diff != "" {
				t.Errorf("plan (-got +want):\n%s", diff)
			}
		})
	}
}

// What the Python module of ATOCore promised.
func TestPlanDefault(t *testing.T) {
	testPlan(t, []planCase{{
		name:      "of_ten_days_seven_are_kept",
		retention: backup.DefaultRetention(),
		snapshots: []string{
			"20260402T100000Z", "20260403T100000Z", "20260404T100000Z", "20260405T100000Z", "20260406T100000Z",
			"20260407T100000Z", "20260408T100000Z", "20260409T100000Z", "20260410T100000Z", "20260411T100000Z",
		},
		want: []string{
			"20260411T100000Z keep: daily 2026-04-11; newest good",
			"20260410T100000Z keep: daily 2026-04-10",
			"20260409T100000Z keep: daily 2026-04-09",
			"20260408T100000Z keep: daily 2026-04-08",
			"20260407T100000Z keep: daily 2026-04-07",
			"20260406T100000Z keep: daily 2026-04-06",
			"20260405T100000Z keep: daily 2026-04-05; weekly 2026-04-05",
			"20260404T100000Z delete: no rule keeps it",
			"20260403T100000Z delete: no rule keeps it",
			"20260402T100000Z delete: no rule keeps it",
		},
	}, {
		name:      "of_seven_days_all_are_kept",
		retention: backup.DefaultRetention(),
		snapshots: []string{
			"20260405T100000Z", "20260406T100000Z", "20260407T100000Z", "20260408T100000Z",
			"20260409T100000Z", "20260410T100000Z", "20260411T100000Z",
		},
		want: []string{
			"20260411T100000Z keep: daily 2026-04-11; newest good",
			"20260410T100000Z keep: daily 2026-04-10",
			"20260409T100000Z keep: daily 2026-04-09",
			"20260408T100000Z keep: daily 2026-04-08",
			"20260407T100000Z keep: daily 2026-04-07",
			"20260406T100000Z keep: daily 2026-04-06",
			"20260405T100000Z keep: daily 2026-04-05; weekly 2026-04-05",
		},
	}, {
		name:      "older_sundays_are_kept_and_a_wednesday_is_not",
		retention: backup.DefaultRetention(),
		snapshots: []string{
			"20260315T100000Z", "20260322T100000Z", "20260325T100000Z",
			"20260405T100000Z", "20260406T100000Z", "20260407T100000Z", "20260408T100000Z",
			"20260409T100000Z", "20260410T100000Z", "20260411T100000Z",
		},
		want: []string{
			"20260411T100000Z keep: daily 2026-04-11; newest good",
			"20260410T100000Z keep: daily 2026-04-10",
			"20260409T100000Z keep: daily 2026-04-09",
			"20260408T100000Z keep: daily 2026-04-08",
			"20260407T100000Z keep: daily 2026-04-07",
			"20260406T100000Z keep: daily 2026-04-06",
			"20260405T100000Z keep: daily 2026-04-05; weekly 2026-04-05",
			"20260325T100000Z delete: no rule keeps it",
			"20260322T100000Z keep: weekly 2026-03-22",
			"20260315T100000Z keep: weekly 2026-03-15",
		},
	}, {
		name:      "firsts_of_a_month_are_kept_and_a_fifteenth_is_not",
		retention: backup.DefaultRetention(),
		snapshots: []string{
			"20251201T100000Z", "20260101T100000Z", "20260115T100000Z",
			"20260405T100000Z", "20260406T100000Z", "20260407T100000Z", "20260408T100000Z",
			"20260409T100000Z", "20260410T100000Z", "20260411T100000Z",
		},
		want: []string{
			"20260411T100000Z keep: daily 2026-04-11; newest good",
			"20260410T100000Z keep: daily 2026-04-10",
			"20260409T100000Z keep: daily 2026-04-09",
			"20260408T100000Z keep: daily 2026-04-08",
			"20260407T100000Z keep: daily 2026-04-07",
			"20260406T100000Z keep: daily 2026-04-06",
			"20260405T100000Z keep: daily 2026-04-05; weekly 2026-04-05",
			"20260115T100000Z delete: no rule keeps it",
			"20260101T100000Z keep: monthly 2026-01",
			"20251201T100000Z keep: monthly 2025-12",
		},
	}, {
		name:      "four_sundays_and_six_firsts_are_kept_and_no_fifth_or_seventh",
		retention: backup.DefaultRetention(),
		snapshots: []string{
			"20250901T100000Z", "20251001T100000Z", "20251101T100000Z", "20251201T100000Z", "20260101T100000Z", "20260201T100000Z",
			"20260301T100000Z", "20260308T100000Z", "20260315T100000Z", "20260322T100000Z", "20260329T100000Z",
			"20260405T100000Z", "20260406T100000Z", "20260407T100000Z", "20260408T100000Z",
			"20260409T100000Z", "20260410T100000Z", "20260411T100000Z",
		},
		want: []string{
			"20260411T100000Z keep: daily 2026-04-11; newest good",
			"20260410T100000Z keep: daily 2026-04-10",
			"20260409T100000Z keep: daily 2026-04-09",
			"20260408T100000Z keep: daily 2026-04-08",
			"20260407T100000Z keep: daily 2026-04-07",
			"20260406T100000Z keep: daily 2026-04-06",
			"20260405T100000Z keep: daily 2026-04-05; weekly 2026-04-05",
			"20260329T100000Z keep: weekly 2026-03-29",
			"20260322T100000Z keep: weekly 2026-03-22",
			"20260315T100000Z keep: weekly 2026-03-15",
			"20260308T100000Z delete: no rule keeps it",
			"20260301T100000Z keep: monthly 2026-03",
			"20260201T100000Z keep: monthly 2026-02",
			"20260101T100000Z keep: monthly 2026-01",
			"20251201T100000Z keep: monthly 2025-12",
			"20251101T100000Z keep: monthly 2025-11",
			"20251001T100000Z keep: monthly 2025-10",
			"20250901T100000Z delete: no rule keeps it",
		},
	}})
}

func TestPlanRules(t *testing.T) {
	testPlan(t, []planCase{{
		name:      "last_counts_from_the_newest",
		retention: backup.Retention{Last: 2},
		snapshots: []string{"20260411T080000Z", "20260411T090000Z", "20260411T100000Z"},
		want: []string{
			"20260411T100000Z keep: last 2; newest good",
			"20260411T090000Z keep: last 2",
			"20260411T080000Z delete: no rule keeps it",
		},
	}, {
		name:      "negative_last_keeps_all_good_ones",
		retention: backup.Retention{Last: -1},
		snapshots: []string{"20260409T100000Z", "20260410T100000Z problem=db_corrupt", "20260411T100000Z"},
		want: []string{
			"20260411T100000Z keep: last unlimited; newest good",
			"20260410T100000Z delete: invalid: db_corrupt, and a newer one is good",
			"20260409T100000Z keep: last unlimited",
		},
	}, {
		name:      "within_is_measured_from_the_newest_and_excludes_its_end",
		retention: backup.Retention{Within: 48 * time.Hour},
		snapshots: []string{"20250102T100000Z", "20250102T100001Z", "20250104T100000Z"},
		want: []string{
			"20250104T100000Z keep: within 48h0m0s; newest good",
			"20250102T100001Z keep: within 48h0m0s",
			"20250102T100000Z delete: no rule keeps it",
		},
	}, {
		name:      "within_is_not_measured_from_bad_or_future_ones",
		retention: backup.Retention{Within: 24 * time.Hour},
		snapshots: []string{"20260408T100000Z", "20260409T090000Z", "20260411T100000Z problem=db_missing", "20260501T100000Z"},
		want: []string{
			"20260501T100000Z keep: dated in the future",
			"20260411T100000Z keep: invalid: db_missing, and nothing newer is good",
			"20260409T090000Z keep: within 24h0m0s; newest good",
			"20260408T100000Z keep: within 24h0m0s",
		},
	}, {
		name:      "negative_within_keeps_all_good_ones",
		retention: backup.Retention{Within: -time.Hour},
		snapshots: []string{"20010101T000000Z", "20260411T100000Z"},
		want: []string{
			"20260411T100000Z keep: within -1h0m0s; newest good",
			"20010101T000000Z keep: within -1h0m0s",
		},
	}, {
		name:      "hourly_keeps_the_newest_of_each_hour_that_has_one",
		retention: backup.Retention{Hourly: 2},
		snapshots: []string{"20260410T235959Z", "20260411T080000Z", "20260411T085959Z", "20260411T100000Z"},
		want: []string{
			"20260411T100000Z keep: hourly 2026-04-11T10; newest good",
			"20260411T085959Z keep: hourly 2026-04-11T08",
			"20260411T080000Z delete: no rule keeps it",
			"20260410T235959Z delete: no rule keeps it",
		},
	}, {
		name:      "negative_hourly_keeps_the_newest_of_every_hour",
		retention: backup.Retention{Hourly: -1},
		snapshots: []string{"20260410T231500Z", "20260410T235959Z", "20260411T085959Z", "20260411T100000Z"},
		want: []string{
			"20260411T100000Z keep: hourly 2026-04-11T10; newest good",
			"20260411T085959Z keep: hourly 2026-04-11T08",
			"20260410T235959Z keep: hourly 2026-04-10T23",
			"20260410T231500Z delete: no rule keeps it",
		},
	}, {
		name:      "daily_keeps_the_newest_of_each_day_that_has_one",
		retention: backup.Retention{Daily: 2},
		snapshots: []string{"20260301T120000Z", "20260402T000000Z", "20260402T235959Z", "20260411T000000Z", "20260411T100000Z"},
		want: []string{
			"20260411T100000Z keep: daily 2026-04-11; newest good",
			"20260411T000000Z delete: no rule keeps it",
			"20260402T235959Z keep: daily 2026-04-02",
			"20260402T000000Z delete: no rule keeps it",
			"20260301T120000Z delete: no rule keeps it",
		},
	}, {
		name:      "one_kept_by_a_rule_still_counts_in_the_others",
		retention: backup.Retention{Last: 1, Within: time.Hour, Hourly: 1, Daily: 1, Weekly: 1, Monthly: 1, Yearly: 1},
		snapshots: []string{"20220101T100000Z", "20220102T100000Z", "20230101T100000Z"}, // 2023-01-01 was a Sunday
		want: []string{
			"20230101T100000Z keep: last 1; within 1h0m0s; hourly 2023-01-01T10; daily 2023-01-01; weekly 2023-01-01; monthly 2023-01; yearly 2023; newest good",
			"20220102T100000Z delete: no rule keeps it",
			"20220101T100000Z delete: no rule keeps it",
		},
	}, {
		name:      "without_a_rule_everything_is_kept",
		retention: backup.Retention{Calendar: backup.Newest, MinKeep: 1},
		snapshots: []string{
			"20260401T100000Z", "20260402T100000Z problem=db_corrupt", "20260403T100000Z incomplete", "20260404T100000Z",
			"20260501T100000Z",
		},
		want: []string{
			"20260501T100000Z keep: no rule is set; dated in the future",
			"20260404T100000Z keep: no rule is set; newest good",
			"20260403T100000Z keep: no rule is set",
			"20260402T100000Z keep: no rule is set",
			"20260401T100000Z keep: no rule is set",
		},
	}})
}

func TestPlanAnchored(t *testing.T) {
	testPlan(t, []planCase{{
		name:      "weekly_keeps_the_newest_of_each_sunday_that_has_one",
		retention: backup.Retention{Weekly: 2},
		snapshots: []string{
			"20260301T100000Z", "20260315T100000Z", "20260405T000000Z", "20260405T235959Z", "20260406T000000Z", "20260411T100000Z",
		},
		want: []string{
			"20260411T100000Z keep: newest good",
			"20260406T000000Z delete: no rule keeps it",
			"20260405T235959Z keep: weekly 2026-04-05",
			"20260405T000000Z delete: no rule keeps it",
			"20260315T100000Z keep: weekly 2026-03-15",
			"20260301T100000Z delete: no rule keeps it",
		},
	}, {
		name:      "monthly_keeps_the_newest_of_each_first_that_has_one",
		retention: backup.Retention{Monthly: 2},
		snapshots: []string{"20251101T100000Z", "20260101T100000Z", "20260301T090000Z", "20260301T100000Z", "20260302T100000Z", "20260331T100000Z"},
		want: []string{
			"20260331T100000Z keep: newest good",
			"20260302T100000Z delete: no rule keeps it",
			"20260301T100000Z keep: monthly 2026-03",
			"20260301T090000Z delete: no rule keeps it",
			"20260101T100000Z keep: monthly 2026-01",
			"20251101T100000Z delete: no rule keeps it",
		},
	}, {
		name:      "yearly_keeps_the_newest_of_each_first_of_january_that_has_one",
		retention: backup.Retention{Yearly: 2},
		snapshots: []string{"20220101T100000Z", "20240101T100000Z", "20260101T090000Z", "20260101T100000Z", "20260201T100000Z", "20260411T100000Z"},
		want: []string{
			"20260411T100000Z keep: newest good",
			"20260201T100000Z delete: no rule keeps it",
			"20260101T100000Z keep: yearly 2026",
			"20260101T090000Z delete: no rule keeps it",
			"20240101T100000Z keep: yearly 2024",
			"20220101T100000Z delete: no rule keeps it",
		},
	}, {
		name:      "negative_counts_keep_all_anchors",
		retention: backup.Retention{Weekly: -1, Monthly: -7, Yearly: -1},
		snapshots: []string{"20240101T100000Z", "20240102T100000Z", "20250201T100000Z", "20260405T100000Z", "20260411T100000Z"},
		want: []string{
			"20260411T100000Z keep: newest good",
			"20260405T100000Z keep: weekly 2026-04-05",
			"20250201T100000Z keep: monthly 2025-02",
			"20240102T100000Z delete: no rule keeps it",
			"20240101T100000Z keep: monthly 2024-01; yearly 2024",
		},
	}, {
		name:      "the_oldest_gets_no_favour",
		retention: backup.Retention{Daily: 7, Weekly: 4, Monthly: 6, Yearly: 3},
		snapshots: []string{"20260411T080000Z", "20260411T100000Z"},
		want: []string{
			"20260411T100000Z keep: daily 2026-04-11; newest good",
			"20260411T080000Z delete: no rule keeps it",
		},
	}})
}

func TestPlanNewest(t *testing.T) {
	testPlan(t, []planCase{{
		name:      "weekly_keeps_the_newest_of_each_iso_week_that_has_one",
		retention: backup.Retention{Weekly: 2, Calendar: backup.Newest},
		snapshots: []string{"20251228T100000Z", "20251229T100000Z", "20260104T100000Z", "20260330T100000Z", "20260405T100000Z"},
		want: []string{
			"20260405T100000Z keep: weekly 2026-W14; newest good",
			"20260330T100000Z delete: no rule keeps it",
			"20260104T100000Z keep: weekly 2026-W01",
			"20251229T100000Z delete: no rule keeps it",
			"20251228T100000Z delete: no rule keeps it",
		},
	}, {
		name:      "monthly_keeps_the_newest_of_each_month_that_has_one",
		retention: backup.Retention{Monthly: 2, Calendar: backup.Newest},
		snapshots: []string{"20251101T100000Z", "20260101T100000Z", "20260131T100000Z", "20260302T100000Z", "20260331T100000Z"},
		want: []string{
			"20260331T100000Z keep: monthly 2026-03; newest good",
			"20260302T100000Z delete: no rule keeps it",
			"20260131T100000Z keep: monthly 2026-01",
			"20260101T100000Z delete: no rule keeps it",
			"20251101T100000Z delete: no rule keeps it",
		},
	}, {
		name:      "yearly_keeps_the_newest_of_each_year_that_has_one",
		retention: backup.Retention{Yearly: 2, Calendar: backup.Newest},
		snapshots: []string{"20220101T100000Z", "20240101T100000Z", "20241231T235959Z", "20260101T100000Z", "20260411T100000Z"},
		want: []string{
			"20260411T100000Z keep: yearly 2026; newest good",
			"20260101T100000Z delete: no rule keeps it",
			"20241231T235959Z keep: yearly 2024",
			"20240101T100000Z delete: no rule keeps it",
			"20220101T100000Z delete: no rule keeps it",
		},
	}, {
		name:      "negative_counts_keep_all_slots_and_the_oldest",
		retention: backup.Retention{Weekly: -1, Monthly: -7, Yearly: -1, Calendar: backup.Newest},
		snapshots: []string{"20240108T100000Z", "20240109T100000Z", "20240110T100000Z", "20260405T100000Z"},
		want: []string{
			"20260405T100000Z keep: weekly 2026-W14; monthly 2026-04; yearly 2026; newest good",
			"20240110T100000Z keep: weekly 2024-W02; monthly 2024-01; yearly 2024",
			"20240109T100000Z delete: no rule keeps it",
			"20240108T100000Z keep: oldest weekly 2024-W02; oldest monthly 2024-01; oldest yearly 2024",
		},
	}, {
		name:      "the_oldest_good_past_one_is_kept_while_a_count_is_left",
		retention: backup.Retention{Hourly: 3, Daily: 2, Weekly: 1, Calendar: backup.Newest},
		snapshots: []string{"20260409T080000Z problem=db_corrupt", "20260410T080000Z", "20260410T082000Z", "20260410T084000Z", "20260411T100000Z"},
		want: []string{
			"20260411T100000Z keep: hourly 2026-04-11T10; daily 2026-04-11; weekly 2026-W15; newest good",
			"20260410T084000Z keep: hourly 2026-04-10T08; daily 2026-04-10",
			"20260410T082000Z delete: no rule keeps it",
			"20260410T080000Z keep: oldest hourly 2026-04-10T08",
			"20260409T080000Z delete: invalid: db_corrupt, and a newer one is good",
		},
	}})
}

func TestPlanLocation(t *testing.T) {
	saturdayNight := []string{"20260404T213000Z", "20260404T233000Z", "20260406T100000Z"}
	// The clocks of St. John's went from 00:01 on 1 November 2009 back to
	// 23:01 on 31 October: 02:31 UTC.
	twoMidnights := []string{"20091101T020000Z", "20091101T023030Z", "20091101T030000Z", "20091101T040000Z"}
	testPlan(t, []planCase{{
		name:      "saturday_night_is_saturday_in_utc",
		retention: backup.Retention{Weekly: 4, Daily: 2},
		snapshots: saturdayNight,
		want: []string{
			"20260406T100000Z keep: daily 2026-04-06; newest good",
			"20260404T233000Z keep: daily 2026-04-04",
			"20260404T213000Z delete: no rule keeps it",
		},
	}, {
		name:      "saturday_night_is_sunday_in_berlin",
		retention: backup.Retention{Weekly: 4, Daily: 2},
		loc:       "Europe/Berlin",
		snapshots: saturdayNight,
		want: []string{
			"20260406T100000Z keep: daily 2026-04-06; newest good",
			"20260404T233000Z keep: daily 2026-04-05; weekly 2026-04-05",
			"20260404T213000Z delete: no rule keeps it",
		},
	}, {
		name:      "the_zone_of_created_at_does_not_matter",
		retention: backup.Retention{Hourly: 4},
		snapshots: []string{"20260404T233000Z at=2026-04-05T01:30:00+02:00", "20260406T100000Z at=2026-04-06T15:45:00+05:45"},
		want: []string{
			"20260406T100000Z keep: hourly 2026-04-06T10; newest good",
			"20260404T233000Z keep: hourly 2026-04-04T23",
		},
	}, {
		name:      "an_hour_shown_twice_is_one_hour",
		retention: backup.Retention{Hourly: 4},
		loc:       "Europe/Berlin",
		snapshots: []string{"20251026T003000Z", "20251026T013000Z", "20251026T023000Z"},
		want: []string{
			"20251026T023000Z keep: hourly 2025-10-26T03; newest good",
			"20251026T013000Z keep: hourly 2025-10-26T02",
			"20251026T003000Z delete: no rule keeps it",
		},
	}, {
		name:      "a_day_that_goes_on_after_midnight_is_one_day",
		retention: backup.Retention{Daily: 4},
		loc:       "America/St_Johns",
		snapshots: twoMidnights,
		want: []string{
			"20091101T040000Z keep: daily 2009-11-01; newest good",
			"20091101T030000Z keep: daily 2009-10-31",
			"20091101T023030Z delete: no rule keeps it",
			"20091101T020000Z delete: no rule keeps it",
		},
	}})
}

func TestPlanGuards(t *testing.T) {
	daily, sundays := backup.Retention{Daily: 1}, backup.Retention{Weekly: 1}
	testPlan(t, []planCase{{
		name:      "newest_good_is_kept_when_no_rule_keeps_it",
		retention: sundays,
		snapshots: []string{"20260406T100000Z", "20260407T100000Z", "20260408T100000Z problem=db_corrupt"},
		want: []string{
			"20260408T100000Z keep: invalid: db_corrupt, and nothing newer is good",
			"20260407T100000Z keep: newest good",
			"20260406T100000Z delete: no rule keeps it",
		},
	}, {
		name:      "min_keep_counts_good_past_ones",
		retention: backup.Retention{Weekly: 1, MinKeep: 2},
		snapshots: []string{
			"20260406T100000Z", "20260407T100000Z", "20260408T100000Z problem=db_corrupt", "20260409T100000Z", "20260501T100000Z",
		},
		want: []string{
			"20260501T100000Z keep: dated in the future",
			"20260409T100000Z keep: newest good; minimum of 2 good ones",
			"20260408T100000Z delete: invalid: db_corrupt, and a newer one is good",
			"20260407T100000Z keep: minimum of 2 good ones",
			"20260406T100000Z delete: no rule keeps it",
		},
	}, {
		name:      "min_keep_below_one_is_one",
		retention: backup.Retention{Weekly: 1, MinKeep: -5},
		snapshots: []string{"20260406T100000Z", "20260407T100000Z"},
		want: []string{
			"20260407T100000Z keep: newest good",
			"20260406T100000Z delete: no rule keeps it",
		},
	}, {
		name:      "min_keep_may_exceed_what_there_is",
		retention: backup.Retention{Weekly: 1, MinKeep: 9},
		snapshots: []string{"20260407T100000Z"},
		want:      []string{"20260407T100000Z keep: newest good; minimum of 9 good ones"},
	}, {
		name:      "pinned_are_kept_good_or_not",
		retention: daily,
		snapshots: []string{"20200101T100000Z pinned incomplete", "20200102T100000Z pinned problem=db_corrupt", "20200103T100000Z pinned", "20260411T100000Z"},
		want: []string{
			"20260411T100000Z keep: daily 2026-04-11; newest good",
			"20200103T100000Z keep: pinned",
			"20200102T100000Z keep: pinned",
			"20200101T100000Z keep: pinned",
		},
	}, {
		name:      "safety_snapshots_are_kept_for_seven_days_good_or_not",
		retention: daily,
		snapshots: []string{
			"20260404T115959Z origin=pre_restore",
			"20260404T120000Z origin=pre_restore",
			"20260404T120001Z origin=pre_restore",
			"20260405T120000Z origin=pre_restore problem=raw_copy",
			"20260406T120000Z origin=scheduled",
			"20260411T100000Z",
		},
		want: []string{
			"20260411T100000Z keep: daily 2026-04-11; newest good",
			"20260406T120000Z delete: no rule keeps it",
			"20260405T120000Z keep: safety snapshot younger than 7 days",
			"20260404T120001Z keep: safety snapshot younger than 7 days",
			"20260404T120000Z delete: no rule keeps it",
			"20260404T115959Z delete: no rule keeps it",
		},
	}, {
		name:      "future_ones_are_kept_and_take_no_slot",
		retention: backup.Retention{Last: 1, Daily: 1},
		snapshots: []string{
			"20260410T100000Z", "20260411T120000Z", "20260411T120001Z", "20270101T000000Z problem=db_corrupt", "20270102T000000Z",
		},
		want: []string{
			"20270102T000000Z keep: dated in the future",
			"20270101T000000Z keep: dated in the future; invalid: db_corrupt, and nothing newer is good",
			"20260411T120001Z keep: dated in the future",
			"20260411T120000Z keep: last 1; daily 2026-04-11; newest good",
			"20260410T100000Z delete: no rule keeps it",
		},
	}, {
		name:      "a_good_future_one_does_not_let_bad_ones_go",
		retention: daily,
		snapshots: []string{"20260401T100000Z problem=db_corrupt", "20270102T000000Z"},
		want: []string{
			"20270102T000000Z keep: dated in the future",
			"20260401T100000Z keep: invalid: db_corrupt, and nothing newer is good",
		},
	}, {
		name:      "those_in_use_are_kept_good_or_not",
		retention: daily,
		snapshots: []string{"20260401T100000Z in_use", "20260402T100000Z in_use incomplete", "20260403T100000Z", "20260411T100000Z"},
		want: []string{
			"20260411T100000Z keep: daily 2026-04-11; newest good",
			"20260403T100000Z delete: no rule keeps it",
			"20260402T100000Z keep: in use",
			"20260401T100000Z keep: in use",
		},
	}, {
		name:      "those_of_which_nothing_is_known_are_kept_and_take_no_slot",
		retention: daily,
		snapshots: []string{
			"20260401T100000Z metadata_invalid", "20260402T100000Z unreadable", "20260403T100000Z problem=unreadable",
			"20260411T090000Z", "20260411T100000Z metadata_invalid",
		},
		want: []string{
			"20260411T100000Z keep: its metadata cannot be read: only Delete removes it; invalid: metadata_invalid, and nothing newer is good",
			"20260411T090000Z keep: daily 2026-04-11; newest good",
			"20260403T100000Z delete: invalid: unreadable, and a newer one is good",
			"20260402T100000Z keep: could not be read",
			"20260401T100000Z keep: its metadata cannot be read: only Delete removes it",
		},
	}, {
		name:      "a_guard_spends_no_slot",
		retention: daily,
		snapshots: []string{"20260410T100000Z", "20260411T100000Z incomplete in_use pinned"},
		want: []string{
			"20260411T100000Z keep: pinned; in use; incomplete, and younger than 24h; incomplete, and nothing newer is good",
			"20260410T100000Z keep: daily 2026-04-10; newest good",
		},
	}})
}

func TestPlanBad(t *testing.T) {
	daily := backup.Retention{Daily: 7}
	testPlan(t, []planCase{{
		name:      "incomplete_ones_are_kept_for_24_hours",
		retention: daily,
		snapshots: []string{"20260410T115959Z incomplete", "20260410T120000Z incomplete", "20260410T120001Z incomplete", "20260411T100000Z"},
		want: []string{
			"20260411T100000Z keep: daily 2026-04-11; newest good",
			"20260410T120001Z keep: incomplete, and younger than 24h",
			"20260410T120000Z delete: incomplete, and a newer one is good",
			"20260410T115959Z delete: incomplete, and a newer one is good",
		},
	}, {
		name:      "invalid_ones_are_not",
		retention: daily,
		snapshots: []string{"20260411T090000Z problem=db_corrupt", "20260411T100000Z"},
		want: []string{
			"20260411T100000Z keep: daily 2026-04-11; newest good",
			"20260411T090000Z delete: invalid: db_corrupt, and a newer one is good",
		},
	}, {
		name:      "bad_ones_stay_while_nothing_newer_is_good",
		retention: daily,
		snapshots: []string{"20260401T100000Z incomplete", "20260402T100000Z", "20260403T100000Z incomplete", "20260404T100000Z unvalidated"},
		want: []string{
			"20260404T100000Z keep: not validated, and nothing newer is good",
			"20260403T100000Z keep: incomplete, and nothing newer is good",
			"20260402T100000Z keep: daily 2026-04-02; newest good",
			"20260401T100000Z delete: incomplete, and a newer one is good",
		},
	}, {
		name:      "bad_ones_take_no_slot",
		retention: backup.Retention{Last: 1, Daily: 1},
		snapshots: []string{"20260411T080000Z", "20260411T090000Z problem=db_corrupt", "20260411T100000Z incomplete"},
		want: []string{
			"20260411T100000Z keep: incomplete, and younger than 24h; incomplete, and nothing newer is good",
			"20260411T090000Z keep: invalid: db_corrupt, and nothing newer is good",
			"20260411T080000Z keep: last 1; daily 2026-04-11; newest good",
		},
	}, {
		name:      "bad_ones_stay_while_no_newer_good_one_has_what_they_captured",
		retention: backup.Retention{Last: 1},
		snapshots: []string{
			"20260401T100000Z captured=db,chroma problem=file_changed",
			"20260402T100000Z captured=db,chroma",
			"20260403T100000Z captured=db,chroma origin=pre_restore problem=raw_copy",
			"20260404T100000Z captured=db problem=db_corrupt",
			"20260405T100000Z captured=db,chroma problem=file_changed",
			"20260406T100000Z captured=db,chroma,extra unvalidated",
			"20260411T100000Z captured=db",
			"20260501T100000Z captured=db,chroma,extra",
		},
		want: []string{
			"20260501T100000Z keep: dated in the future",
			"20260411T100000Z keep: last 1; newest good",
			"20260406T100000Z keep: not validated, and no newer good one has chroma, extra",
			"20260405T100000Z keep: invalid: file_changed, and no newer good one has chroma",
			"20260404T100000Z delete: invalid: db_corrupt, and a newer one is good",
			"20260403T100000Z delete: invalid: raw_copy, and a newer one is good",
			"20260402T100000Z keep: newest good one with chroma",
			"20260401T100000Z delete: invalid: file_changed, and a newer one is good",
		},
	}, {
		name:      "all_bad_all_kept",
		retention: daily,
		snapshots: []string{"20260401T100000Z incomplete", "20260402T100000Z problem=db_corrupt", "20260403T100000Z unvalidated"},
		want: []string{
			"20260403T100000Z keep: not validated, and nothing newer is good",
			"20260402T100000Z keep: invalid: db_corrupt, and nothing newer is good",
			"20260401T100000Z keep: incomplete, and nothing newer is good",
		},
	}, {
		name:      "each_code_is_named_once",
		retention: daily,
		snapshots: []string{
			"20260410T100000Z problem=size_mismatch problem=file_missing problem=size_mismatch", "20260411T100000Z",
		},
		want: []string{
			"20260411T100000Z keep: daily 2026-04-11; newest good",
			"20260410T100000Z delete: invalid: file_missing, size_mismatch, and a newer one is good",
		},
	}, {
		name:      "those_of_the_python_module_are_good_without_a_verdict",
		retention: backup.Retention{Daily: 1},
		snapshots: []string{
			"20260409T100000Z unvalidated", "20260410T100000Z unvalidated origin=atocore", "20260411T100000Z origin=atocore problem=db_corrupt",
		},
		want: []string{
			"20260411T100000Z keep: invalid: db_corrupt, and nothing newer is good",
			"20260410T100000Z keep: daily 2026-04-10; newest good",
			"20260409T100000Z delete: not validated, and a newer one is good",
		},
	}})
}

func TestPlanTimes(t *testing.T) {
	testPlan(t, []planCase{{
		name:      "created_at_counts_and_not_the_stamp",
		retention: backup.Retention{Daily: 1},
		snapshots: []string{"20260411T100000Z at=2026-04-01T10:00:00Z", "20260410T100000Z at=2026-04-09T10:00:00Z"},
		want: []string{
			"20260410T100000Z keep: daily 2026-04-09; newest good",
			"20260411T100000Z delete: no rule keeps it",
		},
	}, {
		name:      "the_stamp_counts_where_created_at_is_not_known",
		retention: backup.Retention{Daily: 1},
		snapshots: []string{
			"20260410T100000Z undated incomplete", "20260411T100000Z undated incomplete", "20260409T100000Z undated", "20260411T110000Z undated",
		},
		want: []string{
			"20260411T110000Z keep: daily 2026-04-11; newest good",
			"20260411T100000Z keep: incomplete, and younger than 24h",
			"20260410T100000Z delete: incomplete, and a newer one is good",
			"20260409T100000Z delete: no rule keeps it",
		},
	}, {
		name:      "one_without_any_time_is_the_oldest",
		retention: backup.Retention{Last: 1},
		snapshots: []string{"lost+found undated incomplete", "20010101T000000Z"},
		want: []string{
			"20010101T000000Z keep: last 1; newest good",
			"lost+found delete: incomplete, and a newer one is good",
		},
	}, {
		name:      "of_one_instant_the_greater_stamp_is_newer",
		retention: backup.Retention{Last: 1, Daily: 1},
		snapshots: []string{
			"20260411T100001Z at=2026-04-11T10:00:00Z",
			"20260411T100002Z at=2026-04-11T10:00:00Z problem=db_corrupt",
			"20260411T100003Z at=2026-04-11T10:00:00Z",
			"20260411T100000Z at=2026-04-11T10:00:00Z problem=db_corrupt",
			"20260411T100004Z at=2026-04-11T10:00:00Z problem=db_corrupt",
		},
		want: []string{
			"20260411T100004Z keep: invalid: db_corrupt, and nothing newer is good",
			"20260411T100003Z keep: last 1; daily 2026-04-11; newest good",
			"20260411T100002Z delete: invalid: db_corrupt, and a newer one is good",
			"20260411T100001Z delete: no rule keeps it",
			"20260411T100000Z delete: invalid: db_corrupt, and a newer one is good",
		},
	}})
}

func TestPlanOfNothing(t *testing.T) {
	got := backup.DefaultRetention().Plan(nil, planNow, nil)
	if got == nil || len(got) != 0 { // nil would be null in the JSON of a Cleanup
		t.Errorf("Plan(nil) = %#v, want an empty slice", got)
	}
}

func TestPlanIsPure(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	all := randomPlanInput(rng, 60, nil)
	r := backup.Retention{Last: 2, Within: 30 * time.Hour, Hourly: 3, Daily: 3, Weekly: 3, Monthly: 3, Yearly: 3, MinKeep: 2}
	var want []backup.Decision
	for range 50 {
		rng.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		before := slices.Clone(all)
		for i := range before {
			before[i].Problems = slices.Clone(before[i].Problems)
		}
		got := r.Plan(all, planNow, nil)
		if diff := cmp.Diff(all, before); diff != "" {
			t.Fatalf("the caller's snapshots were changed (-got +want):\n%s", diff)
		}
		if want == nil {
			want = got
		}
		if diff := cmp.Diff(got, want); diff != "" {
			t.Fatalf("plan of the same in another order (-got +want):\n%s", diff)
		}
	}
}

func BenchmarkPlan10000(b *testing.B) {
	berlin := planLocation(b, "Europe/Berlin")
	all := make([]backup.Snapshot, 10_000)
	for i := range all {
		at := planNow.Add(-time.Duration(i) * 20 * time.Minute)
		all[i] = backup.Snapshot{Stamp: at.Format(planStamp), CreatedAt: at, HasMetadata: true, Validated: i%7 != 0}
	}
	rand.New(rand.NewPCG(1, 2)).Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	unlimited := backup.Retention{Last: 9, Within: time.Hour, Hourly: -1, Daily: -1, Weekly: -1, Monthly: -1, Yearly: -1}
	newest := unlimited
	newest.Calendar = backup.Newest
	for _, bc := range []struct {
		name      string
		retention backup.Retention
	}{{"default", backup.DefaultRetention()}, {"anchored_unlimited", unlimited}, {"newest_unlimited", newest}} {
		b.Run(bc.name, func(b *testing.B) {
			for b.Loop() {
				bc.retention.Plan(all, planNow, berlin)
			}
		})
	}
}
