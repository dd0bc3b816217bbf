//go:build e2e

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway"
	"spillway/app"
	"spillway/configs"
	"spillway/federation/control"
	"spillway/federation/coordination"
	"spillway/federation/coordination/consul"
	"spillway/federation/failover"
	"spillway/federation/policies"
	"spillway/federation/topicchange"
	server "spillway/tests/cluster/consul"
	"spillway/tests/cluster/port"
)

const policiesConfig = `
virtualCluster: {name: shop, clusterID: shop-1}
sites:
  - {name: east, embedded: {listen: "127.0.0.1:%d"}}
  - {name: west, embedded: {listen: "127.0.0.1:%d"}}
  - {name: north, embedded: {listen: "127.0.0.1:%d"}}
coordinator: {consul: {address: "%s", tokenFile: %s/token-operator}}
failoverGroups:
  - {name: shop, topics: ["orders*"], consumerGroups: ["*"], sites: [east, west], groupDrain: 100ms}
  - {name: quiet, topics: [quiet], sites: [east, west], groupDrain: 100ms}
  - {name: drill, topics: [drill], sites: [east, west], groupDrain: 100ms, drillEvery: 24h}
  - {name: lost, topics: [lost], sites: [north, west], failover: {automatic: true, after: 500ms}}
gateway: {listen: "127.0.0.1:0", administration: topics}
mirror: {listen: "127.0.0.1:0", metadataInterval: 500ms}
control: {probeInterval: 200ms, probeTimeout: 1s, holdDown: 500ms}
telemetry: {listen: "127.0.0.1:0"}
console: {listen: "127.0.0.1:0"}
`

// policyWorld is a virtual cluster of embedded sites on a real Consul that lets nobody do
// anything without a token. Each process has a role of its own, and a token for that.
type policyWorld struct {
	t        *testing.T
	dir      string
	text     string // of the configuration
	file     string
	consul   *consulTap
	manage   *api.Client
	accessor map[string]string // of tokens, by their holder
}

func newPolicyWorld(t *testing.T) *policyWorld {
	const token = "5d0a7c4e-8a86-4b56-9c3c-0d6c2f0f3a11"
	address := server.WithPolicies(t, token).Servers[0].HTTP
	manage, err := api.NewClient(&api.Config{Address: address, Token: token})
	if err != nil {
		t.Fatal(err)
	}
	w := &policyWorld{t: t, dir: t.TempDir(), consul: tapConsul(t, address), manage: manage, accessor: map[string]string{}}
	ports, err := port.Reserve(3)
	if err != nil {
		t.Fatal(err)
	}
	w.text = fmt.Sprintf(policiesConfig, ports[0], ports[1], ports[2], w.consul.address, w.dir)
	w.file = filepath.Join(w.dir, "spillway.yaml")
	if err := os.WriteFile(w.file, []byte(w.text), 0o600); err != nil {
		t.Fatal(err)
	}
	return w
}

// env has the configuration say who a process is.
func (w *policyWorld) env(holder, site, role string) map[string]string {
	return map[string]string{
		configs.EnvName("process.id"): holder, configs.EnvName("process.site"): site, configs.EnvName("process.roles"): role,
		configs.EnvName("process.dataDir"): filepath.Join(w.dir, holder), configs.EnvName("coordinator.consul.tokenFile"): w.tokenFile(holder),
	}
}

func (w *policyWorld) tokenFile(holder string) string { return filepath.Join(w.dir, "token-"+holder) }

// spillway runs a command with somebody's token.
func (w *policyWorld) spillway(holder string, args ...string) (string, error) {
	w.t.Helper()
	w.t.Setenv(configs.EnvName("coordinator.consul.tokenFile"), w.tokenFile(holder))
	var out bytes.Buffer
	cmd := newRoot()
	cmd.SetArgs(append(args, "--config", w.file))
	cmd.SetOut(&out)
	cmd.SetErr(&out)
	err := cmd.ExecuteContext(w.t.Context())
	return out.String(), err
}

func (w *policyWorld) must(holder string, args ...string) string {
	w.t.Helper()
	out, err := w.spillway(holder, args...)
	if err != nil {
		w.t.Fatalf("spillway %s, as %s: %v\n%s", strings.Join(args, " "), holder, err, out)
	}
	return out
}

