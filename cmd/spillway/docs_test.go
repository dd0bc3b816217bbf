package main

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// pages are all pages that people read, by their path from the top.
func pages(t *testing.T) map[string]string {
	t.Helper()
	all := make(map[string]string)
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() && strings.HasPrefix(d.Name(), ".") && d.Name() != ".." {
			if err == nil && path != "../.." {
				return fs.SkipDir
			}
			return err
		}
		if strings.HasSuffix(path, ".md") {
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			all[strings.TrimPrefix(filepath.ToSlash(path), "../../")] = string(text)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

var (
	// A line of a block: whole, with all that the command needs.
	blockLine = regexp.MustCompile(`(?m)^(?: {3,4}|sudo |\$ )*(?:go run \./cmd/|\./)?spillway ([a-z].*)$`)
	// In running text a command may be named without its arguments.
	inText = regexp.MustCompile("`(?:go run \\./cmd/|\\./)?spillway ([a-z][^`]*)`")
)

// commandsIn finds the command lines of a page.
func commandsIn(text string) (lines, named []string) {
	for _, m := range blockLine.FindAllStringSubmatch(text, -1) {
		lines = append(lines, m[1])
	}
	for _, m := range inText.FindAllStringSubmatch(text, -1) {
		named = append(named, m[1])
	}
	return lines, named
}

// split takes a command line apart as a shell does: quotes, and what is no part
// of the command behind # > | or &.
func split(line string) []string {
	var words []string
	word, quoted, begun := strings.Builder{}, rune(0), false
	end := func() {
		if begun {
			words = append(words, word.String())
		}
		word.Reset()
		begun = false
	}
	for _, r := range line {
		switch {
		case quoted != 0 && r == quoted:
			quoted = 0
		case quoted != 0:
			word.WriteRune(r)
		case r == '\'' || r == '"':
			quoted, begun = r, true
		case r == ' ':
			end()
		case strings.ContainsRune(">|&;", r), r == '#' && !begun:
			end()
			return words
		default:
			word.WriteRune(r)
			begun = true
		}
	}
	end()
	return words
}

// tryCommand asks the command line whether it would take these words. Words in
// capitals stand for what a reader puts in their place; N is a number.
func tryCommand(words []string, whole bool) error {
	for i, w := range words {
		if w == "N" {
			words[i] = "1"
		}
	}
	cmd, rest, err := newRoot().Find(words)
	if err != nil {
		return err
	}
	if cmd.RunE == nil {
		return fmt.Errorf("%s needs a subcommand", cmd.CommandPath())
	}
	if err := cmd.ParseFlags(rest); err != nil {
		return err
	}
	if len(rest) == 0 && !whole {
		return nil
	}
	if err := cmd.ValidateArgs(cmd.Flags().Args()); err != nil {
		return err
	}
	return cmd.ValidateRequiredFlags()
}

// Every spillway command in README, docs and runbooks is one that exists, with
// flags that it has and as many arguments as it takes.
func TestDocumentedCommandsExist(t *testing.T) {
	count, runbooks := 0, 0
	for page, text := range pages(t) {
		lines, named := commandsIn(text)
		for i, line := range append(lines, named...) {
			count++
			if strings.HasPrefix(page, "docs/operate/alerts/") {
				runbooks++
			}
			if err := tryCommand(split(line), i < len(lines)); err != nil {
				t.Errorf("%s: spillway %s: %v", page, line, err)
			}
		}
	}
	if count < 40 || runbooks < 12 {
		t.Errorf("only %d commands were found, %d of them in runbooks", count, runbooks)
	}
}

// A check that finds no fault proves nothing.
func TestWrongCommandsAreFound(t *testing.T) {
	for line, good := range map[string]bool{
		"switchover shop --to west --dry-run  # what would happen": true,
		"switchover shop --to west --dryrun":                       false,
		"switchover shop other --to west":                          false,
		"switch shop":                                              false,
		"failover GROUP --to SITE --accept-loss N":                 true,
		"failover GROUP --to SITE --accept-loss many":              false,
		"mirror --from a:1":                                        false,
		"audit --from a:1 --to b:1 --topics 'orders|carts' > file": true,
		"config check":                                             false,
	} {
		if err := tryCommand(split(line), true); (err == nil) != good {
			t.Errorf("spillway %s: %v", line, err)
		}
	}
	if err := tryCommand(split("config check"), false); err != nil {
		t.Errorf("a command that is only named needs its arguments: %v", err)
	}
}

// Links between pages, and to files of the repository, lead somewhere.
func TestLinksOfPages(t *testing.T) {
	count := 0
	for page, text := range pages(t) {
		for _, l := range regexp.MustCompile(`\]\(([^)#\s]+)(?:#[^)]*)?\)`).FindAllStringSubmatch(text, -1) {
			if strings.Contains(l[1], "://") {
				continue
			}
			count++
			if _, err := os.Stat(filepath.Join("../..", filepath.Dir(page), l[1])); err != nil {
				t.Errorf("%s: %v", page, err)
			}
		}
	}
	if count < 25 {
		t.Errorf("only %d links were found", count)
	}
}

// A heading that follows text without an empty line is part of it to some readers. Merges
// leave such.
func TestHeadingsStandAlone(t *testing.T) {
	for page, text := range pages(t) {
		before, code := "", false
		for i, line := range strings.Split(text, "\n") {
			if strings.HasPrefix(line, "```") {
				code = !code
			}
			if !code && before != "" && heading.MatchString(line) {
				t.Errorf("%s:%d: no empty line before %q", page, i+1, line)
			}
			before = line
		}
	}
}

var heading = regexp.MustCompile(`^#+ `)
