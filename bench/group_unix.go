//go:build unix

package main

import (
	"os/exec"
	"syscall"
)

// alone gives the process a group of its own, and has all of it killed when
// the context ends: the tools that a process runs must not outlive it.
func alone(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
}

// syncAll writes out what others have left in the page cache.
func syncAll() { syscall.Sync() }
