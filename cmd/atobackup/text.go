package main

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/atocore/backup"
)

// What people read. Everything goes to a buffer, so that nothing fails.

// table returns a writer whose cells end in tabs, and which is to be flushed.
func table(w io.Writer) *tabwriter.Writer { return tabwriter.NewWriter(w, 0, 8, 2, ' ', 0) }

func (c *call) writeCreated(w io.Writer, s *backup.Snapshot) {
	verdict := fmt.Sprintf("validated (%v)", c.level)
	if !s.Validated {
		verdict = "NOT VALID"
	}
	fmt.Fprintf(w, "created %s: %s, %s, %s\n", s.Stamp, count(s.Files, "file"), humanBytes(s.Bytes), verdict)
	t := table(w)
	fmt.Fprint(t, "  SOURCE\tKIND\t      SIZE\tFILES\t\n")
	for _, src := range s.Sources {
		if !src.Captured {
			fmt.Fprintf(t, "  %s\t%s\t%10s\t%5s\t%s\n", src.Name, src.Kind, "-", "-", c.whyNot(src.Name))
			continue
		}
		note := ""
		if n := len(src.Skipped); n > 0 {
			note = count(n, "special file") + " left out: sockets, pipes and devices are not copied"
		}
		fmt.Fprintf(t, "  %s\t%s\t%10s\t%5d\t%s\n", src.Name, src.Kind, humanBytes(src.Bytes), src.Files, note)
	}
	t.Flush()
	writeProblems(w, s.Problems)
}

// whyNot says why a new snapshot has not captured a source.
func (c *call) whyNot(name string) string {
	for _, src := range c.sources {
		if src.Name == name && src.OnRequest && !slices.Contains(c.include, name) {
			return "not asked for: -include " + name
		}
	}
	return "missing"
}

func (c *call) writeList(w io.Writer, snapshots []backup.Snapshot) {
	if len(snapshots) == 0 {
		fmt.Fprintln(w, "no snapshots")
		return
	}
	t := table(w)
	fmt.Fprint(t, "STAMP\t AGE\t      SIZE\tFILES\tORIGIN\tSTATE\tSOURCES\n")
	var total int64
	for i := range snapshots {
		s := &snapshots[i]
		size, files := "-", "-" // unknown
		if s.Origin != "" {
			size, files = humanBytes(s.Bytes), strconv.Itoa(s.Files)
		}
		total += s.Bytes
		fmt.Fprintf(t, "%s\t%4s\t%10s\t%5s\t%s\t%s\t%s\n", s.Stamp, humanAge(c.now.Sub(s.CreatedAt)), size, files,
			orDash(s.Origin), state(s), orDash(strings.Join(captured(s), ", ")))
	}
	t.Flush()
	fmt.Fprintf(w, "\n%s, %s\n", count(len(snapshots), "snapshot"), humanBytes(total))
}

// state sums up what is known about a snapshot.
func state(s *backup.Snapshot) string {
	var words []string
	found := codes(s.Problems)
	switch {
	case slices.Contains(found, string(backup.CodeMetadataMissing)):
		words = append(words, "incomplete")
	case len(found) > 0:
		words = append(words, "invalid: "+strings.Join(found, ", "))
	case !s.Validated:
		words = append(words, "not validated")
	default:
		words = append(words, "ok")
	}
	if s.Pinned {
		words = append(words, "pinned")
	}
	if s.InUse {
		words = append(words, "in use")
	}
	return strings.Join(words, ", ")
}

func captured(s *backup.Snapshot) []string {
	var names []string
	for _, src := range s.Sources {
		if src.Captured {
			names = append(names, src.Name)
		}
	}
	return names
}

// codes returns the codes of problems, each once, sorted.
func codes(problems []backup.Problem) []string {
	var found []string
	for _, p := range problems {
		found = append(found, string(p.Code))
	}
	slices.Sort(found)
	return slices.Compact(found)
}

