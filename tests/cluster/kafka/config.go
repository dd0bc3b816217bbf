package kafka

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Config describes one cluster, which stands for one site. The zero value is
// one broker of the default version that anybody may talk to.
type Config struct {
	Name    string // for errors and folder names; "kafka" if empty
	Version string // one of Versions; DefaultVersion if empty
	Brokers int    // 1 if 0; more than 1 share three or fewer controllers
	Dir     string // data and logs; what is there already is used again

	// FirstNode is the lowest node id, 1 if 0. Sites with different ones show
	// whether a node id slips through a gateway.
	FirstNode int

	// Properties are added to, or replace, the settings of every broker.
	Properties map[string]string

	// Users and their passwords. If there are any, the client listener asks for
	// SASL by PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512.
	Users map[string]string

	// SuperUsers are names from Users that no ACL binds. If there are any,
	// brokers authorize; who is under no ACL may do everything, so that a test
	// sets only the ACL that it is about.
	SuperUsers []string

	// TLS puts the client listener under TLS, with a certificate of 127.0.0.1
	// and localhost signed by Cluster.CA.
	TLS bool

	Host    string // address to listen on and to advertise; 127.0.0.1 if empty
	Network string // network namespace of the brokers; empty: that of the test

	// OwnDisk gives the data of each broker a file system of its own, in memory, which
	// FillDisk can fill. Needs root.
	OwnDisk bool

	// OwnClock gives each broker a time of day that SetClock changes.
	OwnClock bool

	HeapMB  int      // 256 if 0
	Options []string // added to those of the virtual machine
}

func (c Config) withDefaults() Config {
	if c.Name == "" {
		c.Name = "kafka"
	}
	if c.Version == "" {
		c.Version = DefaultVersion
	}
	if c.Brokers == 0 {
		c.Brokers = 1
	}
	if c.FirstNode == 0 {
		c.FirstNode = 1
	}
	if c.Host == "" {
		c.Host = "127.0.0.1"
	}
	if c.HeapMB == 0 {
		c.HeapMB = 256
	}
	return c
}

func (c Config) validate() error {
	var faults []error
	if !slices.Contains(Versions, c.Version) {
		faults = append(faults, fmt.Errorf("version %s is not one of %s", c.Version, strings.Join(Versions, ", ")))
	}
	if c.Dir == "" {
		faults = append(faults, errors.New("no folder for data and logs"))
	}
	for _, user := range c.SuperUsers {
		if _, ok := c.Users[user]; !ok {
			faults = append(faults, fmt.Errorf("super user %s is not among the users; without a password everybody would be ANONYMOUS, whom brokers trust", user))
		}
	}
	return errors.Join(faults...)
}

// dataOf is the folder of a broker's logs.
func dataOf(dir string) string { return filepath.Join(dir, "data") }

// ports are those of one broker.
type ports struct{ client, internal, controller int }

