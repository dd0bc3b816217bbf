package kafka

import (
	"bufio"
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"spillway/tests/cluster/cache"
)

// Versions are the releases of Apache Kafka that can be started. 4.4.0 has no
// tools on Maven Central.
var Versions = []string{"3.9.2", "4.3.1", "4.4.0"}

// DefaultVersion is the newest one published with tools, Streams and MirrorMaker 2.
const DefaultVersion = "4.3.1"

// The dependency plugin is pinned as the jars are: another version could
// resolve another set.
const copyDependencies = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies"

// Every set is a Maven project NAME.xml and the jars that it must yield,
// NAME.sha256. After a change of NAME.xml the checksums are written anew by
// `go run ./tests/cluster checksums NAME`.
//
//go:embed jars
var sets embed.FS

// Jars returns the jars of a set (kafka-4.3.1, mirrormaker-4.3.1, …), which it
// fetches with Maven into the cache and checks when they are not there.
func Jars(ctx context.Context, set string) ([]string, error) {
	want, err := sets.ReadFile("jars/" + set + ".sha256")
	if err != nil {
		return nil, fmt.Errorf("jars %s: no such set, there are %s", set, strings.Join(Sets(), ", "))
	}
	// A new list of checksums is a new entry, so an old cache cannot hide it.
	digest := sha256.Sum256(want)
	dir, err := cache.Entry(set+"-"+hex.EncodeToString(digest[:4]), func(dir string) error {
		if err := download(ctx, set, dir); err != nil {
			return err
		}
		have, err := Checksums(dir)
		if err != nil {
			return err
		}
		return compare(string(want), have)
	})
	if err != nil {
		return nil, err
	}
	return filepath.Glob(filepath.Join(dir, "*.jar"))
}

// download fetches a set into dir without checking it.
func download(ctx context.Context, set, dir string) error {
	project, err := sets.ReadFile("jars/" + set + ".xml")
	if err != nil {
		return err
	}
	pom, err := os.CreateTemp("", "spillway-*.xml")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(pom.Name()) }()
	_, err = pom.Write(project)
	if err := errors.Join(err, pom.Close()); err != nil {
		return err
	}
	maven := exec.CommandContext(ctx, "mvn", "-q", "-B", "-f", pom.Name(), copyDependencies,
		"-DincludeScope=runtime", "-DoutputDirectory="+dir)
	if output, err := maven.CombinedOutput(); err != nil {
		return fmt.Errorf("fetch with Maven: %w\n%s", err, output)
	}
	return nil
}

// Record downloads a set and returns its checksums, for NAME.sha256.
func Record(ctx context.Context, set string) (string, error) {
	dir, err := os.MkdirTemp("", "spillway-jars-*")
	if err != nil {
		return "", err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if err := download(ctx, set, dir); err != nil {
		return "", err
	}
	return Checksums(dir)
}

// Checksums lists the jars of a folder as sha256sum does.
func Checksums(dir string) (string, error) {
	jars, err := filepath.Glob(filepath.Join(dir, "*.jar"))
	if err != nil {
		return "", err
	}
	slices.Sort(jars)
	var list strings.Builder
	for _, jar := range jars {
		sum, err := checksum(jar)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&list, "%s  %s\n", sum, filepath.Base(jar))
	}
	return list.String(), nil
}

func checksum(path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer func() { _ = file.Close() }()
	hash := sha256.New()
	if _, err := io.Copy(hash, bufio.NewReader(file)); err != nil {
		return "", fmt.Errorf("read %s: %w", path, err)
	}
	return hex.EncodeToString(hash.Sum(nil)), nil
}

// compare reports the jars that differ between two lists of checksums.
func compare(want, have string) error {
	wanted, got := strings.Split(want, "\n"), strings.Split(have, "\n")
	var faults []error
	for _, line := range wanted {
		if !slices.Contains(got, line) {
			faults = append(faults, fmt.Errorf("recorded, but not downloaded: %s", line))
		}
	}
	for _, line := range got {
		if !slices.Contains(wanted, line) {
			faults = append(faults, fmt.Errorf("downloaded, but not recorded: %s", line))
		}
	}
	return errors.Join(faults...)
}

// Sets are the sets of jars that can be had.
func Sets() []string {
	entries, err := sets.ReadDir("jars")
	if err != nil {
		panic(err) // embedded above
	}
	var names []string
	for _, entry := range entries {
		if name, ok := strings.CutSuffix(entry.Name(), ".sha256"); ok {
			names = append(names, name)
		}
	}
	return names
}
