package main

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"time"
)

// A fact is one that the numbers depend on.
type fact struct{ name, value string }

// facts are what the numbers depend on, and what they leave out.
func (l *lab) facts() []fact {
	s := l.sizes()
	cpu, memory := machine()
	facts := []fact{
		{"date", time.Now().UTC().Format(time.DateOnly)},
		{"command", "`" + strings.Join(append([]string{"go run ."}, os.Args[1:]...), " ") + "`"},
		{"library", commit()},
		{"runs", fmt.Sprint(l.opts.runs)},
		{"sizes", fmt.Sprintf("database %d MB and %d MB, tree of %d files of 4 KB, PocketBase's data.db %d MB, auxiliary.db %d MB and %d uploads, %d snapshots to list",
			s.database, s.databaseXL, s.files, s.data, s.aux, s.uploads, s.snapshots)},
		{"CPU", fmt.Sprintf("%s, %d cores", cpu, runtime.NumCPU())},
		{"memory", memory},
		{"system", runtime.GOOS + "/" + runtime.GOARCH + " " + kernel()},
		{"file system", fileSystem(l.dir)},
		{"Go", runtime.Version()},
		{"SQLite of ours", sqliteVersion()},
	}
	for _, tool := range [][]string{
		{"sqlite3", "--version"}, {"cp", "--version"}, {"rsync", "--version"}, {"restic", "version"}, {"mkfs.xfs", "-V"},
	} {
		if text, err := exec.Command(tool[0], tool[1:]...).Output(); err == nil {
			facts = append(facts, fact{tool[0], firstLine(text)})
		}
	}
	for _, name := range slices.Sorted(maps.Keys(l.rivals)) {
		facts = append(facts, fact{name, l.rivals[name]})
	}
	names := fact{"cached names and inodes", "dropped before each run, and free memory put together"}
	if l.keepsNames {
		names.value = "left as they were: to drop them takes root, and Linux"
	}
	facts = append(facts, names)
	for _, line := range l.skipped {
		facts = append(facts, fact{"skipped", line})
	}
	return facts
}

// commit names the library's, if it is in a repository.
func commit() string {
	text, err := exec.Command("git", "describe", "--always", "--dirty", "--exclude=*").Output()
	if err != nil {
		return "of no known commit"
	}
	return "commit " + firstLine(text)
}

func sqliteVersion() string {
	const driver = "github.com/ncruces/go-sqlite3"
	if info, ok := debug.ReadBuildInfo(); ok {
		return moduleVersion(info, driver)
	}
	return driver
}
