package configs

import (
	"embed"
	"fmt"
	"io/fs"
	"strings"
)

//go:embed *.yaml
var examples embed.FS

// Examples are the names of the shipped examples, one per topology.
func Examples() []string {
	files, err := fs.Glob(examples, "*.yaml")
	if err != nil {
		panic(fmt.Sprintf("examples: %v", err)) // a constant pattern, cannot happen
	}
	names := make([]string, len(files))
	for i, f := range files {
		names[i] = strings.TrimSuffix(f, ".yaml")
	}
	return names
}

// Example is the text of a shipped example.
func Example(name string) ([]byte, error) {
	b, err := examples.ReadFile(name + ".yaml")
	if err != nil {
		text := fmt.Sprintf("there is no example %q; the examples are %s", name, strings.Join(Examples(), ", "))
		if near := nearest(name, Examples()); near != "" {
			text = fmt.Sprintf("there is no example %q; did you mean %s?", name, near)
		}
		return nil, fmt.Errorf("%s", text)
	}
	return b, nil
}