// token makes a token with the policies that the command prints, without those lines that
// name a path which is left out, and has it in the holder's file.
func (w *policyWorld) token(holder, site string, role policies.Role, leftOut string) {
	w.t.Helper()
	for name, value := range w.env(holder, site, "") {
		if name != configs.EnvName("process.roles") {
			w.t.Setenv(name, value)
		}
	}
	var rules []string
	for _, line := range strings.Split(w.must(holder, "config", "consul-policy", string(role)), "\n") {
		if leftOut != "" && strings.Contains(line, fmt.Sprintf(" %q ", leftOut)) {
			continue
		}
		rules = append(rules, line)
	}
	name := fmt.Sprintf("%s-%d", holder, time.Now().UnixNano())
	if _, _, err := w.manage.ACL().PolicyCreate(&api.ACLPolicy{Name: name, Rules: strings.Join(rules, "\n")}, nil); err != nil {
		w.t.Fatal(err)
	}
	made, _, err := w.manage.ACL().TokenCreate(&api.ACLToken{Description: holder, Policies: []*api.ACLLink{{Name: name}}}, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	w.accessor[holder] = made.AccessorID
	w.consul.know(made.SecretID, role, policies.Holder{VirtualCluster: "shop", Site: spillway.SiteID(site), Process: holder, Drills: true})
	if err := os.WriteFile(w.tokenFile(holder), []byte(made.SecretID+"\n"), 0o600); err != nil {
		w.t.Fatal(err)
	}
}

func (w *policyWorld) revoke(holder string) {
	w.t.Helper()
	if _, err := w.manage.ACL().TokenDelete(w.accessor[holder], nil); err != nil {
		w.t.Fatal(err)
	}
}

func (w *policyWorld) process(holder, site, role string) (*app.App, *logText, error) {
	w.t.Helper()
	env := w.env(holder, site, role)
	cfg, err := configs.Parse(w.file, []byte(w.text), func(name string) (string, bool) { v, ok := env[name]; return v, ok })
	if err != nil {
		w.t.Fatal(err)
	}
	log := &logText{}
	a := app.New(cfg, app.Options{Version: "test", Log: slog.New(slog.NewTextHandler(log, nil))})
	return a, log, a.Start(w.t.Context())
}

// start runs a process with a token for its role.
func (w *policyWorld) start(holder, site, role string) (*app.App, *logText) {
	w.t.Helper()
	need := policies.Role(role)
	if role == configs.RoleBroker {
		need = policies.Console
	}
	w.token(holder, site, need, "")
	a, log, err := w.process(holder, site, role)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		if err := a.Stop(); err != nil {
			w.t.Error(err)
		}
		if w.t.Failed() {
			w.t.Logf("log of %s:\n%s", holder, log)
		}
	})
	return a, log
}

// store speaks to Consul with somebody's token.
func (w *policyWorld) store(holder string) *consul.Store {
	w.t.Helper()
	token, err := os.ReadFile(w.tokenFile(holder))
	if err != nil {
		w.t.Fatal(err)
	}
	s, err := consul.New(consul.Config{Address: w.consul.address, Token: func() string { return strings.TrimSpace(string(token)) }})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = s.Close() })
	return s
}

