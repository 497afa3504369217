package main

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/atocore/backup"
)

// settings are the content of the configuration file, which flags then
// override.
type settings struct {
	Dir         string    `json:"dir"`
	Sources     []source  `json:"sources"`
	Retention   retention `json:"retention"`
	Location    string    `json:"location"`     // IANA name; "" is UTC
	BusyTimeout duration  `json:"busy_timeout"` // 0 is the library's default
}

type source struct {
	Name      string      `json:"name"`
	Kind      backup.Kind `json:"kind"`
	Path      string      `json:"path"`
	Optional  bool        `json:"optional"`
	OnRequest bool        `json:"on_request"`

	LinkUnchanged bool `json:"link_unchanged"`
}

// retention is a [backup.Retention] whose rules know whether they were set.
type retention struct {
	Last     *int            `json:"last"`
	Within   *duration       `json:"within"`
	Hourly   *int            `json:"hourly"`
	Daily    *int            `json:"daily"`
	Weekly   *int            `json:"weekly"`
	Monthly  *int            `json:"monthly"`
	Yearly   *int            `json:"yearly"`
	Calendar backup.Calendar `json:"calendar"`
	MinKeep  int             `json:"min_keep"`
}

// config returns the configuration that file and flags make together.
func (o *options) config() (backup.Config, error) {
	s := new(settings)
	if o.configFile != "" {
		var err error
		if s, err = readSettings(o.configFile); err != nil {
			return backup.Config{}, usagef("config %s: %w", o.configFile, err)
		}
	}
	for _, override := range o.overrides {
		override(s)
	}
	cfg, err := s.config()
	if err != nil {
		return backup.Config{}, usagef("config: %w", err)
	}
	return cfg, nil
}

func (s *settings) config() (backup.Config, error) {
	cfg := backup.Config{Dir: s.Dir, BusyTimeout: time.Duration(s.BusyTimeout)}
	for _, src := range s.Sources {
		cfg.Sources = append(cfg.Sources, backup.Source{
			Name: src.Name, Kind: src.Kind, Path: src.Path, Optional: src.Optional, OnRequest: src.OnRequest, LinkUnchanged: src.LinkUnchanged,
		})
	}
	var errs [2]error
	cfg.Location, errs[0] = time.LoadLocation(s.Location)
	cfg.Retention, errs[1] = s.Retention.resolve()
	return cfg, errors.Join(errs[:]...)
}

// setSource puts src in the place of the source of its name, or behind all
// others.
func (s *settings) setSource(src source) {
	i := slices.IndexFunc(s.Sources, func(other source) bool { return other.Name == src.Name })
	if i < 0 {
		s.Sources = append(s.Sources, src)
		return
	}
	s.Sources[i] = src
}

// resolve returns what r says, with the rules of the default if it has none.
// Rules that are all 0 are refused: the library takes a Retention without
// rules for the default in one place and for "keep everything" in another,
// and whoever wrote them may have meant either.
func (r *retention) resolve() (backup.Retention, error) {
	var out backup.Retention
	any := false
	for _, rule := range []struct {
		from *int
		to   *int
	}{
		{r.Last, &out.Last}, {r.Hourly, &out.Hourly}, {r.Daily, &out.Daily},
		{r.Weekly, &out.Weekly}, {r.Monthly, &out.Monthly}, {r.Yearly, &out.Yearly},
	} {
		if rule.from != nil {
			*rule.to, any = *rule.from, true
		}
	}
	if r.Within != nil {
		out.Within, any = time.Duration(*r.Within), true
	}
	switch {
	case !any:
		out = backup.DefaultRetention()
	case out == backup.Retention{}:
		return out, errors.New("retention: every rule is 0: to keep all snapshots, set last to -1; for the default, set no rule")
	}
	out.Calendar, out.MinKeep = r.Calendar, r.MinKeep
	return out, nil
}

// readSettings reads a configuration file. Relative paths in it become
// relative to the working directory instead of the file's.
func readSettings(file string) (*settings, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	s, err := parseSettings(data)
	if err != nil {
		return nil, err
	}
	s.Dir, err = pathFrom(file, s.Dir)
	for i := range s.Sources {
		var pathErr error
		s.Sources[i].Path, pathErr = pathFrom(file, s.Sources[i].Path)
		err = errors.Join(err, pathErr)
	}
	return s, err
}

// pathFrom returns what p in a file stands for. One that goes up from a directory
// that is reached through a link is refused if the system would take it, from there,
// for another place.
func pathFrom(file, p string) (string, error) {
	if p == "" || filepath.IsAbs(p) {
		return p, nil
	}
	dir := filepath.Dir(file)
	up := ""
	for name := range strings.SplitSeq(filepath.ToSlash(p), "/") {
		if name != ".." {
			break
		}
		up += "/.."
	}
	if meant, err := os.Stat(dir + up); err == nil { // filepath.Join would leave out dir's last element, be it a link or not
		if got, err := os.Stat(filepath.Join(dir, up)); err != nil || !os.SameFile(meant, got) {
			return "", fmt.Errorf("path %q: %s is reached through a symbolic link, and what is above it is another directory: write an absolute path", p, dir)
		}
	}
	return filepath.Join(dir, p), nil
}

