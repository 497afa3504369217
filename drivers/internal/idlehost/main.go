// Command idlehost has a database open, in rollback mode and idle, so that
// no lock of it is to be seen, and says what Create makes of that.
package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/atocore/backup"
)

func main() {
	log.SetFlags(0)
	dir := os.Args[1]
	path := filepath.Join(dir, "app.db")
	db, err := sql.Open(driverName, path)
	if err != nil {
		log.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec("CREATE TABLE t (x)"); err != nil {
		log.Fatal(err)
	}
	s, err := backup.New(backup.Config{
		Dir:     filepath.Join(dir, "backups"),
		Sources: []backup.Source{{Name: "db", Kind: backup.Database, Path: path}},
	})
	if err != nil {
		log.Fatal(err)
	}
	_, err = s.Create(context.Background(), nil)
	fmt.Println(driverName, errors.Is(err, backup.ErrForeignDriver))
}
