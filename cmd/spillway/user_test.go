package main

import (
	"bytes"
	"strings"
	"testing"

	"spillway/federation/authentication"
)

// What the command prints is a users file, and the password is not in it.
func TestUserHashMakesAUsersFile(t *testing.T) {
	run := func(in string, args ...string) (string, error) {
		var out bytes.Buffer
		root := newRoot()
		root.SetIn(strings.NewReader(in))
		root.SetOut(&out)
		root.SetArgs(append([]string{"user", "hash"}, args...))
		err := root.ExecuteContext(t.Context())
		return out.String(), err
	}
	text, err := run("hunter2\n", "alice")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(text, "hunter2") || strings.Count(text, "\n") != 2 {
		t.Errorf("it printed %q", text)
	}
	if _, err := authentication.ParseUsers([]byte(text)); err != nil {
		t.Error(err)
	}
	for what, c := range map[string]struct {
		in   string
		args []string
		want string
	}{
		"no password":   {"\n", []string{"alice"}, "empty"},
		"long password": {strings.Repeat("x", 5000), []string{"alice"}, "more than 1024 bytes"},
		"a space":       {"x", []string{"al ice"}, "spaces"},
		"mechanism":     {"x", []string{"alice", "--mechanism", "PLAIN"}, "serve PLAIN too"},
		"iterations":    {"x", []string{"alice", "--iterations", "1"}, "between 4096 and 1000000"},
	} {
		if out, err := run(c.in, c.args...); err == nil || !strings.Contains(err.Error(), c.want) || out != "" {
			t.Errorf("%s: %q, %v", what, out, err)
		}
	}
}
