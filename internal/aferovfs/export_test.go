package aferovfs

// LockedFiles counts the entries of the lock table.
func LockedFiles() int {
	lockTable.mu.Lock()
	defer lockTable.mu.Unlock()
	return len(lockTable.nodes)
}
