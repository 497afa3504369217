//go:build !linux && !windows

package backup

import "syscall"

// mediumErrors are what a damaged medium or file system answers.
var mediumErrors = []error{syscall.EIO}