// properties writes the server.properties of the broker with this index.
func (c Config) properties(index int, all []ports, dir, keystore string) map[string]string {
	node, own := c.FirstNode+index, all[index]
	address := func(listener string, port int) string { return fmt.Sprintf("%s://%s:%d", listener, c.Host, port) }
	advertised := address("CLIENT", own.client) + "," + address("INTERNAL", own.internal)
	replicas := strconv.Itoa(c.Brokers)
	p := map[string]string{
		"node.id":                   strconv.Itoa(node),
		"process.roles":             "broker",
		"controller.quorum.voters":  c.voters(all),
		"controller.listener.names": "CONTROLLER",
		"listeners":                 advertised,
		"advertised.listeners":      advertised,
		// Brokers talk apart from clients, so a client never learns of a listener without credentials.
		"inter.broker.listener.name": "INTERNAL",
		"log.dirs":                   dataOf(dir),

		"auto.create.topics.enable":                        "false",
		"default.replication.factor":                       replicas,
		"min.insync.replicas":                              strconv.Itoa(min(2, c.Brokers)),
		"offsets.topic.num.partitions":                     "4",
		"offsets.topic.replication.factor":                 replicas,
		"transaction.state.log.num.partitions":             "4",
		"transaction.state.log.replication.factor":         replicas,
		"transaction.state.log.min.isr":                    strconv.Itoa(min(2, c.Brokers)),
		"share.coordinator.state.topic.num.partitions":     "4",
		"share.coordinator.state.topic.replication.factor": replicas,
		"share.coordinator.state.topic.min.isr":            strconv.Itoa(min(2, c.Brokers)),
		"group.initial.rebalance.delay.ms":                 "0",

		// Small machines: the cleaner's map alone is 128 MB by default.
		"log.cleaner.dedupe.buffer.size": "4194304",
		"num.io.threads":                 "4",
		"num.network.threads":            "2",
		"background.threads":             "4",
		"broker.heartbeat.interval.ms":   "500",
		// A killed broker is let in again only when its old session is over, after 9 s by default.
		"broker.session.timeout.ms": "4000",
	}
	if index < controllersMax {
		p["process.roles"] = "broker,controller"
		p["listeners"] += "," + address("CONTROLLER", own.controller)
	}
	if c.Brokers == 1 {
		// Nobody could take over; waiting for that takes 2 s of each stop.
		p["controlled.shutdown.enable"] = "false"
	}
	c.addSecurity(p, keystore)
	maps.Copy(p, c.Properties)
	return p
}

// Three controllers are a quorum that survives one; more only cost.
const controllersMax = 3

func (c Config) voters(all []ports) string {
	var voters []string
	for i := range all[:min(len(all), controllersMax)] {
		voters = append(voters, fmt.Sprintf("%d@%s:%d", c.FirstNode+i, c.Host, all[i].controller))
	}
	return strings.Join(voters, ",")
}

func (c Config) addSecurity(p map[string]string, keystore string) {
	protocol := "PLAINTEXT"
	if c.TLS {
		protocol = "SSL"
		p["listener.name.client.ssl.keystore.type"] = "PEM"
		p["listener.name.client.ssl.keystore.location"] = keystore
	}
	if len(c.Users) > 0 {
		protocol = "SASL_" + map[bool]string{false: "PLAINTEXT", true: "SSL"}[c.TLS]
		p["sasl.enabled.mechanisms"] = "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512"
		var plain strings.Builder
		plain.WriteString("org.apache.kafka.common.security.plain.PlainLoginModule required")
		for _, user := range slices.Sorted(maps.Keys(c.Users)) {
			fmt.Fprintf(&plain, " user_%s=%q", user, c.Users[user])
		}
		p["listener.name.client.plain.sasl.jaas.config"] = plain.String() + ";"
		for _, mechanism := range []string{"scram-sha-256", "scram-sha-512"} {
			p["listener.name.client."+mechanism+".sasl.jaas.config"] = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
		}
	}
	p["listener.security.protocol.map"] = "CLIENT:" + protocol + ",INTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT"
	if len(c.SuperUsers) > 0 {
		p["authorizer.class.name"] = "org.apache.kafka.metadata.authorizer.StandardAuthorizer"
		p["allow.everyone.if.no.acl.found"] = "true"
		p["super.users"] = "User:ANONYMOUS;User:" + strings.Join(c.SuperUsers, ";User:") // ANONYMOUS: the brokers themselves
	}
}

// scram returns the arguments of the formatter that create the users.
func (c Config) scram() []string {
	var args []string
	for _, user := range slices.Sorted(maps.Keys(c.Users)) {
		for _, mechanism := range []string{"SCRAM-SHA-256", "SCRAM-SHA-512"} {
			args = append(args, "--add-scram", fmt.Sprintf("%s=[name=%s,password=%s]", mechanism, user, c.Users[user]))
		}
	}
	return args
}

// fileOf renders properties as a file; backslashes are special there.
func fileOf(p map[string]string) string {
	var text strings.Builder
	for _, key := range slices.Sorted(maps.Keys(p)) {
		fmt.Fprintf(&text, "%s=%s\n", key, strings.ReplaceAll(p[key], `\`, `\\`))
	}
	return text.String()
}
