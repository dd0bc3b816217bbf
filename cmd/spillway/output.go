package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
)

// addOutput gives a listing its -o flag.
func (s *settings) addOutput(cmd *cobra.Command) *cobra.Command {
	cmd.Flags().StringVarP(&s.output, "output", "o", "table", "table or json")
	return cmd
}

// show prints a listing in the form that -o asks for. Table rows are cells
// separated by tabs, the head first.
func (s *settings) show(w io.Writer, value any, rows func() []string) error {
	switch s.output {
	case "json":
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		return enc.Encode(value)
	case "table", "":
		t := tabwriter.NewWriter(w, 0, 4, 3, ' ', 0)
		for _, row := range rows() {
			fmt.Fprintln(t, row)
		}
		return t.Flush()
	default:
		return exitError{exitUsage, fmt.Sprintf("-o %s: the forms are table and json", s.output)}
	}
}

// row joins cells for show.
func row(cells ...any) string {
	words := make([]string, len(cells))
	for i, c := range cells {
		words[i] = fmt.Sprint(c)
		if words[i] == "" {
			words[i] = "-"
		}
	}
	return strings.Join(words, "\t")
}
