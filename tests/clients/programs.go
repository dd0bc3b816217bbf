package clients

import (
	"context"
	"embed"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"spillway/tests/cluster/cache"
	"spillway/tests/cluster/process"
)

//go:embed python javascript
var programs embed.FS

// program is a client in a language that is not compiled, with the library that it is for.
type program struct {
	file    string // of programs
	library string // as its package manager names it, and what else it needs, between spaces
}

// The releases that are tested, as docs/clients.md says, with what they need to read snappy,
// which franz-go writes by default.
const (
	confluentKafka = "confluent-kafka==2.16.1" // librdkafka's binding
	kafkaPython    = "kafka-python[snappy]==3.0.12"
	aiokafka       = "aiokafka[snappy]==0.14.0"
	kafkajs        = "kafkajs@2.2.4 kafkajs-snappy@1.1.0"
)

// operating are the programs of Operate, historyClients those of Start.
var (
	operating = map[string]program{
		"python":       {"python/operations.py", confluentKafka},
		"kafka-python": {"python/operations_kafka_python.py", kafkaPython},
		"aiokafka":     {"python/operations_aiokafka.py", aiokafka},
		"kafkajs":      {"javascript/operations.js", kafkajs},
	}
	historyClients = map[string]program{
		"python":       {"python/history_client.py", confluentKafka},
		"kafka-python": {"python/history_kafka_python.py", kafkaPython},
		"aiokafka":     {"python/history_aiokafka.py", aiokafka},
		"kafkajs":      {"javascript/history_client.js", kafkajs},
	}
)

// command is how to start it in a folder of its own.
func (p program) command(ctx context.Context, dir string, arguments []string) (process.Spec, error) {
	if filepath.Dir(p.file) == "javascript" {
		return p.node(ctx, dir, arguments)
	}
	return p.python(ctx, dir, arguments)
}

// python is how to start a program in a folder of its own, with its library.
func (p program) python(ctx context.Context, dir string, arguments []string) (process.Spec, error) {
	library, err := installed(ctx, "python-client-", p.library, "python3-pip and PyPI", func(dir string) *exec.Cmd {
		return exec.CommandContext(ctx, "python3", "-m", "pip", "install", "--quiet", "--only-binary=:all:", "--target", dir, p.library)
	})
	if err != nil {
		return process.Spec{}, err
	}
	file, err := p.laid(dir)
	return process.Spec{Path: "python3", Args: append([]string{file}, arguments...), Env: []string{"PYTHONPATH=" + library}}, err
}

// node is python's twin.
func (p program) node(ctx context.Context, dir string, arguments []string) (process.Spec, error) {
	library, err := installed(ctx, "node-client-", p.library, "npm, of the Debian package npm or in that of nodejs, and its registry", func(dir string) *exec.Cmd {
		return exec.CommandContext(ctx, "npm", append([]string{"install", "--silent", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", dir}, strings.Fields(p.library)...)...)
	})
	if err != nil {
		return process.Spec{}, err
	}
	file, err := p.laid(dir)
	return process.Spec{Path: "node", Args: append([]string{file}, arguments...), Env: []string{"NODE_PATH=" + filepath.Join(library, "node_modules")}}, err
}

// installed is the folder of a copy of a library of its own, installed once.
func installed(ctx context.Context, prefix, library, needs string, install func(dir string) *exec.Cmd) (string, error) {
	dir, err := cache.Entry(prefix+digest(library), func(dir string) error {
		if out, err := install(dir).CombinedOutput(); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
	if err != nil {
		return "", fmt.Errorf("install %s (needs %s): %w", library, needs, err)
	}
	return dir, nil
}

// laid writes all programs of the language below a folder, where they find each other.
func (p program) laid(dir string) (file string, err error) {
	files, err := fs.Glob(programs, filepath.Dir(p.file)+"/*")
	if err != nil {
		return "", err
	}
	for _, name := range files {
		text, err := programs.ReadFile(name)
		if err != nil {
			return "", err
		}
		if err := os.WriteFile(filepath.Join(dir, filepath.Base(name)), text, 0o644); err != nil {
			return "", fmt.Errorf("write the program: %w", err)
		}
	}
	return filepath.Join(dir, filepath.Base(p.file)), nil
}
