// Package cache keeps what tests download or build between runs. An entry
// appears complete or not at all, also when two processes make it at once or
// one is killed half way.
package cache

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// Root is the cache folder: $SPILLWAY_CACHE, else spillway in the user's cache folder.
func Root() (string, error) {
	if dir := os.Getenv("SPILLWAY_CACHE"); dir != "" {
		return filepath.Abs(dir)
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find the cache folder: %w; set SPILLWAY_CACHE", err)
	}
	return filepath.Join(dir, "spillway"), nil
}

// Entry returns the folder with this key and lets fill make it first where it
// is missing. The key names everything that the content depends on, so an entry
// is never refreshed.
func Entry(key string, fill func(dir string) error) (string, error) {
	root, err := Root()
	if err != nil {
		return "", err
	}
	entry := filepath.Join(root, key)
	if exists(entry) {
		return entry, nil
	}
	if err := os.MkdirAll(root, 0o755); err != nil {
		return "", fmt.Errorf("cache %s: %w", key, err)
	}
	unlock, err := lock(entry + ".lock")
	if err != nil {
		return "", fmt.Errorf("cache %s: %w", key, err)
	}
	defer unlock()
	if exists(entry) { // made by another process while we waited
		return entry, nil
	}
	partial := entry + ".partial"
	if err := os.RemoveAll(partial); err != nil {
		return "", fmt.Errorf("cache %s: %w", key, err)
	}
	if err := os.MkdirAll(partial, 0o755); err != nil {
		return "", fmt.Errorf("cache %s: %w", key, err)
	}
	if err := fill(partial); err != nil {
		return "", fmt.Errorf("cache %s: %w", key, err)
	}
	if err := os.Rename(partial, entry); err != nil {
		return "", fmt.Errorf("cache %s: %w", key, err)
	}
	return entry, nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

func lock(path string) (unlock func(), err error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return func() { _ = file.Close() }, nil
}
