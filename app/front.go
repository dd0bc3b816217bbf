package app

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"time"

	"spillway/configs"
	"spillway/federation/authentication"
)

// frontEvery is how often the files of the front are looked at.
const frontEvery = 5 * time.Second

// front is what the gateway's clients are told and asked first. It is made from files,
// which may change at any time.
type front struct {
	tls           *tls.Config // nil: plain text
	authenticator *authentication.Authenticator
	kept          []keptFiles
}

type keptFiles interface {
	Files() []string
	Look(context.Context) (changed bool, err error)
}

func newFront(c configs.Gateway, log *slog.Logger, authenticated func(mechanism, outcome string)) (*front, error) {
	f := &front{}
	if c.TLS.CertFile != "" {
		kept, err := authentication.TLSFiles{
			Certificate: c.TLS.CertFile, Key: c.TLS.KeyFile, ClientCA: c.TLS.ClientCAFile, ClientOptional: c.TLS.ClientAuth == "requested",
		}.Keep()
		if err != nil {
			return nil, fmt.Errorf("tls: %w", err)
		}
		f.tls, f.kept = authentication.ServerTLS(kept), append(f.kept, kept)
	}
	ask := authentication.Config{Mechanisms: c.SASL.Mechanisms, SessionLifetime: c.SASL.SessionLifetime, Authenticated: authenticated}
	if c.SASL.UsersFile != "" {
		read := func() (*authentication.Users, error) { return readUsers(c.SASL, log) }
		users, err := authentication.Keep(read, c.SASL.UsersFile)
		if err != nil {
			return nil, fmt.Errorf("sasl: %w", err)
		}
		ask.Users, f.kept = users.Current, append(f.kept, users)
	}
	if slices.Contains(ask.Mechanisms, authentication.OAuthBearer) {
		keys, err := f.tokenKeys(c.SASL.Tokens)
		if err != nil {
			return nil, fmt.Errorf("sasl: %w", err)
		}
		ask.Tokens = &authentication.Tokens{
			Keys: keys, Issuer: c.SASL.Tokens.Issuer, Audiences: c.SASL.Tokens.Audiences,
			PrincipalClaim: c.SASL.Tokens.PrincipalClaim, ClockSkew: c.SASL.Tokens.ClockSkew,
		}
	}
	var err error
	f.authenticator, err = authentication.New(ask)
	return f, err
}

// readUsers tells of what is no fault and should not be.
func readUsers(c configs.ClientSASL, log *slog.Logger) (*authentication.Users, error) {
	users, err := authentication.ReadUsers(c.UsersFile, c.Mechanisms...)
	if err != nil {
		return nil, err
	}
	if n := users.Idle(); n > 0 {
		log.Warn("lines of the users file serve no login: their mechanism is not offered; take them out", "file", c.UsersFile, "lines", n)
	}
	if info, err := os.Stat(c.UsersFile); err == nil && info.Mode().Perm()&0o004 != 0 {
		log.Warn("everybody on this host can read the users file, and try passwords on it; chmod 600", "file", c.UsersFile)
	}
	return users, nil
}

// admits says who is let in, as one reads it in the log.
func admits(c configs.Gateway) string {
	switch optional := c.TLS.ClientAuth == "requested"; {
	case len(c.SASL.Mechanisms) > 0 && c.TLS.ClientCAFile != "" && !optional:
		return "who logs in by " + strings.Join(c.SASL.Mechanisms, ", ") + " and shows a certificate"
	case len(c.SASL.Mechanisms) > 0:
		return "who logs in by " + strings.Join(c.SASL.Mechanisms, ", ")
	case c.TLS.ClientCAFile != "" && optional:
		return "anybody; who shows a certificate is known by it"
	case c.TLS.ClientCAFile != "":
		return "who shows a certificate"
	}
	return "anybody"
}

// tokenKeys come from a file, which must be there, or an address, which may come later.
func (f *front) tokenKeys(t configs.ClientTokens) (func() *authentication.Keys, error) {
	if t.KeysFile == "" {
		fetched, err := authentication.FetchKeys(t.KeysURL, t.KeysCAFile)
		if err != nil {
			return nil, err
		}
		f.kept = append(f.kept, fetched)
		return fetched.Current, nil
	}
	read := func() (*authentication.Keys, error) { return authentication.ReadKeys(t.KeysFile) }
	kept, err := authentication.Keep(read, t.KeysFile)
	if err != nil {
		return nil, err
	}
	f.kept = append(f.kept, kept)
	return kept.Current, nil
}

// watch has changed files in force within seconds. What cannot be used changes nothing and
// is told until it is mended; connections that are there stay.
func (f *front) watch(ctx context.Context, log *slog.Logger, problem func(what string, err error)) {
	tick := time.NewTicker(frontEvery)
	defer tick.Stop()
	for {
		for _, k := range f.kept { // at once, too: keys that are fetched are not there yet
			files := strings.Join(k.Files(), ", ")
			switch changed, err := k.Look(ctx); {
			case ctx.Err() != nil:
				return
			case err != nil:
				problem("read changed "+files+"; what was read before stays in force", err)
			case changed:
				log.Info("changed files are in force", "files", files)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
