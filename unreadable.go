package backup

import (
	"errors"
	"slices"
)

// isOfMedium reports whether an error says that nobody can read it any more.
// (Another user can read what we may not, and another try what we had no
// descriptors or memory for: to replace that would be to destroy it.)
func isOfMedium(err error) bool {
	return slices.ContainsFunc(mediumErrors, func(e error) bool { return errors.Is(err, e) })
}

// isShortage reports whether an error says nothing about a file: this process, or
// the system, has no descriptors or memory left for it.
func isShortage(err error) bool {
	return slices.ContainsFunc(shortages, func(e error) bool { return errors.Is(err, e) })
}

// onlyShortage is for who goes on without what cannot be read: after a shortage that
// may be the very thing that is looked for.
func onlyShortage(err error) error {
	if isShortage(err) {
		return err
	}
	return nil
}