// parseSettings decodes a configuration file and refuses whatever would be
// lost in silence.
func parseSettings(data []byte) (*settings, error) {
	s := new(settings)
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(s); err != nil {
		return nil, explain(data, err)
	}
	if rest := bytes.TrimLeft(data[dec.InputOffset():], " \t\r\n"); len(rest) > 0 {
		return nil, fmt.Errorf("line %d: there is something behind the closing brace", lineOf(data, int64(len(data)-len(rest)+1)))
	}
	return s, checkKeys(json.NewDecoder(bytes.NewReader(data)))
}

// checkKeys refuses an object with a key twice, of which encoding/json would
// take the last one.
func checkKeys(dec *json.Decoder) error {
	token, err := dec.Token()
	delim, ok := token.(json.Delim)
	if err != nil || !ok {
		return err
	}
	seen := make(map[string]bool)
	for dec.More() {
		if delim == '{' {
			token, err := dec.Token()
			if err != nil {
				return err
			}
			key, _ := token.(string)
			if seen[strings.ToLower(key)] { // encoding/json does not tell them apart
				return fmt.Errorf("key %q is there twice", key)
			}
			seen[strings.ToLower(key)] = true
		}
		if err := checkKeys(dec); err != nil {
			return err
		}
	}
	_, err = dec.Token() // the closing one
	return err
}

// explain says where in the file an error of encoding/json is, and what
// belongs there.
func explain(data []byte, err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.New("it ends in the middle: want one JSON object")
	}
	if e, ok := errors.AsType[*json.SyntaxError](err); ok {
		return fmt.Errorf("line %d: %w", lineOf(data, e.Offset), err)
	}
	e, ok := errors.AsType[*json.UnmarshalTypeError](err)
	if !ok {
		return err
	}
	where := e.Field
	if where == "" {
		where = "the file"
	}
	return fmt.Errorf("line %d: %s: want %s, got %s", lineOf(data, e.Offset), where, wanted(e.Type), e.Value)
}

// wanted says how a value of a setting's type is written.
func wanted(t reflect.Type) string {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch t {
	case reflect.TypeFor[duration]():
		return `a duration such as "48h"`
	case reflect.TypeFor[backup.Calendar]():
		return `"anchored" or "newest"`
	}
	switch t.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.Int:
		return "a whole number"
	case reflect.Slice:
		return "a list in brackets"
	case reflect.Struct:
		return "an object in braces"
	}
	return "text in quotes"
}

func lineOf(data []byte, offset int64) int {
	return 1 + bytes.Count(data[:min(max(offset-1, 0), int64(len(data)))], []byte("\n"))
}

// parseSource reads the value of -source.
func parseSource(value string) (source, error) {
	var src source
	records, err := csv.NewReader(strings.NewReader(value)).ReadAll()
	if err != nil {
		return src, err
	}
	if len(records) != 1 {
		return src, errors.New("want one line: name=…,kind=…,path=…")
	}
	for _, field := range records[0] {
		key, value, assigned := strings.Cut(field, "=")
		switch key {
		case "name":
			src.Name = value
		case "kind":
			src.Kind = backup.Kind(value)
		case "path":
			src.Path = value
		case "optional":
			src.Optional, err = parseFlag(value, assigned)
		case "on_request":
			src.OnRequest, err = parseFlag(value, assigned)
		case "link_unchanged":
			src.LinkUnchanged, err = parseFlag(value, assigned)
		default:
			return src, fmt.Errorf("%q: want name=, kind=, path=, optional, on_request or link_unchanged", field)
		}
		if err != nil {
			return src, fmt.Errorf("%q: want true or false", field)
		}
	}
	return src, nil
}

func parseFlag(value string, assigned bool) (bool, error) {
	if !assigned {
		return true, nil
	}
	return strconv.ParseBool(value)
}

// A duration is written as [time.ParseDuration] has it, or in days: "30d".
type duration time.Duration

func (d *duration) UnmarshalText(text []byte) error {
	const day = 24 * time.Hour
	value := string(text)
	if days, ok := strings.CutSuffix(value, "d"); ok {
		n, err := strconv.ParseInt(days, 10, 64)
		if err != nil || n > int64(1<<63-1)/int64(day) || n < 0 {
			return fmt.Errorf(`duration %q: want one such as "48h" or "30d"`, value)
		}
		*d = duration(n) * duration(day)
		return nil
	}
	parsed, err := time.ParseDuration(value)
	if err != nil {
		return fmt.Errorf(`duration %q: want one such as "48h" or "30d"`, value)
	}
	*d = duration(parsed)
	return nil
}
