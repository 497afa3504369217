package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"

	"github.com/atocore/backup"
)

// Tools sync what they have written as we do: the file and its directory, or
// the file system where there are many files.

const integrityCheck = "PRAGMA integrity_check"

// A care is what a rival takes beside the copy.
type care int

const (
	copied    care = iota // none
	validated             // integrity_check, and a checksum
)

// tools is a job of programs that run one after the other.
func tools(steps ...[]string) job { return job{task: task{Name: "tools", Steps: steps}} }

func sqliteBackup(db string, care care) contender {
	return sqliteCopy("sqlite3 .backup", func(out string) []string {
		return []string{"sqlite3", db, ".backup " + quote(out)}
	}, care)
}

func vacuumInto(db string, care care) contender {
	return sqliteCopy("sqlite3 VACUUM INTO", func(out string) []string {
		return []string{"sqlite3", db, "VACUUM INTO " + quote(out)}
	}, care)
}

// sqliteCopy is a copy made by the sqlite3 shell.
func sqliteCopy(name string, step func(out string) []string, care care) contender {
	c := contender{name: name + " + sync", needs: []string{"sqlite3"}}
	if care == validated {
		c.name = name + " + integrity_check + sha256sum + sync"
	}
	c.job = func(out string) job {
		file := filepath.Join(out, "app.db")
		steps := [][]string{step(file)}
		if care == validated {
			steps = append(steps, []string{"sqlite3", file, integrityCheck}, []string{"sha256sum", file})
		}
		return tools(append(steps, []string{"sync", file, out})...)
	}
	return c
}

// quote makes a string of SQL of a path, which the shell's commands take too.
func quote(path string) string { return "'" + strings.ReplaceAll(path, "'", "''") + "'" }

func cp(db string) contender {
	return contender{name: "cp --reflink=auto + sync", job: func(out string) job {
		file := filepath.Join(out, "app.db")
		return tools([]string{"cp", "--reflink=auto", db, file}, []string{"sync", file, out})
	}}
}

func cpValidated(db string) contender {
	return contender{name: "cp + integrity_check + sha256sum + sync", needs: []string{"sqlite3"}, job: func(out string) job {
		file := filepath.Join(out, "app.db")
		return tools([]string{"cp", "--reflink=auto", db, file},
			[]string{"sqlite3", file, integrityCheck}, []string{"sha256sum", file}, []string{"sync", file, out})
	}}
}

// sqliteCheck copies nothing. It is what a restore cannot do without.
func sqliteCheck(db string) contender {
	return contender{name: "sqlite3 integrity_check, and no copy", needs: []string{"sqlite3"}, job: func(string) job {
		return tools([]string{"sqlite3", db, integrityCheck})
	}}
}

func sha256sum(db string) contender {
	return contender{name: "sha256sum of it", job: func(string) job { return tools([]string{"sha256sum", db}) }}
}

func rsync(db string) contender {
	return contender{name: "rsync -a + sync", needs: []string{"rsync"}, job: func(out string) job {
		file := filepath.Join(out, "app.db")
		return tools([]string{"rsync", "-a", db, file}, []string{"sync", file, out})
	}}
}

func cpTree(dir string) contender {
	return contender{name: "cp -a + sync", job: func(out string) job {
		return tools([]string{"cp", "-a", dir, out}, []string{"sync", "-f", out})
	}}
}

// cpTreeValidated reads back the copy, as we do.
func cpTreeValidated(dir string) contender {
	const sums = `find "$1" -type f -print0 | xargs -0 sha256sum >"$1.sums"`
	return contender{name: "cp -a + sha256sum of all + sync", job: func(out string) job {
		copied := filepath.Join(out, "tree")
		return tools([]string{"cp", "-a", dir, copied}, []string{"sh", "-c", sums, "sh", copied}, []string{"sync", "-f", out})
	}}
}

func rsyncTree(dir string) contender {
	return contender{name: "rsync -a + sync", needs: []string{"rsync"}, job: func(out string) job {
		return tools([]string{"rsync", "-a", dir, out}, []string{"sync", "-f", out})
	}}
}

