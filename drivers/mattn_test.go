//go:build cgo

package drivers

import (
	"fmt"

	_ "github.com/mattn/go-sqlite3"
)

var mattn = []driver{{"sqlite3", func(patience int) string {
	return fmt.Sprintf("_busy_timeout=%d", patience)
}}}
