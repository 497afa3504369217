//go:build !linux

package backup

import (
	"os"

	"github.com/spf13/afero"
)

// beginWriteback leaves it to the sync.
func beginWriteback(afero.File, int64, int64) {}

// copyRange copies nothing: who reads and writes does.
func copyRange(_, _ *os.File, _ int) int64 { return 0 }
