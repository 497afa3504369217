package main

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/atocore/backup"
)

// The workloads, as the targets name them.
const (
	databaseValidated   = "database, validated"
	databaseCopied      = "database, copied"
	writtenValidated    = "database under a writer, validated"
	writtenCopied       = "database under a writer, copied"
	databaseRestored    = "database, restored"
	databaseLarge       = "database four times as large"
	treeFirst           = "tree, first snapshot"
	treeSecond          = "tree, second snapshot"
	treeRestored        = "tree, restored to an empty place"
	pocketbaseCopied    = "PocketBase's data, copied"
	pocketbaseValidated = "PocketBase's data, validated"
	xfsCopied           = "database on XFS, copied"
	xfsRestored         = "database on XFS, restored"
	xfsHeld             = "database on XFS under a writer, copied"
	xfsHeldSmall        = "database on XFS under a writer, a tenth as large, copied"
	listed              = "list of snapshots"
)

// A workload is work that several contenders do.
type workload struct {
	name       string
	dir        string   // to work in
	inputs     []string // what is read
	manyFiles  bool     // are written: see dispose
	needs      []string // see lab.has
	setup      func(context.Context) error
	writesTo   string        // a database that is written to meanwhile, or ""
	limit      time.Duration // for each contender; zero: none
	contenders []contender   // the first is ours, and the others are compared with it
}

// sizes are how large the inputs are.
type sizes struct {
	files, snapshots     int
	data, aux, uploads   int // PocketBase's: MB, MB and files
	patience             time.Duration
	database, databaseXL int // MB
}

func (l *lab) sizes() sizes {
	s := sizes{files: 10_000, snapshots: 10_000, data: 100, aux: 20, uploads: 1000, patience: time.Minute}
	if l.opts.quick {
		s = sizes{files: 300, snapshots: 100, data: 5, aux: 2, uploads: 50, patience: 3 * time.Second}
	}
	s.database, s.databaseXL = l.opts.size, 4*l.opts.size
	return s
}

// workloads are what is measured, in this order. Those with many small files are
// first: for minutes after gigabytes have been written, a disk is slower at these,
// and not for all contenders alike.
func (l *lab) workloads() []workload {
	var all []workload
	all = append(all, l.treeWorkloads()...)
	all = append(all, l.pocketbaseWorkloads()...)
	all = append(all, l.databaseWorkloads()...)
	all = append(all, l.xfsWorkloads()...)
	return append(all, l.listWorkload())
}

func (l *lab) databaseWorkloads() []workload {
	db := filepath.Join(l.dir, "app.db")
	idle := workload{dir: l.dir, inputs: []string{db}, setup: func(context.Context) error {
		return newDatabase(db, l.sizes().database)
	}}
	written := idle
	written.writesTo = db
	written.limit = l.sizes().patience // the backup API begins anew whenever another process commits

	return []workload{
		idle.of(databaseValidated,
			create(db, backup.ValidateFull), sqliteBackup(db, validated), vacuumInto(db, validated),
			mattnBackup(db, validated), resticBackup(db)),
		idle.of(databaseCopied,
			create(db, backup.ValidateStructure), cp(db), rsync(db), sqliteBackup(db, copied),
			vacuumInto(db, copied), mattnBackup(db, copied)),
		written.of(writtenValidated,
			create(db, backup.ValidateFull), sqliteBackup(db, validated), vacuumInto(db, validated),
			mattnBackup(db, validated), nothing()),
		written.of(writtenCopied,
			create(db, backup.ValidateStructure), vacuumInto(db, copied), mattnBackup(db, copied)),
		idle.of(databaseRestored,
			l.restore(withoutSafety, l.dir, db, backup.RestoreOptions{ConfirmServiceStopped: true, SkipSafetySnapshot: true}),
			l.restore("Restore", l.dir, db, backup.RestoreOptions{ConfirmServiceStopped: true}),
			cp(db), sqliteCheck(db), cpValidated(db), l.resticRestore(db)),
		l.largeWorkload(),
	}
}

// largeWorkload is of a database that no memory should depend on.
func (l *lab) largeWorkload() workload {
	db := filepath.Join(l.dir, "large.db")
	w := workload{dir: l.dir, inputs: []string{db}, setup: func(context.Context) error {
		return newDatabase(db, l.sizes().databaseXL)
	}}
	w = w.of(databaseLarge, create(db, backup.ValidateFull), sqliteBackup(db, validated))
	w.contenders[0].keep = db // is not needed afterwards
	return w
}