// On a real Consul that lets nobody do anything by default, every role does all its work
// with the policy that the command prints for it, and uses every right that it has: no rule
// is missing, and none could go. What is another role's it is refused. A revoked token is
// told, ends the leases, and a new one in the file has all go on; nothing is lost.
func TestRealConsulPolicies(t *testing.T) {
	w := newPolicyWorld(t)
	w.refusesBadTokens()

	w.start("east-b", "east", "broker")
	w.start("west-b", "west", "broker")
	north, _ := w.start("north-b", "north", "broker")
	w.start("east-m", "east", "mirror")
	_, westMirror := w.start("west-m", "west", "mirror")
	w.start("east-c", "east", "control")
	w.prunes() // a control loop at west
	gateway, gatewayLog := w.start("east-1", "east", "gateway")
	w.token("reader", "", policies.Reader, "")
	w.token("operator", "", policies.Operator, "")

	address := gateway.Addr("gateway").String()
	w.createTopics(address, "orders", "quiet")
	load := startLoad(t, address)
	load.more(20)

	// Everything that people do.
	for _, args := range [][]string{{"status"}, {"flow", "list"}, {"fg", "show", "shop"}, {"switchover", "shop", "--to", "west", "--dry-run"}, {"failover", "shop", "--to", "west", "--dry-run", "--accept-loss", "-1"}} {
		w.wait("reader: "+strings.Join(args, " "), func() error {
			out, err := w.spillway("reader", args...)
			if coded, ok := errors.AsType[exitError](err); ok && coded.code == exitUnhealthy && !strings.Contains(out, "coordinator store") {
				return nil // north has no mirror
			}
			return err
		})
	}
	moves := [][]string{
		{"switchover", "shop", "--to", "west"}, {"site", "drain", "west", "--why", "test"}, {"site", "return", "west"}, {"switchover", "shop", "--to", "west"},
		{"automation", "pause"}, {"automation", "resume"}, {"failover", "quiet", "--to", "west", "--accept-loss", "-1"},
		{"unreplicated", "replay", "quiet", "--site", "east", "--why", "test"}, // nothing is lost, but it is claimed and noted
		{"drill", "run", "drill"},
	}
	for _, args := range moves {
		at := time.Now()
		w.must("operator", args...)
		load.more(20)
		t.Logf("%q took %s", args, time.Since(at).Round(time.Millisecond))
	}
	for _, args := range [][]string{{"fg", "history", "shop"}, {"fg", "report", "quiet"}, {"site", "drain", "east", "--dry-run"}} {
		w.must("reader", args...)
	}
	w.carriesTopicsOn()
	must(t, north.Stop())
	w.wait("a failover without a person", func() error {
		if out := w.must("reader", "fg", "show", "lost"); !strings.Contains(out, "failover") || !strings.Contains(out, "STABLE") {
			return errors.New(out)
		}
		return nil
	})
	w.consul.everyRuleServed(t)
	if t.Failed() {
		return
	}
	w.refusesWhatIsAnothers()

	// Tokens are revoked while their processes work.
	w.consul.tolerate()
	w.revoke("east-1")
	w.revoke("west-m")
	for _, log := range []*logText{gatewayLog, westMirror} {
		w.wait("who has no token any more says so", func() error {
			return log.has("the coordinator store does not let this process do its work", "Consul does not know the token")
		})
	}
	w.wait("the gateway's lease runs out", func() error { return gatewayLog.has("lease of the gateway cannot be reached") })
	if text := readyz(t, gateway); !strings.Contains(text, "[-] coordinator token: ") || !strings.Contains(text, "[-] gateway lease: ") {
		t.Errorf("of a gateway without a token /readyz says\n%s", text)
	}
	before := load.acknowledged()
	w.token("east-1", "east", policies.Gateway, w.keys().Offers()) // one that lacks a right is not taken
	w.wait("the rule is named", func() error {
		return gatewayLog.has(`key_prefix \"spillway/shop/offers/\" { policy = \"write\" }`)
	})
	time.Sleep(3 * time.Second) // longer than a look at the file, and a lease's next try
	lacking, err := os.ReadFile(w.tokenFile("east-1"))
	must(t, err)
	if used := w.consul.used(strings.TrimSpace(string(lacking))); len(used) > 0 {
		t.Errorf("a token that lacks a right was used for %v", used)
	}
	if after := load.acknowledged(); after > before+1 { // one may have been on its way
		t.Errorf("%d records were acknowledged while the gateway had no lease", after-before)
	}
	w.token("east-1", "east", policies.Gateway, "")
	w.token("west-m", "west", policies.Mirror, "")
	load.more(20)
	w.wait("ready again", func() error {
		if text := readyz(t, gateway); strings.Contains(text, "[-]") {
			return errors.New(text)
		}
		return nil
	})
	w.wait("the mirror goes on", func() error { return westMirror.has("a new token of the coordinator is in force") })
	w.must("operator", "switchover", "shop", "--to", "east")
	load.more(20)
	load.check(address)
}

func (w *policyWorld) keys() failover.Keys { return "shop" }

