package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"spillway/federation/authentication"
)

func newUserCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "user", Short: "Make lines for the file of users who may log in at gateways"}
	cmd.AddCommand(newUserHashCommand())
	return cmd
}

func newUserHashCommand() *cobra.Command {
	var mechanisms []string
	iterations := authentication.IterationsDefault
	cmd := &cobra.Command{
		Use:   "hash NAME",
		Short: "Print the lines that let a user in by a password",
		Long: "Print the lines of a users file (gateway.sasl.usersFile) that let a user log in by a password, one for each mechanism; each\n" +
			"serves PLAIN too. They hold what a server needs to check the password, salted and hashed, and not the password. It is\n" +
			"read from standard input, or asked for at a terminal; it is never an argument.",
		Example: "  spillway user hash alice >> users\n  spillway user hash alice --mechanism SCRAM-SHA-512 < password",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			password, err := readPassword(cmd.InOrStdin(), cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			var lines []string
			for _, m := range mechanisms {
				line, err := authentication.UserLine(args[0], m, password, iterations)
				if err != nil {
					return exitError{exitUsage, err.Error()}
				}
				lines = append(lines, line)
			}
			fmt.Fprintln(cmd.OutOrStdout(), strings.Join(lines, "\n"))
			return nil
		},
	}
	cmd.Flags().StringSliceVar(&mechanisms, "mechanism", authentication.Scrams, "mechanisms to make lines for")
	cmd.Flags().IntVar(&iterations, "iterations", iterations, "how often the password is hashed: the work of whoever tries passwords on a stolen file, and of the client at each login")
	return cmd
}

// readPassword asks twice at a terminal, and shows nothing; else it takes what comes,
// without a last line break.
func readPassword(in io.Reader, say io.Writer) ([]byte, error) {
	if f, ok := in.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		return askPassword(int(f.Fd()), say)
	}
	password, err := io.ReadAll(io.LimitReader(in, authentication.PasswordBytesMax+3))
	if err != nil {
		return nil, fmt.Errorf("read the password from standard input: %w", err)
	}
	return bytes.TrimSuffix(bytes.TrimSuffix(password, []byte("\n")), []byte("\r")), nil
}

func askPassword(terminal int, say io.Writer) ([]byte, error) {
	ask := func(what string) ([]byte, error) {
		fmt.Fprint(say, what)
		defer fmt.Fprintln(say)
		return term.ReadPassword(terminal)
	}
	password, err := ask("Password: ")
	if err != nil {
		return nil, err
	}
	again, err := ask("Again: ")
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(password, again) {
		return nil, errors.New("the two passwords differ; nothing was printed")
	}
	return password, nil
}
