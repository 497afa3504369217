// Command pocketbase fills a data directory of PocketBase's and backs it up,
// as a process that the command bench measures.
package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/atocore/backup"
	"github.com/atocore/backup/bench/internal/measured"
	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"
	_ "github.com/pocketbase/pocketbase/migrations" // its tables
)

// verbs are what there is to do, and with which arguments.
var verbs = map[string]struct {
	args []string
	do   func(args []string) error
}{
	"fill":     {[]string{"DIR", "MB", "AUX_MB", "UPLOADS"}, fillDir},
	"backup":   {[]string{"DIR", "NAME"}, createBackup},
	"embedded": {[]string{"DIR", "STORE", "LEVEL"}, createEmbedded},
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) == 0 {
		return errors.New("want a verb")
	}
	verb, ok := verbs[args[0]]
	if !ok || len(args)-1 != len(verb.args) {
		return fmt.Errorf("%s: want %v", args[0], verb.args)
	}
	return verb.do(args[1:])
}

// withApp starts what PocketBase runs on a directory, without its server.
func withApp(dir string, do func(core.App) error) (err error) {
	app := core.NewBaseApp(core.BaseAppConfig{DataDir: dir})
	if err := app.Bootstrap(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, app.ResetBootstrapState()) }()
	if err := app.RunAllMigrations(); err != nil {
		return err
	}
	return do(app)
}

// createBackup makes PocketBase's own backup, and syncs it as ours are.
func createBackup(args []string) error {
	dir, name := args[0], args[1]
	return withApp(dir, func(app core.App) error {
		return measured.Run(os.Stdout, func(*measured.Report) error {
			if err := app.CreateBackup(context.Background(), name); err != nil {
				return err
			}
			return measured.SyncFile(filepath.Join(dir, core.LocalBackupsDirName, name))
		})
	})
}

// createEmbedded takes a snapshot from within the process, where the databases
// are open through another driver than ours.
func createEmbedded(args []string) error {
	dir, storeDir := args[0], args[1]
	var level backup.Level
	if err := level.UnmarshalText([]byte(args[2])); err != nil {
		return err
	}
	return withApp(dir, func(app core.App) error {
		data, err := sqlDB(app.ConcurrentDB())
		if err != nil {
			return err
		}
		aux, err := sqlDB(app.AuxConcurrentDB())
		if err != nil {
			return err
		}
		store, err := backup.New(backup.Config{Dir: storeDir, Sources: []backup.Source{
			{Name: "data", Kind: backup.Database, Path: filepath.Join(dir, "data.db"), DB: data},
			{Name: "auxiliary", Kind: backup.Database, Path: filepath.Join(dir, "auxiliary.db"), DB: aux},
			{Name: "files", Kind: backup.Tree, Path: dir},
		}})
		if err != nil {
			return err
		}
		return measured.Run(os.Stdout, func(*measured.Report) error {
			snap, err := store.Create(context.Background(), &backup.CreateOptions{Level: level})
			if err != nil {
				return err
			}
			return snap.Err()
		})
	})
}

// sqlDB returns the handle of database/sql that PocketBase works through.
func sqlDB(builder dbx.Builder) (*sql.DB, error) {
	db, ok := builder.(*dbx.DB)
	if !ok {
		return nil, fmt.Errorf("a %T has no database/sql handle", builder)
	}
	return db.DB(), nil
}
