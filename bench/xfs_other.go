//go:build !linux

package main

import (
	"context"
	"errors"
)

func (l *lab) mountXFS(context.Context) (string, error) {
	return "", errors.New("there is none on this system")
}
