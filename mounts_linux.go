package backup

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// tellsMounts: mountsBelow knows of all mount points.
const tellsMounts = true

// mountsBelow returns the mount points below d, slash-separated and relative
// to it. See proc_pid_mountinfo(5).
func (d *dir) mountsBelow() ([]string, error) {
	if !d.native {
		return nil, nil
	}
	root, err := filepath.EvalSymlinks(d.base)
	if err != nil {
		return nil, err
	}
	if root, err = filepath.Abs(root); err != nil {
		return nil, err
	}
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("find what is mounted: %w", err)
	}
	defer f.Close() // nothing was written
	var mounts []string
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 5 {
			continue
		}
		rel, err := filepath.Rel(root, unescapeMount(fields[4]))
		if err == nil && rel != "." && filepath.IsLocal(rel) {
			mounts = append(mounts, rel)
		}
	}
	return mounts, lines.Err()
}

// unescapeMount undoes the octal escapes of blanks and backslashes.
func unescapeMount(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
