package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"

	"github.com/ncruces/go-sqlite3"
)

const schema = `
	PRAGMA journal_mode = WAL;
	PRAGMA synchronous = OFF;
	CREATE TABLE documents(id INTEGER PRIMARY KEY, name TEXT, kind TEXT, created INTEGER, body BLOB);
	CREATE UNIQUE INDEX documents_name ON documents(name);
	CREATE INDEX documents_kind ON documents(kind, created);
	CREATE TABLE events(id INTEGER PRIMARY KEY, document INTEGER, at INTEGER, what TEXT);
	CREATE INDEX events_document ON events(document, at);
	CREATE INDEX events_what ON events(what, at);
	CREATE TABLE counters(id INTEGER PRIMARY KEY, n INTEGER);
	WITH RECURSIVE ids(id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM ids WHERE id < 1000)
		INSERT INTO counters SELECT id, 0 FROM ids;
`

// newDatabase makes a database in WAL mode of about a size: documents with
// blobs of 1 to 20 KB that do not compress, ten small rows beside each, and
// indexes. It is the same every time.
func newDatabase(path string, mb int) (err error) {
	if _, err := os.Stat(path); err == nil {
		return nil // another workload has made it
	}
	db, err := sqlite3.Open(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	if err := db.Exec(schema); err != nil {
		return err
	}
	random := newRandom()
	for first := 1; ; first += 100 {
		if err := db.Exec(`BEGIN`); err != nil {
			return err
		}
		if err := insertDocuments(db, random, first, 100); err != nil {
			return err
		}
		if err := db.Exec(`COMMIT`); err != nil {
			return err
		}
		size, err := databaseBytes(db)
		if err != nil {
			return err
		}
		if size >= int64(mb)*1e6 {
			return db.Exec(`PRAGMA wal_checkpoint(TRUNCATE)`)
		}
	}
}

func insertDocuments(db *sqlite3.Conn, random *rand.ChaCha8, first, n int) (err error) {
	document, _, err := db.Prepare(`INSERT INTO documents VALUES (?, ?, ?, ?, ?)`)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, document.Close()) }()
	event, _, err := db.Prepare(`INSERT INTO events(document, at, what) VALUES (?, ?, ?)`)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, event.Close()) }()

	for id := first; id < first+n; id++ {
		at := random.Uint64() % 1e9
		body := make([]byte, 1000+random.Uint64()%19000)
		random.Read(body) // never fails
		err := insert(document, id, fmt.Sprintf("document %x", random.Uint64()), fmt.Sprintf("kind %d", at%20), int64(at), body)
		if err != nil {
			return err
		}
		for range 10 {
			at += random.Uint64() % 1e4
			if err := insert(event, int(random.Uint64()%uint64(id)), int64(at), fmt.Sprintf("event of kind %d", at%200)); err != nil {
				return err
			}
		}
	}
	return nil
}

// insert executes a statement once.
func insert(stmt *sqlite3.Stmt, values ...any) error {
	for i, value := range values {
		var err error
		switch v := value.(type) {
		case int:
			err = stmt.BindInt(i+1, v)
		case int64:
			err = stmt.BindInt64(i+1, v)
		case string:
			err = stmt.BindText(i+1, v)
		case []byte:
			err = stmt.BindBlob(i+1, v)
		}
		if err != nil {
			return err
		}
	}
	return errors.Join(stmt.Exec(), stmt.Reset())
}

func databaseBytes(db *sqlite3.Conn) (n int64, err error) {
	stmt, _, err := db.Prepare(`SELECT page_count * page_size FROM pragma_page_count, pragma_page_size`)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, stmt.Close()) }()
	if !stmt.Step() {
		return 0, errors.Join(errors.New("no size"), stmt.Err())
	}
	return stmt.ColumnInt64(0), nil
}

// newRandom returns the same bytes every time. They are as hard to compress
// as pictures are.
func newRandom() *rand.ChaCha8 {
	var seed [32]byte
	binary.LittleEndian.PutUint64(seed[:], 20260406)
	return rand.NewChaCha8(seed)
}
