package main

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/atocore/backup/bench/internal/measured"
	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"
)

// fillDir makes a data directory as a site with uploads has it: posts,
// logs, and pictures of 20 to 200 KB. It is the same every time, but for the
// identifiers and times that PocketBase itself writes.
func fillDir(args []string) error {
	dir := args[0]
	var sizes [3]int
	for i := range sizes {
		n, err := strconv.Atoi(args[1+i])
		if err != nil {
			return err
		}
		sizes[i] = n
	}
	return withApp(dir, func(app core.App) error {
		return measured.Run(os.Stdout, func(*measured.Report) error {
			return fill(app, sizes[0], sizes[1], sizes[2])
		})
	})
}

func fill(app core.App, dataMB, auxMB, uploads int) error {
	posts := core.NewBaseCollection("posts")
	posts.Fields.Add(&core.TextField{Name: "title"}, &core.TextField{Name: "body"}, &core.FileField{Name: "picture"})
	posts.AddIndex("posts_title", false, "title", "")
	if err := app.Save(posts); err != nil {
		return err
	}
	var seed [32]byte
	binary.LittleEndian.PutUint64(seed[:], 20260406)
	random := rand.NewChaCha8(seed)

	err := grow(app.NonconcurrentDB(), dataMB, func(tx dbx.Builder, id string) error {
		_, err := tx.Insert("posts", dbx.Params{"id": id, "title": words(random, 8), "body": words(random, 400), "picture": "picture.jpg"}).Execute()
		return err
	})
	if err != nil {
		return err
	}
	err = grow(app.AuxNonconcurrentDB(), auxMB, func(tx dbx.Builder, id string) error {
		_, err := tx.Insert(core.LogsTableName, dbx.Params{"id": id, "message": words(random, 5), "data": `{"url":"` + words(random, 30) + `"}`}).Execute()
		return err
	})
	if err != nil {
		return err
	}
	return upload(filepath.Join(app.DataDir(), core.LocalStorageDirName, posts.Id), uploads, random)
}

// grow inserts rows, a thousand in each transaction, until a database is of
// a size.
func grow(db dbx.Builder, mb int, insert func(tx dbx.Builder, id string) error) error {
	conn, ok := db.(*dbx.DB)
	if !ok {
		return fmt.Errorf("a %T has no transactions", db)
	}
	for n := 0; ; {
		var size int64
		if err := conn.NewQuery(`SELECT page_count * page_size FROM pragma_page_count, pragma_page_size`).Row(&size); err != nil {
			return err
		}
		if size >= int64(mb)*1e6 {
			return nil
		}
		err := conn.Transactional(func(tx *dbx.Tx) error {
			for range 1000 {
				n++
				if err := insert(tx, fmt.Sprintf("%015d", n)); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
}

// upload writes what would be pictures, which do not compress, one to a
// record.
func upload(dir string, n int, random *rand.ChaCha8) error {
	for i := range n {
		data := make([]byte, 20_000+random.Uint64()%180_000)
		random.Read(data) // never fails
		name := filepath.Join(dir, fmt.Sprintf("%015d", i+1), "picture.jpg")
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(name, data, 0o644); err != nil {
			return err
		}
	}
	return nil
}

var vocabulary = strings.Fields(`a service keeps its state in databases files and trees which
	people write to while it runs and which somebody has to copy check and put back when the
	disk has failed or an upgrade went wrong at night`)

// words returns text, which compresses.
func words(random *rand.ChaCha8, n int) string {
	var text strings.Builder
	for range n {
		fmt.Fprintf(&text, "%s%d ", vocabulary[random.Uint64()%uint64(len(vocabulary))], random.Uint64()%100)
	}
	return text.String()
}
