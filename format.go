package backup

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
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
	if err := parseJSON(slices.Concat(body, []byte("\n}")), v); err != nil {
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

// parseJSON decodes data into v. Its errors quote nothing of data.
func parseJSON(data []byte, v any) error {
	switch err := json.Unmarshal(data, v).(type) {
	case nil:
		return nil
	case *json.SyntaxError:
		return fmt.Errorf("no JSON from byte %d on", err.Offset)
	case *json.UnmarshalTypeError:
		return fmt.Errorf("%q, before byte %d: of another type", err.Field, err.Offset)
	}
	return errors.New("a value that is malformed") // a time, or a name in base64
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
