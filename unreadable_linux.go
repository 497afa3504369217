package backup

import "syscall"

// mediumErrors are what a damaged medium or file system answers: ext4 and XFS
// have their own words for a checksum that is wrong.
var mediumErrors = []error{syscall.EIO, syscall.EUCLEAN, syscall.EBADMSG}

// shortages are what a system answers that has no more descriptors or memory.
var shortages = []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM}
