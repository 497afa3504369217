//go:build unix && !darwin && !freebsd && !netbsd

package crashfs

import "syscall"

func (i fileInfo) setTimes(st *syscall.Stat_t) {
	setTime(&st.Mtim.Sec, &st.Mtim.Nsec, i.mtime)
	setTime(&st.Ctim.Sec, &st.Ctim.Nsec, i.ctime)
}
