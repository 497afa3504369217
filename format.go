package backup

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
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
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return nil, err
	}
	body, ok := bytes.CutSuffix(data, []byte("\n}"))
	if !ok {
		return nil, fmt.Errorf("seal: %T is not an object with keys", v)
	}
	sum := sha256.Sum256(body)
	return fmt.Appendf(body, "%s%s\"\n}\n", sealKey, hex.EncodeToString(sum[:])), nil
}

// unseal decodes into v what seal made, and refuses anything else: any bit
// of data that is not as seal wrote it is noticed.
func unseal(data []byte, v any) error {
	i := bytes.LastIndex(data, []byte(sealKey))
	if i < 0 {
		return errors.New("no checksum")
	}
	body := data[:i]
	sum := sha256.Sum256(body)
	if want := fmt.Sprintf("%s%x\"\n}\n", sealKey, sum); string(data[i:]) != want {
		return errors.New("checksum mismatch")
	}
	if err := json.Unmarshal(append(bytes.Clone(body), "\n}"...), v); err != nil {
		return err
	}
	again, err := seal(v)
	if err != nil {
		return err
	}
	if !bytes.Equal(again, data) {
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
