//go:build !linux

package backup

// mountsBelow finds nothing: a rename that fails will tell.
func (d *dir) mountsBelow() ([]string, error) { return nil, nil }
