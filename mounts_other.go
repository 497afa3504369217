//go:build !linux

package backup

const tellsMounts = false

// mountsBelow finds nothing: there is no telling. A mount point itself cannot
// be renamed; for those below a directory that is, see removeAll.
func (d *dir) mountsBelow() ([]string, error) { return nil, nil }
