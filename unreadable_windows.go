package backup

import (
	"syscall"

	"golang.org/x/sys/windows"
)

// mediumErrors are what a damaged medium or file system answers.
var mediumErrors = []error{
	syscall.EIO, // of a file system of the host's
	windows.ERROR_CRC, windows.ERROR_SECTOR_NOT_FOUND, windows.ERROR_READ_FAULT, windows.ERROR_IO_DEVICE,
	windows.ERROR_FILE_CORRUPT, windows.ERROR_DISK_CORRUPT,
}

// shortages are what a system answers that has no more handles or memory.
var shortages = []error{
	syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM, // of a file system of the host's
	windows.ERROR_TOO_MANY_OPEN_FILES, windows.ERROR_NOT_ENOUGH_MEMORY, windows.ERROR_NO_SYSTEM_RESOURCES,
}
