package backup

import (
	"os"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// kernelFileSystems are those for disks, and for memory, that are written by
// the kernel itself, and by nobody else: see statfs(2).
var kernelFileSystems = []uint32{
	unix.EXT4_SUPER_MAGIC, // and ext2, ext3
	unix.XFS_SUPER_MAGIC,
	unix.BTRFS_SUPER_MAGIC,
	unix.F2FS_SUPER_MAGIC,
	unix.TMPFS_MAGIC,
}

// isOfTheKernel reports whether d is on one of the kernelFileSystems.
func (d *dir) isOfTheKernel() bool {
	f, err := d.handle()
	if err != nil {
		return false
	}
	var st unix.Statfs_t
	err = ignoringEINTR(func() error { return unix.Fstatfs(int(f.Fd()), &st) })
	return err == nil && slices.Contains(kernelFileSystems, uint32(st.Type))
}

// bootID names the time since the system was started: see random(4).
var bootID = sync.OnceValue(func() string {
	text, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
})

// linkNative gives the file at from another name. A symbolic link is not
// followed: see linkat(2).
func linkNative(from, to place) error {
	old, err := from.dir.handle()
	if err != nil {
		return err
	}
	new, err := to.dir.handle()
	if err != nil {
		return err
	}
	err = unix.Linkat(int(old.Fd()), from.name, int(new.Fd()), to.name, 0)
	if err != nil {
		err = &os.LinkError{Op: "link", Old: from.full(), New: to.full(), Err: err}
	}
	return err
}
