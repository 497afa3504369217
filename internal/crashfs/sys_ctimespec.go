//go:build darwin || freebsd || netbsd

package crashfs

import "syscall"

func (i fileInfo) setTimes(st *syscall.Stat_t) {
	setTime(&st.Mtimespec.Sec, &st.Mtimespec.Nsec, i.mtime)
	setTime(&st.Ctimespec.Sec, &st.Ctimespec.Nsec, i.ctime)
}
