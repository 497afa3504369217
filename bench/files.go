package main

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/atocore/backup"
	"github.com/spf13/afero"
)

// newTree makes a directory of n files of 4 KB, a hundred in each of its
// directories.
func newTree(dir string, n int) error {
	if _, err := os.Stat(dir); err == nil {
		return nil // another workload has made it
	}
	random := newRandom()
	data := make([]byte, 4096)
	for i := range n {
		sub := filepath.Join(dir, fmt.Sprintf("%03d", i/100))
		if err := os.MkdirAll(sub, 0o755); err != nil {
			return err
		}
		random.Read(data) // never fails
		if err := os.WriteFile(filepath.Join(sub, fmt.Sprintf("%02d.bin", i%100)), data, 0o644); err != nil {
			return err
		}
	}
	time.Sleep(65 * time.Second) // what is newer than a minute is read again the next time
	return nil
}

// newSnapshots makes a store of n snapshots of one small file, a day apart.
// They are taken in memory, where nothing has to be synced, and written out.
func newSnapshots(ctx context.Context, dir string, n int) error {
	memory := afero.NewMemMapFs()
	if err := afero.WriteFile(memory, "/config.json", []byte("{}"), 0o644); err != nil {
		return err
	}
	day := time.Date(1990, 1, 1, 0, 0, 0, 0, time.UTC)
	store, err := backup.New(backup.Config{
		Dir:     "/store",
		Sources: []backup.Source{{Name: "config", Kind: backup.File, Path: "/config.json"}},
		Fs:      memory,
		Now:     func() time.Time { return day },
	})
	if err != nil {
		return err
	}
	for range n {
		if _, err := store.Create(ctx, &backup.CreateOptions{Level: backup.ValidateStructure}); err != nil {
			return err
		}
		day = day.AddDate(0, 0, 1)
	}
	return os.CopyFS(dir, afero.NewIOFS(afero.NewBasePathFs(memory, "/store")))
}

// warm reads all that is at a path, so that it is in the page cache, and returns
// how many bytes that is.
func warm(path string) (size int64, err error) {
	err = filepath.WalkDir(path, func(p string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		f, err := os.Open(p)
		if err != nil {
			return err
		}
		defer f.Close() // only read
		n, err := io.Copy(io.Discard, f)
		size += n
		return err
	})
	return size, err
}
