package backup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/afero"
)

// What symbolic links in the host's own paths lead to. Those are followed:
// they are the host's word.

// maxLinks is how many are followed: see path_resolution(7).
const maxLinks = 40

// followLinks returns what p stands for: itself, unless its last element is
// a symbolic link.
func followLinks(fsys afero.Fs, p string) (string, error) {
	if native, ok := nativePath(fsys, p); ok {
		if fi, err := os.Lstat(native); err != nil || fi.Mode()&fs.ModeSymlink == 0 {
			return p, nil // what is wrong with it is for who opens it
		}
		real, _, err := resolve(native) // a ".." in a link is what that leads to, and not what is before it
		if err != nil {
			return "", err
		}
		return pathOf(fsys, real)
	}
	for range maxLinks {
		d, err := openDirOrNone(fsys, filepath.Dir(p))
		if err != nil || d == nil {
			return p, err
		}
		target, err := d.readlinkIfLink(filepath.Base(p))
		d.close()
		if err != nil || target == "" {
			return p, err
		}
		if !filepath.IsAbs(target) {
			target = filepath.Join(filepath.Dir(p), target)
		}
		p = target
	}
	return "", &fs.PathError{Op: "open", Path: p, Err: syscall.ELOOP}
}

// pathOf returns what a path of the operating system is called on fsys.
func pathOf(fsys afero.Fs, native string) (string, error) {
	baseFs, ok := fsys.(*afero.BasePathFs)
	if !ok {
		return native, nil
	}
	base, ok := nativeBase(baseFs)
	if !ok {
		return native, nil
	}
	for _, base := range []string{base, realNative(base)} {
		if rel, err := filepath.Rel(base, native); err == nil && filepath.IsLocal(rel) {
			return filepath.Join(string(filepath.Separator), rel), nil
		}
	}
	return "", &fs.PathError{Op: "readlink", Path: native, Err: errors.New("leads out of the base path")}
}

// realPath returns p without symbolic links, be there anything where they
// lead or not: as a path of the operating system, if fsys is that. Elsewhere
// it is p.
func realPath(fsys afero.Fs, p string) string {
	native, ok := nativePath(fsys, p)
	if !ok {
		return p
	}
	return realNative(native)
}

// checkApart refuses sources that lead to one place, as through symbolic links: of a
// database each would hold the pin of the other, and whatever it is, each would be
// restored over the other. (New refuses those that are so by their paths alone.)
func (s *Store) checkApart(sources []*Source) error {
	taken := make(map[string]string) // by what source
	for _, src := range sources {
		real := realPath(s.cfg.Fs, src.Path)
		for _, suffix := range src.suffixes() {
			if other, ok := taken[real+suffix]; ok {
				return fmt.Errorf("sources %q and %q both lead to %s: configure one of them", other, src.Name, real+suffix)
			}
			taken[real+suffix] = src.Name
		}
	}
	return nil
}

func databasesOf(sources []Source) (databases []*Source) {
	for i := range sources {
		if sources[i].Kind == Database {
			databases = append(databases, &sources[i])
		}
	}
	return databases
}

func realNative(native string) string {
	real, _, err := resolve(native)
	if err != nil {
		return native
	}
	return real
}

// resolve follows all symbolic links in a path of the operating system, and
// returns where they are, too.
func resolve(p string) (real string, links []string, err error) {
	if p, err = filepath.Abs(p); err != nil {
		return "", nil, err
	}
	const separator = string(filepath.Separator)
	start := filepath.VolumeName(p) + separator
	rest := strings.Split(strings.TrimPrefix(p, start), separator)
	real = start
	for len(rest) > 0 {
		next := filepath.Join(real, rest[0]) // also of "..", as real has no links
		rest = rest[1:]
		fi, err := os.Lstat(next)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
			return filepath.Join(append([]string{next}, rest...)...), links, nil
		}
		if err != nil {
			return "", nil, err
		}
		if fi.Mode()&fs.ModeSymlink == 0 {
			real = next
			continue
		}
		if links = append(links, next); len(links) > maxLinks {
			return "", nil, &fs.PathError{Op: "open", Path: p, Err: syscall.ELOOP}
		}
		target, err := os.Readlink(next)
		if err != nil {
			return "", nil, err
		}
		if filepath.IsAbs(target) {
			real = filepath.VolumeName(target) + separator
			target = strings.TrimPrefix(target, real)
		}
		rest = append(strings.Split(filepath.FromSlash(target), separator), rest...)
	}
	return real, links, nil
}