// writeProblems lists problems, as many as one can read. SQLite may have a
// hundred lines on one database.
func writeProblems(w io.Writer, problems []backup.Problem) {
	const most, mostLines = 20, 4
	for i, p := range problems {
		if i == most {
			fmt.Fprintf(w, "  and %s more: see -json\n", count(len(problems)-i, "problem"))
			return
		}
		lines := strings.Split(p.Error(), "\n")
		if more := len(lines) - mostLines; more > 0 {
			lines = append(lines[:mostLines], fmt.Sprintf("and %s more: see -json", count(more, "line")))
		}
		fmt.Fprintf(w, "  %s\n", strings.Join(lines, "\n    "))
	}
}

func writeReport(w io.Writer, r *backup.Report) {
	switch {
	case r.Valid:
		fmt.Fprintf(w, "%s is valid (%v): %s, %s\n", r.Stamp, r.Level, count(r.Files, "file"), humanBytes(r.Bytes))
	case !r.Exists:
		fmt.Fprintf(w, "%s does not exist\n", r.Stamp)
	default:
		fmt.Fprintf(w, "%s is NOT VALID (%v): %s\n", r.Stamp, r.Level, count(len(r.Problems), "problem"))
		writeProblems(w, r.Problems)
	}
}

func (c *call) writeRestoration(w io.Writer, r *backup.Restoration) {
	what := fmt.Sprintf("%s: %s (%s)", r.Stamp, strings.Join(r.Restored, ", "), humanBytes(r.Bytes))
	if r.DryRun {
		fmt.Fprintf(w, "would restore %s\nNothing was changed: this was a dry run.\n", what)
		return
	}
	fmt.Fprintf(w, "restored %s\n", what)
	if !r.IntegrityOK {
		fmt.Fprintln(w, "A database was put back as it had been found, and has not passed SQLite's checks: look at it before the service starts.")
	}
	if r.SafetyStamp == "" {
		fmt.Fprintln(w, "No safety snapshot was taken: what was replaced is gone.")
		return
	}
	fmt.Fprintf(w, "What was replaced is in %s; to undo, run: atobackup restore", r.SafetyStamp)
	if c.configFile != "" {
		fmt.Fprintf(w, " -config %s", c.configFile)
	}
	fmt.Fprintf(w, " -confirm-service-stopped %s\n", r.SafetyStamp)
	if len(r.SafetyProblems) > 0 {
		fmt.Fprintf(w, "It has %s, and the undo brings back no more than it has:\n", count(len(r.SafetyProblems), "problem"))
		writeProblems(w, r.SafetyProblems)
	}
}

func writeRecovery(w io.Writer, r *backup.Recovery) {
	what := fmt.Sprintf("restore of %s (%s)", r.Stamp, strings.Join(r.Sources, ", "))
	switch r.Outcome {
	case backup.NothingPending:
		fmt.Fprintln(w, "nothing to recover: no restore was interrupted")
	case backup.RestoreFinished:
		fmt.Fprintf(w, "finished the interrupted %s\n", what)
	case backup.RestoreUndone:
		fmt.Fprintf(w, "undid the interrupted %s: the state is as it was before\n", what)
	default:
		fmt.Fprintf(w, "tidied up after the interrupted %s: the state was whole already\n", what)
	}
	if r.SafetyStamp != "" {
		fmt.Fprintf(w, "What was to be replaced is in %s.\n", r.SafetyStamp)
	}
}

func writeCleanup(w io.Writer, r *backup.Cleanup) {
	remove, total := "deleted", fmt.Sprintf("%d kept, %d deleted", r.Kept, r.Deleted)
	if r.DryRun {
		remove, total = "would delete", fmt.Sprintf("%d kept, %d would be deleted", r.Kept, r.WouldDelete)
	}
	if len(r.Decisions) > 0 {
		t := table(w)
		fmt.Fprint(t, "STAMP\tDECISION\tREASONS\n")
		for _, d := range r.Decisions {
			decision := remove
			if d.Keep {
				decision = "keep"
			}
			fmt.Fprintf(t, "%s\t%s\t%s\n", d.Stamp, decision, strings.Join(d.Reasons, "; "))
		}
		t.Flush()
		fmt.Fprintln(w)
	}
	if len(r.Unparseable) > 0 {
		fmt.Fprintf(w, "not snapshots, left alone: %q\n", r.Unparseable)
	}
	fmt.Fprintln(w, total)
	if r.DryRun {
		fmt.Fprintln(w, "Nothing was deleted: this was a dry run. To delete, add -confirm.")
	}
}
