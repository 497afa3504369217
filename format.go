package backup

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// The two files that describe a snapshot, and the journal of a restore, are
// JSON in one canonical form: the bytes that we would write for what they
// say. Whatever differs, be it an unknown or duplicate key, trailing data or
// a space, is refused by encoding again and comparing.

// errNotCanonical: JSON that says something in other bytes than ours.
var errNotCanonical = errors.New("not in canonical form")

const sealKey = `,` + "\n" + `  "checksum": "`

// seal encodes v, a struct, as indented JSON whose last key is the SHA-256
// of all that stands before it.
func seal(v any) ([]byte, error) {
	body, err := sealable(v)
	if err != nil {
		return nil, err
	}
	return append(body, sealOf(body)...), nil
}

// sealable encodes v as what its seal is put behind.
func sealable(v any) ([]byte, error) {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return nil, err
	}
	body, ok := bytes.CutSuffix(data, []byte("\n}"))
	if !ok {
		return nil, fmt.Errorf("seal: %T is not an object with keys", v)
	}
	return body, nil
}

func sealOf(body []byte) string {
	sum := sha256.Sum256(body)
	return sealKey + hex.EncodeToString(sum[:]) + "\"\n}\n"
}

// sealed returns what the seal of data stands behind.
func sealed(data []byte) (body []byte, err error) {
	i := bytes.LastIndex(data, []byte(sealKey))
	if i < 0 {
		return nil, errors.New("no checksum")
	}
	if string(data[i:]) != sealOf(data[:i]) {
		return nil, errors.New("checksum mismatch")
	}
	return data[:i], nil
}

// unseal decodes into v what seal made, and refuses anything else: any bit
// of data that is not as seal wrote it is noticed.
func unseal(data []byte, v any) error {
	body, err := sealed(data)
	if err != nil {
		return err
	}
	return decodeSealed(body, v)
}

// decodeSealed decodes into v what stood before a good seal.
func decodeSealed(body []byte, v any) error {
	if err := json.Unmarshal(slices.Concat(body, []byte("\n}")), v); err != nil {
		return err
	}
	again, err := sealable(v)
	if err != nil {
		return err
	}
	if !bytes.Equal(again, body) {
		return errNotCanonical
	}
	return nil
}

// A rawString is a name as the file system has it. JSON holds text alone, so
// one that is not UTF-8 is written as {"base64": "…"}.
type rawString string

type rawBytes struct {
	Base64 string `json:"base64"`
}

func (s rawString) MarshalJSON() ([]byte, error) {
	if utf8.ValidString(string(s)) {
		return json.Marshal(string(s))
	}
	return json.Marshal(rawBytes{base64.StdEncoding.EncodeToString([]byte(s))})
}

func (s *rawString) UnmarshalJSON(data []byte) error {
	if !bytes.HasPrefix(data, []byte("{")) {
		return json.Unmarshal(data, (*string)(s))
	}
	var raw rawBytes
	if err := json.Unmarshal(data, &raw); err != nil {
		return err
	}
	b, err := base64.StdEncoding.DecodeString(raw.Base64)
	*s = rawString(b)
	return err
}

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
	if err := t.UnmarshalText([]byte(c.cutString(key))); err != nil {
		return time.Time{}
	}
	return t
}

func (c *jsonCutter) cutInt(key string) int64 {
	rest, ok := strings.CutPrefix(c.rest, key)
	if !ok {
		return 0
	}
	i := strings.IndexAny(rest, ",}")
	n, err := strconv.ParseInt(rest[:max(0, i)], 10, 64)
	if err != nil {
		return 0
	}
	c.rest = rest[i:]
	return n
}
