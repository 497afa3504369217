package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/atocore/backup/bench/internal/measured"
)

const legend = `
Seconds are medians, and next to them the least and the most. "Ours ÷ it"
compares the first contender of a workload, which is ours, with the others:
below 1, ours is the faster. Each process has been measured by itself, from the
beginning of its work to the end of the last sync, with its input in the page
cache. Peak is the largest resident set of any run; that of a tool is not seen
where it is below that of the process which starts it (<). Written are the bytes
that went to the block layer. Longest commit is the worst of any run, of another
process that commits every few milliseconds, without syncs, to the database that
is copied.
`

// writeResults writes all that was found, in Markdown.
func writeResults(w io.Writer, facts []fact, results []result) {
	fmt.Fprint(w, "# Results\n\nMade by this command; see the package comment of main.go.\n\n")
	fmt.Fprint(w, "| | |\n| --- | --- |\n")
	for _, f := range facts {
		fmt.Fprintf(w, "| %s | %s |\n", f.name, strings.ReplaceAll(f.value, "|", `\|`))
	}
	fmt.Fprint(w, "\n## Targets\n\n| target | at most | found | |\n| --- | --- | --- | --- |\n")
	for _, t := range targets {
		fmt.Fprintf(w, "| %s | %g %s | %s |\n", t.claim, t.limit, t.unit, t.verdict(results))
	}
	fmt.Fprint(w, "\n## Measurements\n", legend)
	fmt.Fprint(w, "\n| workload | contender | s | from – to | ours ÷ it | peak MiB | written MB | longest commit ms |\n")
	fmt.Fprint(w, "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |\n")
	var ours result
	for _, r := range results {
		if r.workload != ours.workload {
			ours = r
		}
		writeRow(w, r, ours)
	}
}

func writeRow(w io.Writer, r, ours result) {
	if len(r.samples) == 0 {
		fmt.Fprintf(w, "| %s | %s | %s | | | | | |\n", r.workload, r.contender, r.absent)
		return
	}
	compared := ""
	if r.contender != ours.contender && r.contender != nobody && len(ours.samples) > 0 {
		compared = fmt.Sprintf("%.2f", ratio(ours.samples, r.samples))
	}
	held := ""
	if worst := longestCommit(r.samples, nil); worst > 0 {
		held = fmt.Sprintf("%.1f", worst)
	}
	name := r.contender
	if r.absent != "" {
		name += " (" + r.absent + " once)"
	}
	least, most := extremes(r.samples)
	fmt.Fprintf(w, "| %s | %s | %.3f | %.3f – %.3f | %s | %s | %s | %s |\n", r.workload, name,
		seconds(r.samples, nil), least, most, compared, peakColumn(r.samples), writtenColumn(r.samples), held)
}

// inexact is by how much the kernel may be wrong, in KiB: it counts pages for
// each processor, and adds them up now and then.
const inexact = 1024

// peakColumn is the peak of the tools, or of the process if it ran none.
func peakColumn(samples []measured.Report) string {
	var tool, own int64
	for _, r := range samples {
		tool, own = max(tool, r.Tools), max(own, r.OwnKiB)
	}
	switch {
	case tool == 0 && own == 0:
		return "" // nobody counts
	case tool == 0:
		return fmt.Sprintf("%.1f", float64(own)/1024)
	case tool <= own+inexact:
		return fmt.Sprintf("<%d", (own+inexact)/1024+1)
	}
	return fmt.Sprintf("%.1f", float64(tool)/1024)
}

func writtenColumn(samples []measured.Report) string {
	written := median(samples, func(r measured.Report) float64 { return float64(r.Written) })
	if written < 0 {
		return "" // nobody counts
	}
	return fmt.Sprintf("%.1f", written/1e6)
}
