// Command cluster keeps real Kafka clusters and a real Consul up by hand, as
// the tests do it:
//
//	go run ./tests/cluster up --sites 3 --brokers 1
//	go run ./tests/cluster fetch                     downloads and builds all that tests need
//	go run ./tests/cluster checksums kafka-4.3.1     prints what Maven Central gives now
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"spillway/tests/cluster/consul"
	"spillway/tests/cluster/kafka"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	root := &cobra.Command{Use: "cluster", Short: "Real Kafka clusters and Consul for tests", SilenceUsage: true}
	root.AddCommand(upCommand(), fetchCommand(), checksumsCommand())
	if err := root.ExecuteContext(ctx); err != nil {
		os.Exit(1) // cobra has printed it
	}
}

type upFlags struct {
	sites, brokers, consul int
	version, dir           string
	users                  []string
}

func upCommand() *cobra.Command {
	var flags upFlags
	command := &cobra.Command{
		Use:   "up",
		Short: "Start clusters and keep them up until Ctrl-C",
		Args:  cobra.NoArgs,
		RunE:  func(c *cobra.Command, _ []string) error { return up(c.Context(), flags) },
	}
	f := command.Flags()
	f.IntVar(&flags.sites, "sites", 3, "number of Kafka clusters")
	f.IntVar(&flags.brokers, "brokers", 1, "number of brokers in each")
	f.IntVar(&flags.consul, "consul", 0, "number of Consul servers")
	f.StringVar(&flags.version, "version", kafka.DefaultVersion, "Kafka version: "+strings.Join(kafka.Versions, ", "))
	f.StringVar(&flags.dir, "dir", "", "folder for data and logs (default: a new temporary one, removed at the end)")
	f.StringSliceVar(&flags.users, "user", nil, "name=password that the client listeners ask for; the first is a super user")
	return command
}

func up(ctx context.Context, flags upFlags) (err error) {
	if flags.dir == "" {
		if flags.dir, err = os.MkdirTemp("", "spillway-cluster-*"); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(flags.dir)) }()
	}
	configs, err := siteConfigs(flags)
	if err != nil {
		return err
	}
	begin := time.Now()
	clusters, err := kafka.StartAll(ctx, configs...)
	if err != nil {
		return err
	}
	defer func() {
		for _, c := range clusters {
			err = errors.Join(err, c.Stop())
		}
	}()
	for _, c := range clusters {
		fmt.Printf("%-8s Kafka %s  %s\n", c.Name, c.Version, strings.Join(c.Bootstrap(), ","))
	}
	if flags.consul > 0 {
		servers, err := consul.Start(ctx, consul.Config{Servers: flags.consul, Dir: filepath.Join(flags.dir, "consul")})
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, servers.Stop()) }()
		fmt.Printf("%-8s Consul %s  %s\n", "", consul.Version, strings.Join(servers.Addresses(), ","))
	}
	fmt.Printf("up after %.1f s; data and logs in %s; Ctrl-C ends them\n", time.Since(begin).Seconds(), flags.dir)
	<-ctx.Done()
	return nil
}

func siteConfigs(flags upFlags) ([]kafka.Config, error) {
	users, super := map[string]string{}, []string(nil)
	for i, pair := range flags.users {
		name, password, ok := strings.Cut(pair, "=")
		if !ok {
			return nil, fmt.Errorf("--user %s: want name=password", pair)
		}
		users[name] = password
		if i == 0 {
			super = []string{name}
		}
	}
	var configs []kafka.Config
	for i := range flags.sites {
		name := fmt.Sprintf("site%d", i+1)
		configs = append(configs, kafka.Config{
			Name: name, Version: flags.version, Brokers: flags.brokers, FirstNode: 100*i + 1,
			Users: users, SuperUsers: super, Dir: filepath.Join(flags.dir, name),
		})
	}
	return configs, nil
}

func fetchCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "fetch",
		Short: "Download and build all that tests need into the cache",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			for _, set := range kafka.Sets() {
				jars, err := kafka.Jars(c.Context(), set)
				if err != nil {
					return err
				}
				fmt.Printf("%s: %d jars\n", set, len(jars))
			}
			binary, err := consul.Binary(c.Context())
			if err != nil {
				return err
			}
			fmt.Println(binary)
			return nil
		},
	}
}

func checksumsCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "checksums SET",
		Short: "Download a set of jars and print its checksums, for tests/cluster/kafka/jars",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			list, err := kafka.Record(c.Context(), args[0])
			fmt.Print(list)
			return err
		},
	}
}
