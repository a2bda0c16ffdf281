// Package workspace finds the workspace that a test or a program of this repository is run in.
package workspace

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Root is the folder with go.work, at or above the one we are in.
func Root() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("find the workspace: %w", err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.work")); err == nil {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errors.New("find the workspace: no go.work in this folder or above it")
		}
		dir = parent
	}
}
