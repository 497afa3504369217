//go:build unix && !darwin && !freebsd && !netbsd

package backup

import (
	"syscall"
	"time"
)

// changeTime returns when a file was last changed in any way.
func changeTime(st *syscall.Stat_t) time.Time { return time.Unix(st.Ctim.Unix()) }
