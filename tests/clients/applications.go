package clients

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"spillway/tests/cluster/kafka"
	"spillway/tests/cluster/port"
	"spillway/tests/cluster/process"
)

//go:embed java/Bills.java
var javaBills string

// applications is the set of jars of Kafka Streams and Connect.
const applications = "streams-4.3.1"

// StartBills starts an application of Kafka Streams, java/Bills.java, with further settings of
// Streams.
func StartBills(ctx context.Context, bootstrap []string, id, from, to, dir string, settings map[string]string) (*Client, error) {
	java, err := compile(ctx, applications, "Bills", javaBills)
	if err != nil {
		return nil, err
	}
	java.Options = append(java.Options, "-Xmx160m")
	c := &Client{spec: Spec{Name: id, Dir: dir}}
	if c.output, err = os.Create(c.HistoryFile()); err != nil {
		return nil, fmt.Errorf("start %s: %w", id, err)
	}
	args := []string{"from=" + from, "to=" + to, "conf.application.id=" + id, "conf.bootstrap.servers=" + strings.Join(bootstrap, ","), "conf.state.dir=" + filepath.Join(dir, id+"-state")}
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		args = append(args, "conf."+name+"="+settings[name])
	}
	if err := c.run(java.Spec(id, c.spec.log(), "Bills", args...)); err != nil {
		c.Kill()
		return nil, err
	}
	return c, nil
}

// Connect is a worker of Kafka Connect in distributed mode.
type Connect struct {
	process *process.Process
	url     string
}

// connectPatience bounds one question to the worker. It answers some after it has written to a
// topic, which waits while a group moves.
const connectPatience = 30 * time.Second

// StartConnect starts a worker whose group is named id and whose topics have that name in
// front of them.
func StartConnect(ctx context.Context, bootstrap []string, id, dir string, settings map[string]string) (*Connect, error) {
	java, err := kafka.Tools(ctx, applications)
	if err != nil {
		return nil, err
	}
	java.Options = append(java.Options, "-Xmx256m")
	free, err := port.Reserve(1)
	if err != nil {
		return nil, err
	}
	c := &Connect{url: fmt.Sprintf("http://127.0.0.1:%d", free[0])}
	conf := map[string]string{
		"bootstrap.servers": strings.Join(bootstrap, ","), "group.id": id, "listeners": c.url,
		"config.storage.topic": id + "-configs", "offset.storage.topic": id + "-offsets", "status.storage.topic": id + "-status",
		"config.storage.replication.factor": "1", "offset.storage.replication.factor": "1", "status.storage.replication.factor": "1",
		"offset.storage.partitions": "2", "status.storage.partitions": "1", // fewer than 25 and 5: two cores
		"key.converter": "org.apache.kafka.connect.storage.StringConverter", "value.converter": "org.apache.kafka.connect.storage.StringConverter",
		"plugin.discovery": "service_load", // the default looks through all jars
	}
	maps.Copy(conf, settings)
	var text strings.Builder
	for _, name := range slices.Sorted(maps.Keys(conf)) {
		fmt.Fprintf(&text, "%s=%s\n", name, conf[name])
	}
	file := filepath.Join(dir, id+".properties")
	if err := os.WriteFile(file, []byte(text.String()), 0o600); err != nil {
		return nil, fmt.Errorf("start %s: %w", id, err)
	}
	spec := java.Spec(id, filepath.Join(dir, id+".log"), "org.apache.kafka.connect.cli.ConnectDistributed", file)
	spec.Nice = clientNice
	if c.process, err = process.Start(spec); err != nil {
		return nil, err
	}
	return c, nil
}

// Kill ends the worker at once, if it still runs.
func (c *Connect) Kill() { _ = c.process.Kill() }

// Stop ends it as an operator does.
func (c *Connect) Stop(patience time.Duration) error { return c.process.Stop(patience) }

// Log is the end of what it said.
func (c *Connect) Log(lines int) string { return c.process.Tail(lines) }

// Await waits until the worker answers as ready wants.
func (c *Connect) Await(patience time.Duration, ready func() error) error {
	return c.process.Await(patience, ready)
}

// Configure makes a connector.
func (c *Connect) Configure(ctx context.Context, name string, config map[string]string) error {
	body, err := json.Marshal(config)
	if err != nil {
		return err
	}
	return c.ask(ctx, http.MethodPut, "/connectors/"+name+"/config", body, nil)
}

// Running returns an error unless the connector and its task run.
func (c *Connect) Running(ctx context.Context, name string) error {
	return c.want(ctx, name, "RUNNING", "")
}

// Failed returns an error unless the connector's task has failed, with these words.
func (c *Connect) Failed(ctx context.Context, name, words string) error {
	return c.want(ctx, name, "FAILED", words)
}

func (c *Connect) want(ctx context.Context, name, task, words string) error {
	var status struct {
		Connector struct{ State, Trace string }
		Tasks     []struct{ State, Trace string }
	}
	if err := c.ask(ctx, http.MethodGet, "/connectors/"+name+"/status", nil, &status); err != nil {
		return err
	}
	if status.Connector.State != "RUNNING" || len(status.Tasks) != 1 || status.Tasks[0].State != task || !strings.Contains(status.Tasks[0].Trace, words) {
		return fmt.Errorf("connector %s: %+v", name, status)
	}
	return nil
}

// Restart starts the task of a connector again.
func (c *Connect) Restart(ctx context.Context, name string) error {
	return c.ask(ctx, http.MethodPost, "/connectors/"+name+"/tasks/0/restart", nil, nil)
}

func (c *Connect) ask(ctx context.Context, method, path string, body []byte, into any) error {
	ctx, cancel := context.WithTimeout(ctx, connectPatience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, c.url+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return err
	}
	if resp.StatusCode >= http.StatusBadRequest {
		return fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, text)
	}
	if into == nil {
		return nil
	}
	return json.Unmarshal(text, into)
}
