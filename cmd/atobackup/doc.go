// Atobackup backs up the state of a running service, proves that a backup is
// good, puts it back, and thins old ones out. It is the library
// [github.com/atocore/backup] for operators and containers.
//
//	atobackup VERB -config FILE [flags] [STAMP]
//
// Flags may stand before or after STAMP, with one dash or two.
// "atobackup help VERB" lists the flags of a verb.
//
// # Verbs
//
//	create           take a snapshot while the service runs, and read it back
//	list             list the snapshots, newest first
//	validate STAMP   prove that a snapshot is good
//	restore STAMP    replace the live state by a snapshot's; the service is stopped
//	recover          finish or undo a restore that was interrupted
//	cleanup          say which snapshots the retention does not keep, and remove them with -confirm
//	delete STAMP     remove one snapshot, whatever the retention says; needs -confirm
//
// STAMP is a snapshot's name as list shows it, such as 20260406T180000Z. For
// validate and restore it may also be the word latest: the newest snapshot
// that is finished, that no restore took as its safety snapshot, and that is
// not dated in the future. If that one is damaged, that is the answer: an older
// one is never taken in its stead.
//
// What list and cleanup say of a snapshot was recorded when it was taken; only
// validate, and restore before it does anything, look at the bytes. Before it
// removes anything, cleanup -confirm looks whether the newest good snapshot,
// that of each source, and as many as -min-keep demands still have all their
// files.
//
// In containers, run recover before the service starts: it does nothing if
// there is nothing to do.
//
// # Configuration
//
// The file is one JSON object:
//
//	{
//	  "dir": "/var/backups/atocore",
//	  "sources": [
//	    {"name": "db", "kind": "database", "path": "/srv/data/atocore.db"},
//	    {"name": "config", "kind": "file", "path": "/srv/config/project-registry.json", "optional": true},
//	    {"name": "chroma", "kind": "tree", "path": "/srv/chroma", "on_request": true}
//	  ],
//	  "retention": {"daily": 7, "weekly": 4, "monthly": 6, "within": "48h", "calendar": "anchored", "min_keep": 2},
//	  "location": "Europe/Berlin",
//	  "busy_timeout": "10s"
//	}
//
// Its paths, if relative, are relative to its own directory. An optional
// source may be missing; one that is on_request is captured only when
// "create -include NAME" asks for it. What has not changed in a tree that is
// link_unchanged is linked to the newest good snapshot's, and not copied. The
// rules of the retention are last, within, hourly, daily, weekly, monthly and
// yearly; -1 stands for all of them. If it sets no rule, the rules are daily 7,
// weekly 4, monthly 6.
// Calendar "anchored" counts Sundays, firsts of a month and firsts of January;
// "newest" counts weeks, months and years. Location is the time zone of these
// days (UTC if absent), busy_timeout how long to wait for a locked database.
// Durations are like "90m", "48h" or "30d". Keys that are unknown or there
// twice, and anything after the object, are refused.
//
// Every setting is also a flag, which wins over the file, and with enough of
// them there need be no file: -dir, -location, -busy-timeout, -keep-last,
// -keep-within, -keep-hourly, -keep-daily, -keep-weekly, -keep-monthly,
// -keep-yearly, -calendar, -min-keep, and, once for each source,
//
//	-source name=db,kind=database,path=/srv/data/atocore.db,optional,on_request
//
// where a field with a comma is put in double quotes, as in CSV:
// name=db,kind=file,"path=/srv/a,b". A source takes the place of the file's
// of the same name, or is added to them. Relative paths in flags are relative
// to the working directory.
//
// # Output
//
// Standard output has the outcome: a table for people, or with -json exactly
// one JSON object, whatever happened. Its key "error" is there if and only if
// the exit code is not 0, beside what else there is to tell. Standard error
// has errors, with what to do about them, the stamp that latest stands for and
// those that were passed over, and a progress bar if it is a terminal.
//
// # Exit codes
//
//	0  done
//	1  failed
//	2  the command line or the configuration is wrong; nothing was done
//	3  the snapshot is not valid: validate found it damaged or missing, restore
//	   refused it, or create has kept a copy that did not pass
//
// SIGINT and SIGTERM end an operation in good order: create removes what it
// wrote, restore puts the old state back. It then failed. A second one kills,
// after which recover may have to be run.
package main
