package backup_test

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"
)

// The tests that the package comment and docs/safety.md name are there.
func TestEvidenceExists(t *testing.T) {
	var doc []byte
	for _, name := range []string{"doc.go", "docs/safety.md"} {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		doc = append(doc, text...)
	}
	files, err := filepath.Glob("*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	defined := make(map[string]bool)
	for _, name := range files {
		source, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`(?m)^func ((?:Test|Fuzz|Benchmark)\w+)\(`).FindAllSubmatch(source, -1) {
			defined[string(m[1])] = true
		}
	}
	named := regexp.MustCompile(`\b(?:Test|Fuzz|Benchmark)[A-Z]\w+`).FindAllString(string(doc), -1)
	if len(named) < 15 {
		t.Errorf("the package comment names %d tests", len(named))
	}
	for _, name := range named {
		if !defined[name] {
			t.Errorf("%s: there is no such test", name)
		}
	}
}
