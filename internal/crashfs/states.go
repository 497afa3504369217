package crashfs

import (
	"encoding/binary"
	"fmt"
	"iter"
	"math/rand/v2"
	"slices"
	"strings"
)

const (
	tornFiles    = 4  // files whose last write is torn, the latest ones
	randomStates = 32 // subsets to try at random where there are too many
)

// CrashStates iterates over the file systems that may be left if the power is
// cut now, with a label for messages that names the operations whose effects
// are lost or kept. What makes no difference, such as the fate of a write to a
// file whose name is lost, is not varied.
//
// If there are at most limit pending effects, not counting changes of
// attributes, these are all of their subsets. Otherwise they are: all, none,
// what the first n operations did, for every n; all but one and what depends
// on it; one and what it depends on; all names and no content, all content and
// no names; and some random subsets, the same each time. In either case come
// the states where the last write of a file is torn, with all other effects
// kept, or those after it lost; for the four files written last.
//
// Changes of attributes are not chosen one by one: they are lost in none, in
// first-n if they come later, all of them in one more state, and else kept.
//
// The file system must not be changed while the iteration goes on.
func (fsys *FS) CrashStates(limit int) iter.Seq2[string, *FS] {
	return func(yield func(string, *FS) bool) {
		fsys.mu.Lock()
		s := &states{fsys: fsys, seq: fsys.seq, all: fsys.pendingEffects(), yield: yield, seen: map[string]bool{}}
		fsys.mu.Unlock()
		s.enumerate(limit)
	}
}

// states enumerates what may become of effects.
type states struct {
	fsys  *FS
	seq   int // of the file system when it began
	all   []*effect
	yield func(string, *FS) bool
	seen  map[string]bool
	done  bool // yield wants no more
}

func (s *states) enumerate(limit int) {
	var units []int // indices of the effects to choose among
	for i, e := range s.all {
		if !e.settled && e.Kind != Attrs {
			units = append(units, i)
		}
	}
	s.try(func(int) Fate { return Kept })
	s.try(func(int) Fate { return Lost })
	if len(units) <= limit {
		s.subsets(units)
	} else {
		s.prefixes(units)
		s.singles(units)
		s.random(len(units))
	}
	s.torn()
	s.try(func(i int) Fate { return keptIf(s.all[i].Kind != Attrs) })
}

// try visits the state that fate means, unless it was visited before.
func (s *states) try(fate func(i int) Fate) {
	if s.done {
		return
	}
	fates := make([]Fate, len(s.all))
	for i := range fates {
		fates[i] = fate(i)
	}
	consistent(s.all, fates)
	var key []byte
	for _, fate := range fates {
		key = binary.AppendVarint(key, int64(fate))
	}
	if !s.seen[string(key)] {
		s.seen[string(key)] = true
		s.done = !s.yield(s.label(fates), s.crashed(fates))
	}
}

// tryUnits tries a state in which all changes of attributes are kept.
func (s *states) tryUnits(kept func(i int) bool) {
	s.try(func(i int) Fate { return keptIf(s.all[i].Kind == Attrs || kept(i)) })
}

func (s *states) crashed(fates []Fate) *FS {
	s.fsys.mu.Lock()
	defer s.fsys.mu.Unlock()
	if s.fsys.seq != s.seq {
		panic("crashfs: the file system was changed during CrashStates")
	}
	return s.fsys.crashed(s.all, fates)
}

// subsets tries every subset of units.
func (s *states) subsets(units []int) {
	bit := make([]uint64, len(s.all)) // of the mask, 0 for what is always kept
	for i, unit := range units {
		bit[unit] = 1 << i
	}
	for mask := uint64(1)<<len(units) - 1; mask > 0 && !s.done; mask-- {
		s.tryUnits(func(i int) bool { return mask&bit[i] == bit[i] })
	}
}

// prefixes tries what the first operations left.
func (s *states) prefixes(units []int) {
	for _, last := range units {
		s.try(func(i int) Fate { return keptIf(i <= last) })
	}
}

// singles tries what differs in one effect, or one kind of effects, from none
// or all.
func (s *states) singles(units []int) {
	for _, one := range units {
		needs, without := s.needs(one), s.without(one)
		s.tryUnits(func(i int) bool { return !without[i] })
		s.tryUnits(func(i int) bool { return needs[i] })
	}
	s.tryUnits(func(i int) bool { return s.all[i].slots != nil })
	s.tryUnits(func(i int) bool { return s.all[i].slots == nil })
}

// random tries subsets that have from 4/8 to 7/8 of the n units. With fewer, most
// of those would be lost with others that they depend on.
func (s *states) random(n int) {
	r := rand.New(rand.NewPCG(1, uint64(n)))
	for i := range randomStates {
		s.tryUnits(func(int) bool { return r.IntN(8) < 4+i%4 })
	}
}

// torn tries torn variants of the last writes.
func (s *states) torn() {
	files := map[*inode]bool{}
	for i, e := range slices.Backward(s.all) {
		if !e.tearable() || files[e.node] || len(files) == tornFiles {
			continue
		}
		files[e.node] = true
		n := e.sectors()
		for _, fate := range []Fate{Torn(1), Torn(n / 2), Torn(n - 1), TornTail(1), TornTail(n / 2), Zeroed} {
			s.try(func(j int) Fate { return pick(j == i, fate, Kept) })
			s.try(func(j int) Fate { return pick(j == i, fate, keptIf(j < i)) })
		}
	}
}

// needs marks effect one and what must be kept for it to be seen.
func (s *states) needs(one int) map[int]bool {
	marked := map[int]bool{one: true}
	if born := s.all[one].node.born; born != nil && !born.durable {
		marked[born.idx] = true
	}
	for i, e := range slices.Backward(s.all[:one+1]) {
		if marked[i] {
			for _, prior := range slices.Concat(e.after, e.under) {
				if !prior.durable {
					marked[prior.idx] = true
				}
			}
		}
	}
	return marked
}

// without marks effect one and what is lost with it.
func (s *states) without(one int) map[int]bool {
	marked := map[int]bool{one: true}
	for i, e := range s.all {
		if slices.ContainsFunc(slices.Concat(e.after, e.under), func(prior *effect) bool {
			return !prior.durable && marked[prior.idx]
		}) {
			marked[i] = true
		}
	}
	return marked
}

func keptIf(kept bool) Fate { return pick(kept, Kept, Lost) }

func pick(first bool, a, b Fate) Fate {
	if first {
		return a
	}
	return b
}

// label names the fates by the operations: the shorter of what is lost and
// what is kept.
func (s *states) label(fates []Fate) string {
	var kept, lost, torn []string
	for i, e := range s.all {
		op := fmt.Sprintf("#%d", e.Op)
		switch {
		case e.settled && fates[i] == Kept:
		case fates[i] == Kept:
			kept = append(kept, op)
		case fates[i] == Lost:
			lost = append(lost, op)
		default:
			torn = append(torn, op+" "+fates[i].String())
		}
	}
	label := "lost " + strings.Join(lost, " ")
	switch {
	case len(lost) == 0:
		label = fmt.Sprintf("all %d kept", len(kept)+len(torn))
	case len(kept)+len(torn) == 0:
		label = fmt.Sprintf("all %d lost", len(lost))
	case len(kept)+len(torn) < len(lost):
		label = "kept only " + strings.Join(append(kept, torn...), " ")
		torn = nil
	}
	return strings.Join(append([]string{label}, torn...), ", ")
}
