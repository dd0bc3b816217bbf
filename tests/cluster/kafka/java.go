package kafka

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"spillway/tests/cluster/cache"
	"spillway/tests/cluster/process"
)

// Java runs programs of one set of jars: Kafka's own tools, or a single source
// file of a test.
type Java struct {
	Classpath []string
	Options   []string // of the virtual machine, such as -Xmx256m
}

// Compiled is what also has the classes of a source file, compiled once per name and text:
// launching from source would compile it at each start, on cores that the brokers need.
func (j Java) Compiled(name, class, source string) (Java, error) {
	sum := sha256.Sum256([]byte(source))
	classes, err := cache.Entry(name+"-"+hex.EncodeToString(sum[:4]), func(dir string) error {
		file := filepath.Join(dir, class+".java")
		if err := os.WriteFile(file, []byte(source), 0o644); err != nil {
			return err
		}
		return Run("javac", "-d", dir, "-cp", strings.Join(j.Classpath, ":"), file)
	})
	if err != nil {
		return j, fmt.Errorf("compile %s: %w", class, err)
	}
	j.Classpath = append([]string{classes}, j.Classpath...)
	return j, nil
}

// Tools gives the jars of a Kafka version (3.9.2, 4.3.1, 4.4.0) or of another
// set (mirrormaker-4.3.1).
func Tools(ctx context.Context, version string) (Java, error) {
	set := version
	if !strings.Contains(version, "-") {
		set = "kafka-" + version
	}
	jars, err := Jars(ctx, set)
	if err != nil {
		return Java{}, err
	}
	logging, err := loggingOption(version)
	if err != nil {
		return Java{}, err
	}
	return Java{
		Classpath: jars,
		// Tests are short: the second compiler costs more than it gives, and a
		// parallel collector only takes the cores from the other brokers.
		Options: []string{"-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xshare:auto", logging},
	}, nil
}

// Spec runs a class (org.apache.kafka.tools.TopicCommand) or a source file
// (client/Produce.java) with args; stdout and stderr go to the file log.
func (j Java) Spec(name, log, main string, args ...string) process.Spec {
	line := append([]string{}, j.Options...)
	line = append(line, "-cp", strings.Join(j.Classpath, ":"), main)
	return process.Spec{Name: name, Path: "java", Args: append(line, args...), Log: log}
}

// Run runs a class or a source file to its end and returns what it printed.
func (j Java) Run(ctx context.Context, main string, args ...string) (string, error) {
	log, err := os.CreateTemp("", "spillway-java-*.log")
	if err != nil {
		return "", err
	}
	_ = log.Close()
	defer func() { _ = os.Remove(log.Name()) }()
	runErr := process.Run(ctx, j.Spec(main, log.Name(), main, args...))
	output, err := os.ReadFile(log.Name())
	if runErr != nil {
		return string(output), runErr
	}
	return string(output), err
}

// loggingOption writes the logging set-up into the temporary folder and returns
// the option that names it. 3.9 and before log through log4j 1, the later ones through 2.
func loggingOption(version string) (string, error) {
	option, text := "-Dlog4j2.configurationFile=", log4j2
	if strings.Contains(version, "3.9.") || version == OldestVersion {
		option, text = "-Dlog4j.configuration=file:", log4j1
	}
	digest := sha256.Sum256([]byte(text))
	path := filepath.Join(os.TempDir(), "spillway-log4j-"+hex.EncodeToString(digest[:4])+".properties")
	// Written aside and renamed: a virtual machine may be reading it just now,
	// and another one may be started at the same moment.
	aside, err := os.CreateTemp(os.TempDir(), "spillway-log4j-*")
	if err != nil {
		return "", fmt.Errorf("write the logging set-up: %w", err)
	}
	_, err = aside.WriteString(text)
	if err := errors.Join(err, aside.Close(), os.Rename(aside.Name(), path)); err != nil {
		return "", fmt.Errorf("write the logging set-up: %w", err)
	}
	return option + path, nil
}

// The dump of several hundred settings at each start would bury the rest.
const log4j1 = `log4j.rootLogger=INFO, out
log4j.appender.out=org.apache.log4j.ConsoleAppender
log4j.appender.out.layout=org.apache.log4j.PatternLayout
log4j.appender.out.layout.ConversionPattern=%d{ISO8601} %p %c{1}: %m%n
log4j.logger.kafka.server.KafkaConfig=WARN
log4j.logger.org.apache.kafka.common.config.AbstractConfig=WARN
log4j.logger.org.apache.kafka.clients=WARN
log4j.logger.org.apache.kafka.common.utils.AppInfoParser=WARN
`

const log4j2 = `appender.out.type=Console
appender.out.name=out
appender.out.layout.type=PatternLayout
appender.out.layout.pattern=%d{ISO8601} %p %c{1}: %m%n
rootLogger.level=INFO
rootLogger.appenderRef.out.ref=out
logger.brokerconfig.name=kafka.server.KafkaConfig
logger.brokerconfig.level=WARN
logger.config.name=org.apache.kafka.common.config.AbstractConfig
logger.config.level=WARN
logger.clients.name=org.apache.kafka.clients
logger.clients.level=WARN
logger.version.name=org.apache.kafka.common.utils.AppInfoParser
logger.version.level=WARN
`
