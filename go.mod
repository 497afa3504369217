module github.com/atocore/backup

go 1.26.0

require (
	github.com/ncruces/go-sqlite3 v0.36.0 // SQLite without cgo; v0.37.0 cannot be downloaded
	github.com/spf13/afero v1.15.0 // the file systems of hosts and of their tests
	golang.org/x/sys v0.49.0 // free space and byte-range locks; go-sqlite3 needs it too
)

require github.com/google/go-cmp v0.7.0 // test

require (
	github.com/ncruces/go-sqlite3-wasm/v6 v6.4.35401 // indirect
	github.com/ncruces/julianday v1.0.0 // indirect
	golang.org/x/text v0.43.0 // indirect
)
