package app

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"spillway/configs"
	"spillway/federation/authentication"
)

// The files of the front are read anew within seconds; a bad one is told and changes nothing.
func TestTheFrontIsReadAnew(t *testing.T) {
	line := func(name string) []byte {
		l, err := authentication.UserLine(name, authentication.ScramSHA256, []byte("hunter2"), authentication.IterationsMin)
		if err != nil {
			t.Fatal(err)
		}
		return []byte(l)
	}
	users := filepath.Join(t.TempDir(), "users")
	write := func(data []byte) {
		t.Helper()
		if err := os.WriteFile(users, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c := configs.Gateway{TLS: certificate(t), SASL: configs.ClientSASL{Mechanisms: []string{"PLAIN"}, UsersFile: users}}
	var began bytes.Buffer
	if _, err := newFront(c, slog.New(slog.NewTextHandler(&began, nil)), nil); err == nil || !strings.Contains(err.Error(), users) {
		t.Errorf("without a users file: %v", err)
	}
	write(line("alice"))
	f, err := newFront(c, slog.New(slog.NewTextHandler(&began, nil)), nil)
	if err != nil || !f.authenticator.Offers() {
		t.Fatal(err)
	}
	if began.Len() > 0 {
		t.Errorf("a good file is warned of: %s", &began)
	}
	if err := os.Chmod(users, 0o644); err != nil {
		t.Fatal(err)
	}
	c.SASL.Mechanisms = []string{authentication.ScramSHA512}
	if _, err := newFront(c, slog.New(slog.NewTextHandler(&began, nil)), nil); err != nil || strings.Count(began.String(), "level=WARN") != 2 ||
		!strings.Contains(began.String(), "serve no login") || !strings.Contains(began.String(), "everybody on this host") {
		t.Errorf("%v, %s", err, &began)
	}
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var log bytes.Buffer
		var problems []string
		go f.watch(ctx, slog.New(slog.NewTextHandler(&log, nil)), func(what string, err error) { problems = append(problems, what+": "+err.Error()) })
		pass := func() {
			time.Sleep(2 * frontEvery)
			synctest.Wait()
		}
		pass()
		if log.Len() > 0 || len(problems) > 0 {
			t.Errorf("nothing changed: %s %v", &log, problems)
		}
		write([]byte("alice hunter2"))
		pass()
		if len(problems) == 0 || !strings.Contains(problems[0], users) || !strings.Contains(problems[0], "line 1") || strings.Contains(problems[0], "hunter2") {
			t.Errorf("a bad file is told as %q", problems)
		}
		write(line("bob"))
		pass()
		if strings.Count(log.String(), "changed files are in force") != 1 {
			t.Errorf("log: %s", &log)
		}
	})
}