// refusesBadTokens: a process whose token cannot do its work ends at its start, and says
// what the token lacks.
func (w *policyWorld) refusesBadTokens() {
	w.t.Helper()
	refused := func(holder, role string, want ...string) {
		w.t.Helper()
		a, log, err := w.process(holder, "east", role)
		if err == nil {
			w.t.Fatalf("a %s with a bad token starts: %v\n%s", role, a.Stop(), log)
		}
		for _, words := range want {
			if !strings.Contains(err.Error(), words) {
				w.t.Errorf("%s: %v; want %q", role, err, words)
			}
		}
	}
	w.token("lacking", "east", policies.Gateway, w.keys().ReservedAll())
	refused("lacking", "gateway", "start coordinator store: ", `lacks key_prefix "spillway/shop/reserved/" { policy = "write" } (raise the reserved ends`)
	w.token("lacking", "east", policies.Gateway, w.keys().Shares()) // listings of what may not be read are empty
	refused("lacking", "gateway", `key_prefix "spillway/shop/shares/" { policy = "read" } (who serves what)`)
	refused("lacking", "gateway,control", `key_prefix "spillway/shop/history/" { policy = "write" }`)
	w.token("revoked", "east", policies.Mirror, "")
	w.revoke("revoked")
	refused("revoked", "mirror", "Consul does not know the token")
	must(w.t, os.WriteFile(w.tokenFile("empty"), nil, 0o600))
	refused("empty", "control", "the token is empty")
	if out, err := w.spillway("revoked", "fg", "show", "shop"); err == nil || !strings.Contains(err.Error(), "Consul does not know the token") {
		w.t.Errorf("a command: %v\n%s", err, out)
	}
	// Without any token Consul shows nothing, and does not say that there is more.
	must(w.t, put(w.manage, "spillway/shop/gateways/hidden"))
	nobody, err := consul.New(consul.Config{Address: w.consul.address})
	must(w.t, err)
	defer func() { _ = nobody.Close() }()
	if entries, err := nobody.List(w.t.Context(), w.keys().Gateways()); !errors.Is(err, coordination.ErrDenied) || !errors.Is(err, coordination.ErrUnavailable) {
		w.t.Errorf("who has no token sees %d gateways, %v", len(entries), err)
	}
	watching, stop := context.WithTimeout(w.t.Context(), 5*time.Second)
	defer stop()
	_ = nobody.Watch(watching, w.keys().Gateways(), func(entries []coordination.Entry, err error) { // ends with its context
		if stop(); !errors.Is(err, coordination.ErrDenied) {
			w.t.Errorf("who has no token watches %d gateways, %v", len(entries), err)
		}
	})
	w.token("lacking", "east", policies.Control, w.keys().Gateways())
	if entries, err := w.store("lacking").List(w.t.Context(), w.keys().Gateways()); !errors.Is(err, coordination.ErrDenied) {
		w.t.Errorf("a token that may not read gateways sees %d of them, %v", len(entries), err)
	}
	_, err = w.manage.KV().Delete("spillway/shop/gateways/hidden", nil)
	must(w.t, err)
	w.consul.forget()
}

// prunes runs a control loop at west that looks after the audit log of clients every
// second instead of every minute, and gives it an entry that is too old. It is quicker to
// carry topics on, too.
func (w *policyWorld) prunes() {
	w.t.Helper()
	w.token("west-c", "west", policies.Control, "")
	cfg, err := configs.Load(w.file)
	must(w.t, err)
	sites, err := app.OpenSites(cfg)
	must(w.t, err)
	access := map[spillway.SiteID]control.Access{}
	for id, c := range sites {
		access[id] = control.Access{Cluster: c}
	}
	c, err := control.New(control.Config{Topology: cfg.Topology(), Store: w.store("west-c"), Site: "west", Sites: access, AuditEvery: time.Second, TopicTakeover: 300 * time.Millisecond})
	must(w.t, err)
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = c.Run(ctx) // ends with its context
	}()
	w.t.Cleanup(func() {
		stop()
		<-ended
		must(w.t, app.CloseSites(sites))
	})
	old := time.Now().Add(-2 * failover.ClientAuditAge)
	_, err = w.manage.KV().Put(&api.KVPair{Key: w.keys().ClientAudit(old, "old"), Value: failover.ClientAudit(old, "somebody", "something", "")}, nil)
	must(w.t, err)
}

// createTopics has a client create topics through the gateway.
func (w *policyWorld) createTopics(address string, names ...string) {
	w.t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(address))
	must(w.t, err)
	defer client.Close()
	for _, name := range names {
		w.wait("topic "+name, func() error {
			req := kmsg.NewPtrCreateTopicsRequest()
			req.TimeoutMillis = 5000
			topic := kmsg.NewCreateTopicsRequestTopic()
			topic.Topic, topic.NumPartitions, topic.ReplicationFactor = name, 2, 1
			req.Topics = append(req.Topics, topic)
			res, err := req.RequestWith(w.t.Context(), client)
			if err != nil {
				return err
			}
			if code := res.Topics[0].ErrorCode; code != 0 && code != 36 { // TOPIC_ALREADY_EXISTS: of an attempt before
				return fmt.Errorf("error %d", code)
			}
			return nil
		})
	}
}