// rsyncTreeAgain links to a copy what has not changed.
func (l *lab) rsyncTreeAgain(dir string) contender {
	previous := l.newPath(l.dir, "rsync")
	return contender{
		name:  "rsync -a --link-dest + sync",
		needs: []string{"rsync"},
		keep:  previous,
		setup: func(ctx context.Context) error {
			_, err := l.runJob(ctx, 0, tools([]string{"rsync", "-a", dir, previous}))
			return err
		},
		job: func(out string) job {
			return tools([]string{"rsync", "-a", "--link-dest=" + previous, dir, out}, []string{"sync", "-f", out})
		},
	}
}

// linkAndRead does no more than a second snapshot cannot do without: it links
// all files, and reads them, on two cores. It compares nothing, and notes nothing.
func (l *lab) linkAndRead(dir string) contender {
	const both = `find "$1" -type f -print0 | xargs -0 sha256sum >"$2.sums" & cp -al "$1" "$2" && wait $!`
	previous := l.newPath(l.dir, "linked")
	return contender{
		name: "cp -al, beside sha256sum of all, + sync",
		keep: previous,
		setup: func(ctx context.Context) error {
			return runTools(ctx, []string{"cp", "-a", dir, previous})
		},
		job: func(out string) job {
			return tools([]string{"sh", "-c", both, "sh", previous, filepath.Join(out, "tree")}, []string{"sync", "-f", out})
		},
	}
}

// restic returns a command of restic on a repository. Without its cache,
// which lies in the home directory, it is not a copy twice.
func restic(repository string, args ...string) []string {
	return append([]string{"restic", "--quiet", "--no-cache", "--repo", repository}, args...)
}

// resticBackup reads back all that it has written.
func resticBackup(path string) contender {
	repository := func(out string) string { return filepath.Join(out, "repository") }
	return contender{
		name:  "restic backup + check --read-data + sync",
		needs: []string{"restic"},
		before: func(ctx context.Context, out string) error {
			return runTools(ctx, restic(repository(out), "init"))
		},
		job: func(out string) job {
			return tools(restic(repository(out), "backup", path),
				restic(repository(out), "check", "--read-data"), []string{"sync", "-f", out})
		},
	}
}

// resticBackupAgain has what has not changed in its repository.
func (l *lab) resticBackupAgain(path string) contender {
	repository := l.newPath(l.dir, "restic")
	return contender{
		name:  "restic backup + check --read-data + sync",
		needs: []string{"restic"},
		keep:  repository,
		setup: func(ctx context.Context) error {
			return runTools(ctx, restic(repository, "init"), restic(repository, "backup", path))
		},
		job: func(string) job {
			return tools(restic(repository, "backup", path),
				restic(repository, "check", "--read-data"), []string{"sync", "-f", repository})
		},
	}
}

func (l *lab) resticRestore(db string) contender {
	c := l.resticBackupAgain(db)
	c.name = "restic restore --verify + sync"
	repository := c.keep
	c.job = func(out string) job {
		return tools(restic(repository, "restore", "latest", "--verify", "--target", out), []string{"sync", "-f", out})
	}
	return c
}

// runTools runs programs that are not measured.
func runTools(ctx context.Context, steps ...[]string) error {
	return toolsTask(ctx, tools(steps...).task, nil)
}

// mattnBackup is SQLite's online backup, in one step, by mattn/go-sqlite3.
func mattnBackup(db string, care care) contender {
	c := contender{name: "mattn's online backup + sync", needs: []string{"mattn"}}
	what := "copy"
	if care == validated {
		c.name = "mattn's online backup + integrity_check + SHA-256 + sync"
		what = "validate"
	}
	c.job = func(out string) job {
		return job{rival: []string{"mattn", db, filepath.Join(out, "app.db"), what}}
	}
	return c
}

// pocketbaseBackup syncs the archive, which PocketBase does not.
func pocketbaseBackup(dir string) contender {
	const name = "bench.zip"
	return contender{
		name:  "PocketBase's CreateBackup + sync",
		needs: []string{"pocketbase"},
		job:   func(string) job { return job{rival: []string{"pocketbase", "backup", dir, name}} },
		after: func(context.Context) error { return os.RemoveAll(filepath.Join(dir, "backups")) },
	}
}

// pocketbaseEmbedded is ours within PocketBase's process, where its driver
// has to copy the databases: see "Other SQLite drivers" in the library.
func pocketbaseEmbedded(dir string, level backup.Level) contender {
	return contender{
		name:  "Create within PocketBase, each Source with its DB",
		needs: []string{"pocketbase"},
		job:   func(out string) job { return job{rival: []string{"pocketbase", "embedded", dir, out, level.String()}} },
	}
}
