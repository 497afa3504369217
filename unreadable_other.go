//go:build !linux && !windows

package backup

import "syscall"

// mediumErrors are what a damaged medium or file system answers.
var mediumErrors = []error{syscall.EIO}

// shortages are what a system answers that has no more descriptors or memory.
var shortages = []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM}
