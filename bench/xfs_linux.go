package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// mountXFS makes a file system with reflink in a sparse file, and returns
// where it is mounted until the lab is closed.
func (l *lab) mountXFS(ctx context.Context) (string, error) {
	if os.Geteuid() != 0 {
		return "", errors.New("only root may mount it")
	}
	if !l.has("mkfs.xfs") {
		return "", errors.New("mkfs.xfs is not installed")
	}
	image, dir := filepath.Join(l.dir, "xfs.img"), filepath.Join(l.dir, "xfs")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return "", err
	}
	// Two databases, and three copies of the larger, should they be no
	// reflinks; mkfs.xfs wants 300 MB at the least.
	size := fmt.Sprintf("%dM", 1024+6*l.opts.size)
	for _, command := range [][]string{
		{"truncate", "-s", size, image},
		{"mkfs.xfs", "-q", "-m", "reflink=1", image},
		{"mount", "-o", "loop", image, dir},
	} {
		// To interrupt mount would leave open whether it is mounted.
		cmd := exec.CommandContext(context.WithoutCancel(ctx), command[0], command[1:]...)
		alone(cmd)
		if text, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("%s: %w: %s", command[0], err, firstLine(text))
		}
	}
	l.closers = append(l.closers, func() error {
		// Without the context: it may be over, and this has to be done.
		if text, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			return fmt.Errorf("umount: %w: %s", err, firstLine(text))
		}
		return nil
	})
	return dir, nil
}
