package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/ncruces/go-sqlite3"

	"github.com/atocore/backup"
)

// A service is a stand-in for a host: a database that it writes to all the
// time, a registry, and a small vector store.
type service struct {
	db, registry, vectors string

	written atomic.Int64 // rows, since it was started
	quit    chan struct{}
	done    chan error // nil unless it runs
}

const mutation = "a mutation"

func newService(dir string) *service {
	return &service{
		db:       filepath.Join(dir, "data", "app.db"),
		registry: filepath.Join(dir, "config", "registry.json"),
		vectors:  filepath.Join(dir, "vectors"),
	}
}

// backups is all that a host needs to have its state backed up.
func (s *service) backups(dir string) (*backup.Store, error) {
	return backup.New(backup.Config{
		Dir: dir,
		Sources: []backup.Source{
			{Name: "db", Kind: backup.Database, Path: s.db},
			{Name: "config", Kind: backup.File, Path: s.registry, Optional: true},
			{Name: "vectors", Kind: backup.Tree, Path: s.vectors, OnRequest: true},
		},
	})
}

func (s *service) makeDirs() error {
	for _, dir := range []string{filepath.Dir(s.db), filepath.Dir(s.registry), s.vectors} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	return nil
}

// seed makes the state, in the database beside what is there.
func (s *service) seed() error {
	const rows = `WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000)`
	return errors.Join(
		s.exec(s.db, `PRAGMA journal_mode = WAL;
			DROP TABLE IF EXISTS drill_notes;
			DROP TABLE IF EXISTS drill_load;
			CREATE TABLE drill_notes (body TEXT);
			CREATE TABLE drill_load (n INTEGER PRIMARY KEY);
			`+rows+` INSERT INTO drill_notes SELECT 'a baseline ' || hex(randomblob(500)) FROM n`),
		os.WriteFile(s.registry, []byte(`{"projects": ["p1"]}`), 0o600),
		s.exec(filepath.Join(s.vectors, "index.db"), `CREATE TABLE vectors (v BLOB);
			`+rows+` INSERT INTO vectors SELECT randomblob(64) FROM n`),
		os.WriteFile(filepath.Join(s.vectors, "data.bin"), make([]byte, 1<<20), 0o600),
	)
}

// mutate does what nobody wants to have done.
func (s *service) mutate() error {
	return errors.Join(
		s.exec(s.db, `DELETE FROM drill_notes WHERE rowid % 2; INSERT INTO drill_notes VALUES ('`+mutation+`')`),
		os.WriteFile(s.registry, []byte(`{"projects": []}`), 0o600),
		os.Remove(filepath.Join(s.vectors, "data.bin")),
	)
}

// start has the service write, a row at a time, until it is stopped. It
// returns when the first one is written.
func (s *service) start() error {
	conn, err := s.open(s.db)
	if err != nil {
		return err
	}
	s.written.Store(0)
	s.quit, s.done = make(chan struct{}), make(chan error, 1)
	first := make(chan struct{})
	go func() {
		err := s.write(conn, first)
		s.done <- errors.Join(err, conn.Close())
	}()
	select {
	case <-first:
		return nil
	case err := <-s.done:
		s.done = nil
		return err
	}
}

func (s *service) write(conn *sqlite3.Conn, first chan<- struct{}) error {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		if err := conn.Exec("INSERT INTO drill_load DEFAULT VALUES"); err != nil {
			return fmt.Errorf("write: %w", err)
		}
		if s.written.Add(1) == 1 {
			close(first)
		}
		select {
		case <-s.quit:
			return nil
		case <-tick.C:
		}
	}
}

// stop stops the service, if it runs.
func (s *service) stop() error {
	if s.done == nil {
		return nil
	}
	close(s.quit)
	err := <-s.done
	s.done = nil
	return err
}

// state says what there is, but for the rows that start writes: of two
// states that say the same, one is as good as the other.
func (s *service) state() (string, error) {
	kinds, err := s.query(`SELECT DISTINCT substr(body, 1, 10) FROM drill_notes ORDER BY 1`)
	if err != nil {
		return "", err
	}
	registry, err := os.ReadFile(s.registry)
	if err != nil {
		return "", err
	}
	files, err := os.ReadDir(s.vectors)
	if err != nil {
		return "", err
	}
	parts := []string{fmt.Sprintf("%q", kinds), string(registry), fmt.Sprintf("%d vector files", len(files))}
	tables, err := s.query(`SELECT name FROM sqlite_schema WHERE type = 'table' AND name <> 'drill_load'
		AND name NOT LIKE 'sqlite\_%' ESCAPE '\' AND sql NOT LIKE 'CREATE VIRTUAL%' ORDER BY name`)
	if err != nil {
		return "", err
	}
	for _, table := range tables {
		rows, err := s.query(`SELECT count(*) FROM "` + strings.ReplaceAll(table, `"`, `""`) + `"`)
		if err != nil {
			return "", err
		}
		parts = append(parts, table+" "+rows[0])
	}
	return strings.Join(parts, ", "), nil
}

// check looks for holes in what start wrote: a copy of one instant has none.
func (s *service) check() error {
	holes, err := s.query(`SELECT count(*) || ' rows up to ' || max(n) FROM drill_load HAVING count(*) <> max(n)`)
	if err == nil && len(holes) > 0 {
		err = fmt.Errorf("torn: %s", holes[0])
	}
	return err
}

func (s *service) open(path string) (*sqlite3.Conn, error) {
	conn, err := sqlite3.Open(path)
	if err != nil {
		return nil, err
	}
	return conn, conn.BusyTimeout(10 * time.Second)
}

func (s *service) exec(path, sql string) error {
	conn, err := s.open(path)
	if err != nil {
		return err
	}
	return errors.Join(conn.Exec(sql), conn.Close())
}

// query returns the first column of the rows that there are.
func (s *service) query(sql string) ([]string, error) {
	conn, err := s.open(s.db)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	stmt, _, err := conn.Prepare(sql)
	if err != nil {
		return nil, err
	}
	defer stmt.Close()
	var rows []string
	for stmt.Step() {
		rows = append(rows, stmt.ColumnText(0))
	}
	return rows, stmt.Err()
}