func (l *lab) treeWorkloads() []workload {
	tree := filepath.Join(l.dir, "tree")
	all := source{Name: "tree", Kind: backup.Tree, Path: tree}
	linked := all
	linked.LinkUnchanged = true
	w := workload{dir: l.dir, inputs: []string{tree}, manyFiles: true, setup: func(context.Context) error {
		return newTree(tree, l.sizes().files)
	}}
	return []workload{
		w.of(treeFirst,
			createOf("Create", backup.ValidateFull, all), cpTree(tree), cpTreeValidated(tree), rsyncTree(tree), resticBackup(tree)),
		w.of(treeSecond,
			l.createAgain(linkUnchanged, linked), l.createAgain("Create", all), createOf(firstSnapshot, backup.ValidateFull, all),
			l.rsyncTreeAgain(tree), l.linkAndRead(tree), l.resticBackupAgain(tree)),
		w.of(treeRestored, l.restoreTree(tree), cpTree(tree), rsyncTree(tree), l.resticRestore(tree)),
	}
}

func (l *lab) pocketbaseWorkloads() []workload {
	dir := filepath.Join(l.dir, "pb_data")
	w := workload{dir: l.dir, inputs: []string{dir}, manyFiles: true, needs: []string{"pocketbase"}, setup: func(ctx context.Context) error {
		if _, err := os.Stat(dir); err == nil {
			return nil // the other workload has made it
		}
		s := l.sizes()
		_, err := l.runJob(ctx, 0, job{rival: []string{
			"pocketbase", "fill", dir, strconv.Itoa(s.data), strconv.Itoa(s.aux), strconv.Itoa(s.uploads),
		}})
		return err
	}}
	all := source{Name: "pb_data", Kind: backup.Tree, Path: dir}
	return []workload{
		w.of(pocketbaseCopied,
			createOf("Create, ValidateStructure", backup.ValidateStructure, all),
			pocketbaseBackup(dir), cpTree(dir), pocketbaseEmbedded(dir, backup.ValidateStructure)),
		w.of(pocketbaseValidated,
			createOf("Create", backup.ValidateFull, all),
			pocketbaseBackup(dir), pocketbaseEmbedded(dir, backup.ValidateFull)),
	}
}

func (l *lab) xfsWorkloads() []workload {
	db, small := filepath.Join(l.xfs, "app.db"), filepath.Join(l.xfs, "small.db")
	w := workload{dir: l.xfs, inputs: []string{db}, needs: []string{"xfs"}, setup: func(context.Context) error {
		return newDatabase(db, l.sizes().database)
	}}
	held := w
	held.writesTo = db
	heldSmall := held
	heldSmall.inputs, heldSmall.writesTo = []string{small}, small
	heldSmall.setup = func(context.Context) error {
		return newDatabase(small, max(1, l.sizes().database/10))
	}
	return []workload{
		w.of(xfsCopied, create(db, backup.ValidateStructure), sha256sum(db), cp(db)),
		w.of(xfsRestored,
			l.restore(withoutSafety, l.xfs, db, backup.RestoreOptions{ConfirmServiceStopped: true, SkipSafetySnapshot: true}),
			sqliteCheck(db), cp(db)),
		held.of(xfsHeld, create(db, backup.ValidateStructure), nothing()),
		heldSmall.of(xfsHeldSmall, create(small, backup.ValidateStructure), nothing()),
	}
}

func (l *lab) listWorkload() workload {
	store := filepath.Join(l.dir, "listed")
	config := source{Name: "config", Kind: backup.File, Path: filepath.Join(l.dir, "config.json")}
	w := workload{dir: l.dir, inputs: []string{store}, setup: func(ctx context.Context) error {
		return newSnapshots(ctx, store, l.sizes().snapshots)
	}}
	list := contender{name: "List", keep: store, job: func(string) job {
		return job{task: task{Name: "list", Dir: store, Source: config}}
	}}
	return w.of(listed, list, cleanup("Cleanup, dry run", store, config, 0), cleanup("Cleanup of ten", store, config, 10))
}

// of returns the workload with a name and those who do it.
func (w workload) of(name string, contenders ...contender) workload {
	w.name, w.contenders = name, contenders
	return w
}
