package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"spillway"
	"spillway/mirror"
	"spillway/mirror/sitelog"
)

// Forms of an export.
const (
	formJSON   = "json"
	formNative = "native"
)

func newExportCommand(s *settings, addSite func(*cobra.Command) *cobra.Command, site *string) *cobra.Command {
	var form, file, dir string
	cmd := addSite(&cobra.Command{
		Use:   "export GROUP --site SITE [--file FILE | --format native --dir DIR]",
		Short: "Write the unreplicated records as JSON lines, or as they lie in the log",
		Long: "Write the unreplicated records that are neither replayed nor discarded: as JSON lines, without those of aborted and undecided transactions;\n" +
			"or with --format native as whole batches as they lie in the log of the site (format 2, with its own offsets, markers of transactions included),\n" +
			"a file of a folder for each partition, which kafka-dump-log reads.",
		Example: "  spillway unreplicated export shop --site east --file lost.jsonl\n  spillway unreplicated export shop --site east --format native --dir lost",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case form != formJSON && form != formNative:
				return exitError{exitUsage, fmt.Sprintf("--format %s: the forms are json and native", form)}
			case form == formNative && (dir == "" || file != ""):
				return exitError{exitUsage, "--format native writes a file for each partition: give --dir, and no --file"}
			case form == formJSON && dir != "":
				return exitError{exitUsage, "--dir is for --format native"}
			}
			return s.atSite(cmd.Context(), args[0], *site, func(m *mirror.Mirror, id spillway.ShareID) error {
				if form == formNative {
					files, err := exportLogs(cmd.Context(), m, id, dir)
					for _, f := range files {
						fmt.Fprintln(cmd.OutOrStdout(), f)
					}
					return err
				}
				n, err := exportTo(cmd, file, func(w io.Writer) (int64, error) { return m.ExportUnreplicated(cmd.Context(), id, w) })
				if err != nil {
					return err
				}
				fmt.Fprintf(cmd.ErrOrStderr(), "%d records exported\n", n)
				return nil
			})
		},
	})
	cmd.Flags().StringVar(&form, "format", formJSON, "json or native")
	cmd.Flags().StringVar(&file, "file", "", "new file to write; empty: standard output")
	cmd.Flags().StringVar(&dir, "dir", "", "folder for the files of --format native")
	return cmd
}

// exportTo writes to a new file or to standard output.
func exportTo(cmd *cobra.Command, file string, write func(io.Writer) (int64, error)) (n int64, err error) {
	var out io.Writer
	if file == "" {
		out = cmd.OutOrStdout()
	} else {
		f, fault := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if fault != nil {
			return 0, fmt.Errorf("--file: %w", fault)
		}
		defer func() { err = whole(f, errors.Join(err, f.Close())) }()
		out = f
	}
	w := bufio.NewWriter(out)
	n, err = write(w)
	return n, errors.Join(err, w.Flush())
}

// whole leaves a file only where it was written to its end: half of it would look like all,
// and be in the way of the next export.
func whole(f *os.File, err error) error {
	if err == nil {
		return nil
	}
	return errors.Join(err, os.Remove(f.Name()))
}

// exportLogs writes the batches of each open range into a file, named as a segment of
// Kafka's log: tools take the first offset from the name.
func exportLogs(ctx context.Context, m *mirror.Mirror, id spillway.ShareID, dir string) (files []string, err error) {
	ranges, err := m.Unreplicated(ctx, id)
	if err != nil {
		return nil, err
	}
	for _, r := range ranges {
		if !r.Open() {
			continue
		}
		name, err := exportLog(ctx, m, r, filepath.Join(dir, fmt.Sprintf("%s-%d", r.Topic, r.Partition)))
		if err != nil {
			return files, err
		}
		if name != "" {
			files = append(files, name)
		}
	}
	return files, nil
}

// exportLog returns the file's name; none where no batch is left.
func exportLog(ctx context.Context, m *mirror.Mirror, r mirror.UnreplicatedRange, dir string) (name string, err error) {
	var file *os.File
	var out *bufio.Writer
	err = m.UnreplicatedLog(ctx, r, func(b sitelog.Batch) error {
		if file == nil {
			if err := os.MkdirAll(dir, 0o700); err != nil {
				return err
			}
			name = filepath.Join(dir, fmt.Sprintf("%020d.log", b.BaseOffset))
			f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
			if err != nil {
				return err
			}
			file, out = f, bufio.NewWriter(f)
		}
		_, err := out.Write(b.Bytes)
		return err
	})
	if file != nil {
		err = whole(file, errors.Join(err, out.Flush(), file.Close()))
	}
	return name, err
}
