package main

import "os"

// forgetNames has the kernel drop the names and inodes that it has cached and
// nobody uses, which takes root, and reports whether it has. Machines that have
// seen millions of files keep as many: whoever looks up more of them is then
// slowed more. What files have may go with them: see drop_caches in proc(5).
//
// It also has it put together what memory is free, of which they leave pieces: a
// kernel that finds no large ones caches files by single pages, and SQLite's
// integrity_check of a file then takes half as long again. See
// https://docs.kernel.org/admin-guide/sysctl/vm.html.
func forgetNames() bool {
	const namesAndInodes = "2"
	return os.WriteFile("/proc/sys/vm/drop_caches", []byte(namesAndInodes), 0) == nil &&
		os.WriteFile("/proc/sys/vm/compact_memory", []byte("1"), 0) == nil
}
