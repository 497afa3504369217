package backup

import (
	"cmp"
	"encoding/json"
	"strconv"
	"strings"
	"time"
)

// A manifest may have a line for each of a million files. encoding/json takes
// several times as long over one as the rest of what is done with it, so lines
// are written and, as far as that is easily done, taken apart by hand.

// A jsonAppender appends what an object has, each key with the brace or comma
// before it, as encoding/json writes it. FuzzEntry holds it to that.
type jsonAppender struct {
	text []byte
	err  error
}

func (a *jsonAppender) addString(key, s string) {
	a.text = append(a.text, key...)
	if !isPlain(s) {
		a.marshal(s)
		return
	}
	a.text = append(a.text, '"')
	a.text = append(a.text, s...)
	a.text = append(a.text, '"')
}

func (a *jsonAppender) addName(key string, s rawString) {
	if isPlain(s) {
		a.addString(key, string(s))
		return
	}
	a.text = append(a.text, key...)
	a.marshal(s)
}

func (a *jsonAppender) marshal(v any) {
	data, err := json.Marshal(v)
	a.text, a.err = append(a.text, data...), cmp.Or(a.err, err)
}

func (a *jsonAppender) addStringIfAny(key, s string) {
	if s != "" {
		a.addString(key, s)
	}
}

func (a *jsonAppender) addNameIfAny(key string, s rawString) {
	if s != "" {
		a.addName(key, s)
	}
}

func (a *jsonAppender) addIntIfAny(key string, n int64) {
	if n != 0 {
		a.text = strconv.AppendInt(append(a.text, key...), n, 10)
	}
}

func (a *jsonAppender) addUintIfAny(key string, n uint64) {
	if n != 0 {
		a.text = strconv.AppendUint(append(a.text, key...), n, 10)
	}
}

func (a *jsonAppender) addTimeIfAny(key string, t time.Time) {
	if t.IsZero() {
		return
	}
	text, err := t.AppendText(append(append(a.text, key...), '"'))
	a.text, a.err = append(text, '"'), cmp.Or(a.err, err)
}

// isPlain reports whether JSON has nothing to escape in s, as far as can be
// told at a glance.
func isPlain[T rawString | string](s T) bool {
	for i := range len(s) {
		switch c := s[i]; c {
		case '"', '\\', '<', '>', '&':
			return false
		default:
			if c < ' ' || c > '~' {
				return false
			}
		}
	}
	return true
}

// A jsonCutter cuts values off what a jsonAppender wrote, for who will compare:
// what it does not find is zero, and what is escaped stays so.
type jsonCutter struct{ rest string }

func (c *jsonCutter) cutString(key string) string {
	rest, ok := strings.CutPrefix(c.rest, key)
	if rest == "" || !ok || rest[0] != '"' {
		return ""
	}
	value, rest, _ := strings.Cut(rest[1:], `"`)
	c.rest = rest
	return value
}

func (c *jsonCutter) cutTime(key string) (t time.Time) {
	text := c.cutString(key)
	if text == "" {
		return time.Time{}
	}
	if err := t.UnmarshalText([]byte(text)); err != nil {
		return time.Time{}
	}
	return t
}

func (c *jsonCutter) cutInt(key string) int64 {
	return cutNumber(c, key, func(s string) (int64, error) { return strconv.ParseInt(s, 10, 64) })
}

func (c *jsonCutter) cutUint(key string) uint64 {
	return cutNumber(c, key, func(s string) (uint64, error) { return strconv.ParseUint(s, 10, 64) })
}

func cutNumber[T int64 | uint64](c *jsonCutter, key string, parse func(string) (T, error)) T {
	rest, ok := strings.CutPrefix(c.rest, key)
	if !ok {
		return 0
	}
	i := max(0, strings.IndexAny(rest, ",}"))
	n, err := parse(rest[:i])
	if err != nil {
		return 0
	}
	c.rest = rest[i:]
	return n
}
