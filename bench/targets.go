package main

import (
	"fmt"
	"slices"

	"github.com/atocore/backup/bench/internal/measured"
)

// A target is what this library is to achieve.
type target struct {
	claim    string
	workload string
	ours     string
	rival    string // "": none
	measure  func(ours, rival []measured.Report) float64
	unit     string
	limit    float64 // at most
}

const (
	full      = "Create"
	structure = "Create, ValidateStructure"

	linkUnchanged = "Create, LinkUnchanged"
	firstSnapshot = "Create, first snapshot"

	withoutSafety = "Restore, SkipSafetySnapshot"
)

var targets = []target{
	{"Create, as .backup, integrity_check, sha256sum and sync", databaseValidated, full,
		"sqlite3 .backup + integrity_check + sha256sum + sync", ratio, "of it", 0.7},
	{"Create with ValidateStructure, as cp and sync", databaseCopied, structure, "cp --reflink=auto + sync", ratio, "of it", 1.2},
	{"on XFS: Create with ValidateStructure, as sha256sum", xfsCopied, structure, "sha256sum of it", ratio, "of it", 1.2},
	{"on XFS: longest commit of a writer", xfsHeld, structure, "", longestCommit, "ms", 20},
	{"on XFS: the same, a database a tenth as large", xfsHeldSmall, structure, "", longestCommit, "ms", 20},
	{"tree: Create, as cp -a and sync", treeFirst, full, "cp -a + sync", ratio, "of it", 1.5},
	{"tree: Create with LinkUnchanged again, as the first time", treeSecond, linkUnchanged, firstSnapshot, ratio, "of it", 0.5},
	{"PocketBase: Create with ValidateStructure, as CreateBackup", pocketbaseCopied, structure,
		"PocketBase's CreateBackup + sync", ratio, "of it", 0.2},
	{"PocketBase: Create, as CreateBackup", pocketbaseValidated, full, "PocketBase's CreateBackup + sync", ratio, "of it", 1},
	{"Restore without a safety snapshot, as cp and sync", databaseRestored, withoutSafety, "cp --reflink=auto + sync", ratio, "of it", 1.5},
	{"List of 10,000 snapshots", listed, "List", "", seconds, "s", 0.5},
	{"peak memory, a database four times as large", databaseLarge, full, "", peak, "MiB", 96},
}

func ratio(ours, rival []measured.Report) float64 { return seconds(ours, nil) / seconds(rival, nil) }

func seconds(ours, _ []measured.Report) float64 {
	return median(ours, func(r measured.Report) float64 { return r.Seconds })
}

// longestCommit is the worst of all runs, in milliseconds: a writer is not
// held on average.
func longestCommit(ours, _ []measured.Report) float64 {
	worst := 0.0
	for _, r := range ours {
		worst = max(worst, 1000*r.LongestCommit)
	}
	return worst
}

// peak is the worst of all runs, in MiB.
func peak(ours, _ []measured.Report) float64 {
	var worst int64
	for _, r := range ours {
		worst = max(worst, r.OwnKiB)
	}
	return float64(worst) / 1024
}

// verdict says whether the target was met.
func (t target) verdict(results []result) string {
	ours, ok := samplesOf(results, t.workload, t.ours)
	if !ok {
		return "not measured | "
	}
	rival, ok := samplesOf(results, t.workload, t.rival)
	if !ok && t.rival != "" {
		return "not measured | "
	}
	found, met := t.measure(ours, rival), "met"
	if found > t.limit {
		met = "**not met**"
	}
	return fmt.Sprintf("%.3g %s | %s", found, t.unit, met)
}

func samplesOf(results []result, workload, contender string) ([]measured.Report, bool) {
	i := slices.IndexFunc(results, func(r result) bool {
		return r.workload == workload && r.contender == contender
	})
	if i < 0 || len(results[i].samples) == 0 {
		return nil, false
	}
	return results[i].samples, true
}

// extremes returns the least and the most seconds of the samples, of which there is
// at least one.
func extremes(samples []measured.Report) (least, most float64) {
	least = samples[0].Seconds
	for _, r := range samples {
		least, most = min(least, r.Seconds), max(most, r.Seconds)
	}
	return least, most
}

// median returns that of a number in each of the samples, of which there is
// at least one.
func median(samples []measured.Report, number func(measured.Report) float64) float64 {
	var all []float64
	for _, r := range samples {
		all = append(all, number(r))
	}
	slices.Sort(all)
	half := len(all) / 2
	if len(all)%2 == 1 {
		return all[half]
	}
	return (all[half-1] + all[half]) / 2
}