// carriesTopicsOn leaves the creation of a topic in the store, as a gateway that dies does.
func (w *policyWorld) carriesTopicsOn() {
	w.t.Helper()
	c := topicchange.Change{Topic: "orders-later", ID: "left", Partitions: 1, Replication: 1, Who: "test", Since: time.Now()}
	_, err := w.manage.KV().Put(&api.KVPair{Key: w.keys().Topic(c.Topic), Value: c.Encode()}, nil)
	must(w.t, err)
	w.wait("what a gateway left is carried on", func() error {
		pair, _, err := w.manage.KV().Get(w.keys().Topic(c.Topic), nil)
		if err == nil && pair != nil {
			err = errors.New("it is there")
		}
		return err
	})
}

// refusesWhatIsAnothers asks the real Consul of each role whether it may write what is
// dangerous in the wrong hands, and tries some of it.
func (w *policyWorld) refusesWhatIsAnothers() {
	w.t.Helper()
	holders := map[policies.Role]string{policies.Gateway: "east-1", policies.Mirror: "east-m", policies.Control: "east-c", policies.Console: "east-b", policies.Reader: "reader", policies.Operator: "operator"}
	k := w.keys()
	shop := spillway.ShareID{Group: "shop"}
	for key, may := range map[string][]policies.Role{
		k.Share(shop):                       {policies.Control, policies.Operator},
		k.Layout():                          {policies.Control},
		k.Gateway("east-1"):                 {policies.Gateway},
		k.Gateway("west-1"):                 nil,
		k.Mirror("east", "east-m"):          {policies.Mirror},
		k.Mirror("west", "west-m"):          nil,
		k.Writer("east"):                    {policies.Mirror},
		k.Writer("west"):                    nil,
		k.Ballot("east"):                    {policies.Control},
		k.Ballot("west"):                    nil,
		k.History(shop, 2):                  {policies.Control},
		k.HistoryKnown(shop, 2):             {policies.Control, policies.Operator, policies.Mirror},
		k.Reserved(shop):                    {policies.Gateway, policies.Control},
		k.GatewayReport(shop, 3, "east-1"):  {policies.Gateway, policies.Mirror, policies.Control},
		k.Automation():                      {policies.Operator},
		k.Identity():                        {policies.Control},
		k.Drained("east"):                   {policies.Operator},
		k.Replay(shop):                      {policies.Operator},
		k.Audit(time.Now(), "forged"):       {policies.Operator},
		k.ClientAudit(time.Now(), "forged"): {policies.Gateway, policies.Control},
		k.Offer("east"):                     {policies.Gateway},
		k.Topic("orders"):                   {policies.Gateway, policies.Control},
		failover.Keys("other").Share(shop):  nil,
		"spillway/shop/new/key":             nil,
	} {
		for role, holder := range holders {
			token, err := os.ReadFile(w.tokenFile(holder))
			must(w.t, err)
			lacking, err := w.store(holder).Lacking(w.t.Context(), strings.TrimSpace(string(token)), []coordination.Rule{{Path: key, Write: true}})
			must(w.t, err)
			if got := len(lacking) == 0; got != slices.Contains(may, role) {
				w.t.Errorf("%s may write %s: %v", role, key, got)
			}
		}
	}
	for holder, key := range map[string]string{"east-1": k.Share(shop), "east-m": k.Gateway("east-1"), "reader": k.Automation(), "east-b": k.Mirror("east", "east-m")} {
		s := w.store(holder)
		pair, _, err := w.manage.KV().Get(key, nil)
		must(w.t, err)
		version := uint64(0)
		if pair != nil {
			version = pair.ModifyIndex
		}
		if _, err := s.Put(w.t.Context(), key, []byte("{}"), version); !errors.Is(err, coordination.ErrDenied) {
			w.t.Errorf("%s writes %s: %v", holder, key, err)
		}
	}
}

func put(c *api.Client, key string) error {
	_, err := c.KV().Put(&api.KVPair{Key: key, Value: []byte("{}")}, nil)
	return err
}
