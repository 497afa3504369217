//go:build unix

package crashfs

import "syscall"

const oNoFollow = syscall.O_NOFOLLOW
