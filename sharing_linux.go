package backup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// oNoatime leaves the time of access of a file that belongs to the caller as it
// is: see open(2).
const oNoatime = unix.O_NOATIME

// diskFileSystems are those that the kernel itself writes to a disk, and nobody
// else: see statfs(2).
var diskFileSystems = []uint32{
	unix.EXT4_SUPER_MAGIC, // and ext2, ext3
	unix.XFS_SUPER_MAGIC,
	unix.BTRFS_SUPER_MAGIC,
	unix.F2FS_SUPER_MAGIC,
}

// timesTellChanges reports whether whoever writes to a file of d sets its times.
// On tmpfs, who does so through a mapping need not: a page that nobody writes
// back is never write-protected again, be it synced or not.
func (d *dir) timesTellChanges() bool {
	return slices.Contains(diskFileSystems, d.fileSystem())
}

// syncsAsOne reports whether syncfs(2) syncs the file system of d. One of FUSE
// is not told of it.
func (d *dir) syncsAsOne() bool {
	kind := d.fileSystem()
	return slices.Contains(diskFileSystems, kind) || kind == unix.TMPFS_MAGIC
}

// fileSystem returns the type of the file system that d is on, or 0.
func (d *dir) fileSystem() uint32 {
	f, err := d.handle()
	if err != nil {
		return 0
	}
	var st unix.Statfs_t
	if err := ignoringEINTR(func() error { return unix.Fstatfs(int(f.Fd()), &st) }); err != nil {
		return 0
	}
	return uint32(st.Type)
}

// nativeVolume names the device, the file system that statfs(2) says is on it, and
// when that was mounted: by the number of the directory that the kernel makes for
// each file system that it mounts, which is the same for all that it is bound to
// and in all namespaces. Where there is none, the number of the mount must do; it
// is used again before Linux 6.8.
func (d *dir) nativeVolume() string {
	f, err := d.handle()
	if err != nil {
		return ""
	}
	var fs unix.Statfs_t
	if err := ignoringEINTR(func() error { return unix.Fstatfs(int(f.Fd()), &fs) }); err != nil {
		return ""
	}
	var st unix.Statx_t
	err = ignoringEINTR(func() error {
		return unix.Statx(int(f.Fd()), "", unix.AT_EMPTY_PATH, unix.STATX_MNT_ID|unix.STATX_MNT_ID_UNIQUE, &st)
	})
	if err != nil {
		return ""
	}
	device := fmt.Sprintf("%d:%d", st.Dev_major, st.Dev_minor)
	mounted := fmt.Sprintf("mount %x", st.Mnt_id)
	if inode, err := sysInode(uint32(fs.Type), device); err == nil {
		mounted = fmt.Sprintf("sysfs %x", inode)
	}
	return fmt.Sprintf("%s %08x%08x %s", device, uint32(fs.Fsid.Val[0]), uint32(fs.Fsid.Val[1]), mounted)
}

// sysInode returns the inode of the directory in sysfs(5) of a file system that is
// mounted.
func sysInode(kind uint32, device string) (uint64, error) {
	names := map[uint32]string{unix.EXT4_SUPER_MAGIC: "ext4", unix.XFS_SUPER_MAGIC: "xfs", unix.F2FS_SUPER_MAGIC: "f2fs"}
	name, ok := names[kind]
	if !ok {
		return 0, errors.ErrUnsupported
	}
	block, err := os.Readlink("/sys/dev/block/" + device)
	if err != nil {
		return 0, err
	}
	var st unix.Stat_t
	err = ignoringEINTR(func() error { return unix.Stat(filepath.Join("/sys/fs", name, filepath.Base(block)), &st) })
	return st.Ino, err
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
