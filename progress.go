package backup

import (
	"context"
	"maps"
	"slices"
)

// A meter reports the progress of one operation. The total of a source is
// fixed when it begins: what is copied a second time, or has grown since,
// does not count.
type meter struct {
	op     string
	report func(Progress)
	total  map[string]int64 // bytes, by source
	done   map[string]int64
}

func (s *Store) newMeter(op string) *meter {
	return &meter{op: op, report: s.cfg.Progress, total: make(map[string]int64), done: make(map[string]int64)}
}

// silentMeter returns a meter of what is reported to nobody.
func silentMeter() *meter {
	return &meter{report: func(Progress) {}, done: make(map[string]int64)}
}

// of returns a function that counts n more bytes of a source. It does not
// count to the end: that is for finish.
func (m *meter) of(source string) func(n int64) {
	return func(n int64) { m.set(source, max(0, min(m.done[source]+n, m.total[source]-1))) }
}

// finish reports all sources as done.
func (m *meter) finish() {
	for _, source := range slices.Sorted(maps.Keys(m.total)) {
		m.set(source, m.total[source])
	}
}

func (m *meter) set(source string, done int64) {
	m.done[source] = done
	m.report(Progress{Op: m.op, Source: source, Done: m.done[source], Total: m.total[source]})
}

// A tally tells a meter what a member of a crew has done of a source, and does
// not call the goroutine of the operation away from its work too often.
type tally struct {
	ctx    context.Context
	crew   *crew
	meter  *meter
	source string
	bytes  int64
}

// of has what comes next count for a source.
func (t *tally) of(source string) {
	if source != t.source {
		t.report()
		t.source = source
	}
}

func (t *tally) count(n int64) {
	if t.bytes += n; t.bytes >= handfulBytes || t.crew.size() == 1 {
		t.report()
	}
}

func (t *tally) report() {
	if t.bytes > 0 {
		source, n := t.source, t.bytes
		t.crew.call(func() {
			if t.ctx.Err() == nil { // the host wants to hear no more of it
				t.meter.of(source)(n)
			}
		})
	}
	t.bytes = 0
}
