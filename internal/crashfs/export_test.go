package crashfs

import (
	"io/fs"
	"time"
)

// What Sys tells is not to be had on every system, and tests are.
type Ino = ino

func InoOf(info fs.FileInfo) Ino         { return info.(fileInfo).ino }
func LinksOf(info fs.FileInfo) int       { return info.(fileInfo).links }
func CtimeOf(info fs.FileInfo) time.Time { return info.(fileInfo).ctime }
