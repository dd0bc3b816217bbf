// Package configs reads the one configuration file of Spillway. It is strict:
// an unknown key, a wrong type or a value that cannot work is a fault, and all
// faults are reported at once with key and line. Viper lives here and nowhere
// else. The package knows what the keys mean to each other, not what the parts
// do with them; only app and cmd import it.
//
// The folder also holds the shipped examples, one per topology.
package configs

import (
	"time"

	"spillway/broker/namespace"
)

// Roles of a process.
const (
	RoleGateway = "gateway"
	RoleMirror  = "mirror"
	RoleControl = "control"
	RoleConsole = "console"
	// RoleBroker runs the embedded cluster of the process's site.
	RoleBroker = "broker"
)

// Config is the whole file. Keys are given by the tag "key", their meaning by
// "doc", from which the schema and docs/configuration.md are made. Maps are
// never keyed by names of sites or topics, since viper lower-cases map keys.
type Config struct {
	VirtualCluster VirtualCluster  `key:"virtualCluster" doc:"What clients see."`
	Process        Process         `key:"process" doc:"This process. The rest of the file is the same for all processes of a virtual cluster, so these keys are often given by the environment."`
	Sites          []Site          `key:"sites" doc:"The Kafka clusters, one per place."`
	Witnesses      []Witness       `key:"witnesses" doc:"Places without a Kafka cluster that vote about the sites."`
	Coordinator    Coordinator     `key:"coordinator" doc:"The store that all processes share. Exactly one of consul and embedded."`
	FailoverGroups []FailoverGroup `key:"failoverGroups" doc:"Topics and consumer groups that move together."`
	Gateway        Gateway         `key:"gateway" doc:"The addresses, limits and lease of a gateway."`
	Mirror         Mirror          `key:"mirror" doc:"How records are copied into this process's site."`
	Control        Control         `key:"control" doc:"How sites are watched and moves are driven."`
	Telemetry      Telemetry       `key:"telemetry" doc:"Metrics, traces and health."`
	Console        Console         `key:"console" doc:"Status page and its API."`
	Log            Log             `key:"log" doc:"Log lines, written to standard error."`
}

// VirtualCluster is what clients see.
type VirtualCluster struct {
	Name      string `key:"name" doc:"Name of the virtual cluster, and the prefix of its keys in the coordinator store." required:"true"`
	ClusterID string `key:"clusterID" doc:"Kafka cluster id that clients see. Must never change: topic ids are derived from it." required:"true"`
	Namespace string `key:"namespace" doc:"What all topics, consumer groups and transactional ids of clients begin with at the sites, such as payments. with its dot, so that several virtual clusters share them. Ends with a dot, a hyphen or an underscore. Must never change. Empty: names are the same."`
}

// Process says who this process is.
type Process struct {
	ID      string   `key:"id" doc:"Unique among all processes and the same after a restart, for example east-1."`
	Site    string   `key:"site" doc:"The site, or witness, that this process stands in."`
	Roles   []string `key:"roles" doc:"What this process does: gateway, mirror, control, console, and broker for an embedded site. A witness runs control and console." default:"gateway,mirror,control,console"`
	DataDir string   `key:"dataDir" doc:"Folder for state of this process, made if it does not exist." default:"/var/lib/spillway"`
}

// Site is one Kafka cluster.
type Site struct {
	Name             string        `key:"name" doc:"Name of the site." required:"true"`
	Bootstrap        []string      `key:"bootstrap" doc:"host:port of some brokers. Not for an embedded site."`
	Embedded         *EmbeddedSite `key:"embedded" doc:"A small cluster inside Spillway instead of a real one: for trying things out, on one host."`
	TLS              TLS           `key:"tls" doc:"Encryption towards the brokers."`
	SASL             SASL          `key:"sasl" doc:"Credentials of mirror and control at the brokers, and of gateways where gatewaySASL is not given."`
	GatewaySASL      SASL          `key:"gatewaySASL" doc:"Credentials of gateways, if they have their own: needed for the resource fence, which denies writes to them and not to the mirror."`
	GatewayPrincipal string        `key:"gatewayPrincipal" doc:"Kafka principal (User:name) under which gateways write; the resource fence denies writes to it. Where brokers allow everyone on topics without an ACL, allow gateways, mirrors and clients explicitly: a denial is an ACL. Empty: no authorizer, moves are fenced by leases only."`
	MirrorPrincipal  string        `key:"mirrorPrincipal" doc:"Kafka principal (User:name) under which mirrors write."`
	Weight           int           `key:"weight" doc:"The site's part of what is balanced by weight, against those of other sites." default:"1"`
	Replication      int           `key:"replication" doc:"Replication factor of the topics that Spillway creates here. 0: that of the data topics, at most the number of brokers." default:"0"`

	namespace string // of the virtual cluster
}

// Namespace is what the names of the virtual cluster begin with at the site.
func (s Site) Namespace() namespace.Namespace { return namespace.Namespace(s.namespace) }

// EmbeddedSite is a cluster that the role broker runs on the loopback device.
type EmbeddedSite struct {
	Listen  string `key:"listen" doc:"Loopback address of the first broker; the others take the ports that follow." required:"true"`
	Dir     string `key:"dir" doc:"Folder that keeps the records. Empty: they are lost with the process."`
	Brokers int    `key:"brokers" doc:"Number of brokers." default:"1"`
}

// TLS towards brokers.
type TLS struct {
	Enabled    bool   `key:"enabled" doc:"Encrypt connections." default:"false"`
	CAFile     string `key:"caFile" doc:"PEM file of the authorities to trust. Empty: those of the host."`
	CertFile   string `key:"certFile" doc:"PEM file of the client certificate."`
	KeyFile    string `key:"keyFile" doc:"PEM file of the client certificate's key."`
	ServerName string `key:"serverName" doc:"Name to expect in the broker's certificate. Empty: the host that was dialled."`
}

// SASL credentials. The password is never in the file itself.
type SASL struct {
	Mechanism    string `key:"mechanism" doc:"How to authenticate. Empty: not at all." enum:"PLAIN,SCRAM-SHA-256,SCRAM-SHA-512"`
	User         string `key:"user" doc:"User name."`
	PasswordFile string `key:"passwordFile" doc:"File that holds the password; a last line break is cut off."`
	PasswordEnv  string `key:"passwordEnv" doc:"Name of the environment variable that holds the password."`
}

// Witness is a place that only votes.
type Witness struct {
	Name string `key:"name" doc:"Name of the place." required:"true"`
}

// Coordinator is the shared store.
type Coordinator struct {
	Consul   *Consul              `key:"consul" doc:"Consul's key-value store: production."`
	Embedded *EmbeddedCoordinator `key:"embedded" doc:"A file on one host: demo and single hosts."`
}

// Consul says where the Consul agent is.
type Consul struct {
	Address    string `key:"address" doc:"host:port, https://host:port or unix:///path of the agent on this host." default:"127.0.0.1:8500"`
	TokenFile  string `key:"tokenFile" doc:"File that holds the ACL token. A serving process reads it anew when it changes. See docs/operate/consul-acl.md."`
	TokenEnv   string `key:"tokenEnv" doc:"Name of the environment variable that holds the ACL token, which cannot be changed while a process runs."`
	CAFile     string `key:"caFile" doc:"PEM file of the authority of Consul's certificate."`
	CertFile   string `key:"certFile" doc:"PEM file of the client certificate."`
	KeyFile    string `key:"keyFile" doc:"PEM file of the client certificate's key."`
	Datacenter string `key:"datacenter" doc:"Consul datacenter. Empty: the agent's. There must be one for all sites: Consul does not replicate its store between datacenters."`
}

// EmbeddedCoordinator is a durable file, served to the other processes of this
// host over a socket by the process that opened it first.
type EmbeddedCoordinator struct {
	File   string `key:"file" doc:"Database file. The process that opens it first serves the others over the socket. Empty: this process only uses the socket."`
	Socket string `key:"socket" doc:"Unix socket over which the other processes of this host reach it. Empty: there is one process only."`
}

// FailoverGroup is what moves together.
type FailoverGroup struct {
	Name                  string            `key:"name" doc:"Name of the group." required:"true"`
	Topics                []string          `key:"topics" doc:"Topics: exact names, or a prefix followed by *." required:"true"`
	ConsumerGroups        []string          `key:"consumerGroups" doc:"Consumer groups: exact names, or a prefix followed by *."`
	TransactionalIDs      []string          `key:"transactionalIds" doc:"Transactional ids of producers whose transactions write to the topics of this group alone: exact names, or a prefix followed by *. Those of Kafka Streams begin with the application.id and a hyphen. Only with order ordered and ack.sites 1."`
	TransactionTimeoutMax time.Duration     `key:"transactionTimeoutMax" doc:"The longest transaction timeout that a producer may ask for; others are refused with INVALID_TRANSACTION_TIMEOUT. An open transaction keeps what all others write to its partitions behind it from the other sites, so this is also what a failover may lose." default:"1m"`
	Sites                 []string          `key:"sites" doc:"Sites that hold the group, preferred first; the first is the initial home. With order unordered each is the home of partitions of its own, and neither they nor their order may ever change." required:"true"`
	Order                 string            `key:"order" doc:"ordered: one active site for each partition. unordered: a batch is written at any site that can take it, at least once; one failover group NAME-SITE for each site. Must never change." enum:"ordered,unordered" default:"ordered"`
	Partitions            int               `key:"partitions" doc:"With order unordered: partitions of each topic that live at one site. The topics have that many times the number of sites. Must never change."`
	Balance               string            `key:"balance" doc:"With order unordered: where batches are written. home-first: where the client sent them, as long as that site can take them." enum:"home-first,round-robin,weighted,least-in-flight,least-latency,local-first,key-affinity" default:"home-first"`
	Ack                   Ack               `key:"ack" doc:"When producers are answered."`
	OffsetBase            int64             `key:"offsetBase" doc:"Virtual minus local offset in the first epoch. Must never change." default:"0"`
	ReservedBlock         int64             `key:"reservedBlock" doc:"Records by which the reserved end is raised ahead of use: what a failover may burn of the offset space." default:"65536"`
	GroupDrain            time.Duration     `key:"groupDrain" doc:"How long a switchover waits for the members of consumer groups to commit." default:"3s"`
	HoldMax               time.Duration     `key:"holdMax" doc:"How long a request may be held while the group moves; then the client is told to look for the leader." default:"8s"`
	Reads                 string            `key:"reads" doc:"Where consumers read whose client.rack is the name of a site of the group. active: where all others do. standby: at their own site, as far as it has the records." enum:"active,standby" default:"active"`
	FreshnessMax          time.Duration     `key:"freshnessMax" doc:"With reads standby: how long ago a standby may last have had everything that the active site had. An older one is left at its end, and nobody is sent there." default:"10s"`
	Deletes               string            `key:"deletes" doc:"What becomes at the other sites of a topic that is deleted at the active one: keep it, or follow and delete it where a mirror had created it." enum:"keep,follow" default:"keep"`
	Failover              AutomaticFailover `key:"failover" doc:"What may happen without a person."`
	Adopting              bool              `key:"adopting" doc:"Clients of the group may still connect to the brokers of the site that serves it, past the gateways. Nothing moves while it is set, and after that until none of them is found any more. See docs/operate/adopt.md." default:"false"`
	DrillEvery            time.Duration     `key:"drillEvery" doc:"The group exists for drills alone, and one that passes is expected so often. Its one topic is written by spillway drill run. 0s: it is no such group. See docs/operate/drills.md." default:"0s"`
}

// Ack says how many sites must hold a record before its producer is answered.
type Ack struct {
	Sites          int           `key:"sites" doc:"Sites that must hold a record, the active one included." default:"1"`
	OnShortfall    string        `key:"onShortfall" doc:"What to do when fewer sites are there: block the producers, or degrade, which is recorded first." enum:"block,degrade" default:"block"`
	ShortfallAfter time.Duration `key:"shortfallAfter" doc:"How long too few sites must have been there until the group is degraded, and enough until that ends." default:"10s"`
	OnLag          string        `key:"onLag" doc:"What to do where sites is 1 and every other site lacks more of a partition than lagMax or lagRecordsMax allows: warn, throttle the producers to what the mirrors carry, or block them until the others are near again." enum:"warn,throttle,block" default:"warn"`
	LagMax         time.Duration `key:"lagMax" doc:"How long a record may lie at the active site alone. 0s: no limit." default:"30s"`
	LagRecordsMax  int64         `key:"lagRecordsMax" doc:"Records of one partition that may lie at the active site alone. 0: no limit." default:"0"`
}

// AutomaticFailover bounds what may happen without a person.
type AutomaticFailover struct {
	Automatic      bool          `key:"automatic" doc:"Fail over when a quorum of places finds the active site dead. Needs three places that vote." default:"false"`
	After          time.Duration `key:"after" doc:"The site must have been found dead for so long." default:"5s"`
	LossRecordsMax int64         `key:"lossRecordsMax" doc:"More records than this that may be lost need a person." default:"10000"`
	PerHourMax     int           `key:"perHourMax" doc:"More failovers of the group than this within an hour need a person." default:"2"`
}

// Gateway is the part that clients talk to.
type Gateway struct {
	Listen         string        `key:"listen" doc:"Address to listen on." default:":9092"`
	Advertised     string        `key:"advertised" doc:"host:port under which clients reach this gateway. Empty: the listen address, with this host's name where it names none."`
	TLS            ServerTLS     `key:"tls" doc:"Encryption towards clients; without it they connect in plain text."`
	SASL           ClientSASL    `key:"sasl" doc:"How clients say who they are. Without it, by their certificates, or not at all. See docs/operate/security.md."`
	Administration string        `key:"administration" doc:"What clients may do beside reading and writing. topics: create topics and change their settings. It is for every client that is let in, or for those that gateway.authorization lets. See docs/operate/topics.md." enum:"none,topics" default:"none"`
	Authorization  Authorization `key:"authorization" doc:"What clients may do once it is known who they are. See docs/operate/security.md."`
	Limits         GatewayLimits `key:"limits" doc:"Bounds on what clients can make the gateway do."`
	Quotas         []Quota       `key:"quotas" doc:"What principals may use of each gateway in a second. See docs/operate/quotas.md."`
	Lease          Lease         `key:"lease" doc:"The right to serve, renewed in the coordinator store."`
}

// Words of Gateway.Administration.
const (
	AdministrationNone   = "none"
	AdministrationTopics = "topics"
)

// ServerTLS is the gateway's certificate, and whose certificates clients show.
type ServerTLS struct {
	CertFile       string `key:"certFile" doc:"PEM file of the certificate, chain included. This and the other files are read anew when they change."`
	KeyFile        string `key:"keyFile" doc:"PEM file of its key."`
	ClientCAFile   string `key:"clientCAFile" doc:"PEM file of the authorities of clients' certificates. Empty: clients are not asked for one."`
	ClientAuth     string `key:"clientAuth" doc:"Whether a client must have a certificate (required) or may have none (requested)." enum:"required,requested" default:"required"`
	AllowAnonymous bool   `key:"allowAnonymous" doc:"Let clients in without a certificate, as User:ANONYMOUS, where clientAuth is requested and sasl is not given." default:"false"`
}

// ClientSASL is how clients log in.
type ClientSASL struct {
	Mechanisms      []string      `key:"mechanisms" doc:"Mechanisms that clients may log in by: PLAIN, SCRAM-SHA-256, SCRAM-SHA-512, OAUTHBEARER. Empty: clients do not log in."`
	UsersFile       string        `key:"usersFile" doc:"File of the users, with lines of spillway user hash, for PLAIN and SCRAM. It is read anew when it changes."`
	Tokens          ClientTokens  `key:"tokens" doc:"Which tokens let a client in, for OAUTHBEARER."`
	SessionLifetime time.Duration `key:"sessionLifetime" doc:"How long a login is good for. Clients log in again on the same connection (KIP-368); connections of those that cannot are closed, and so are those of certificates. 0s: as long as the connection." default:"0s"`
	WithoutTLS      bool          `key:"withoutTLS" doc:"Let clients log in without encryption: with PLAIN everybody on the way can read the passwords." default:"false"`
}

// Authorization is what clients may do.
type Authorization struct {
	Rules         string   `key:"rules" doc:"By what it is decided: none lets every client do everything; acls goes by the access control list of the site that serves, as its brokers do." enum:"none,acls" default:"none"`
	SuperUsers    []string `key:"superUsers" doc:"With rules: acls, principals (User:name) that may do everything, as super.users of brokers."`
	AllowUnlisted bool     `key:"allowUnlisted" doc:"With rules: acls, let everybody do everything with a resource that no entry is about, as allow.everyone.if.no.acl.found of brokers." default:"false"`
	NotClients    []string `key:"notClients" doc:"With rules: acls, principals (User:name) of brokers, exporters or backups, which no client of a gateway has: a switchover is not refused since a site gives them other rights."`
}

// ClientTokens are JSON Web Tokens, signed by RS256 or ES256.
type ClientTokens struct {
	KeysFile       string        `key:"keysFile" doc:"File of the issuer's public keys, a JSON Web Key Set. It is read anew when it changes. Exactly one of keysFile and keysURL."`
	KeysURL        string        `key:"keysURL" doc:"https address of the issuer's public keys. They are fetched every 5 minutes, and when a token names a key that is not known."`
	KeysCAFile     string        `key:"keysCAFile" doc:"PEM file of the authority of that address. Empty: those of the host."`
	Issuer         string        `key:"issuer" doc:"What iss of a token must be, to the letter."`
	Audiences      []string      `key:"audiences" doc:"What aud of a token must name one of."`
	PrincipalClaim string        `key:"principalClaim" doc:"Claim that holds the name of the client; its principal is User:name." default:"sub"`
	ClockSkew      time.Duration `key:"clockSkew" doc:"By how much the clocks of issuer and gateway may differ." default:"30s"`
}

// GatewayLimits bound what a client controls.
type GatewayLimits struct {
	ConnectionsMax             int           `key:"connectionsMax" doc:"Client connections." default:"10000"`
	ConnectionsPerAddressMax   int           `key:"connectionsPerAddressMax" doc:"Client connections from one address (IPv6: one /64). Raise it where many clients share one, behind a proxy or NAT." default:"5000"`
	ConnectionRatePerAddress   int64         `key:"connectionRatePerAddress" doc:"Connections that one address may open in a second, those of ten seconds at once; those beyond are closed. Leave it where clients come through a proxy or load balancer, which is one address. 0: no limit." default:"0"`
	ConnectionsPerPrincipalMax int           `key:"connectionsPerPrincipalMax" doc:"Client connections of one principal; those beyond are closed. Where clients do not say who they are, all are one. 0: no limit." default:"0"`
	FrameBytesMax              int           `key:"frameBytesMax" doc:"Largest request, in bytes." default:"16777216"`
	InFlightMax                int           `key:"inFlightMax" doc:"Unanswered requests per connection; more are not read." default:"64"`
	UnansweredBytesMax         int64         `key:"unansweredBytesMax" doc:"Bytes of requests without an answer, held ones included, and of answers on their way to clients, for the whole process." default:"536870912"`
	IdleMax                    time.Duration `key:"idleMax" doc:"Connections that sent nothing for so long are closed." default:"10m"`
}

// Quota is what a principal may use of one gateway.
type Quota struct {
	Principal        string `key:"principal" doc:"User:name as docs/operate/security.md makes it, or * for each principal that has no rate of its own." required:"true"`
	ProducerByteRate int64  `key:"producerByteRate" doc:"Bytes of Produce requests a second. 0: as the entry of * says, or without limit." default:"0"`
	ConsumerByteRate int64  `key:"consumerByteRate" doc:"Bytes of answers to Fetch a second. 0: as the entry of * says, or without limit." default:"0"`
	RequestRate      int64  `key:"requestRate" doc:"Requests of any kind a second. 0: as the entry of * says, or without limit." default:"0"`
}

// EveryPrincipal is the principal of a quota for all that have no rate of their own.
const EveryPrincipal = "*"

// Lease times. The holder counts from when it sent the renewal, a waiter from
// the last change it saw.
type Lease struct {
	Interval time.Duration `key:"interval" doc:"How often the lease is renewed." default:"1s"`
	TTL      time.Duration `key:"ttl" doc:"How long a renewal is good for." default:"4s"`
}

// Mirror copies records into the site of its process.
type Mirror struct {
	Listen            string        `key:"listen" doc:"Address at which gateways read the durable marks." default:":9094"`
	Advertised        string        `key:"advertised" doc:"host:port under which gateways reach it. Empty: the listen address, with this host's name where it names none."`
	FetchBytesMax     int           `key:"fetchBytesMax" doc:"Bytes asked for in one fetch from another site." default:"8388608"`
	FetchWaitMax      time.Duration `key:"fetchWaitMax" doc:"How long a fetch may wait for records." default:"250ms"`
	PartitionBytesMax int           `key:"partitionBytesMax" doc:"Bytes asked for of one partition in one fetch." default:"1048576"`
	Memory            int64         `key:"memory" doc:"Bytes that all flows together may hold of records: what was asked for, what is written, and copies in requests. A batch that is larger gets through alone; what batches decompress to, where they have to be decoded, comes on top." default:"134217728"`
	TransactionWait   time.Duration `key:"transactionWait" doc:"How long a transaction that others have open at this site may last before a flow begins there; then it is aborted." default:"1m"`
	MetadataInterval  time.Duration `key:"metadataInterval" doc:"How often topics are compared with those of the site that is followed, and their settings carried." default:"30s"`
	SettingsExcluded  []string      `key:"settingsExcluded" doc:"Settings of topics that are not carried, beside those that are each site's own: exact names, or a prefix followed by *."`
	ACLs              bool          `key:"acls" doc:"Carry entries of the access control list about the topics and consumer groups of failover groups, those of gateways and mirrors excepted." default:"false"`
	Caps              []Cap         `key:"caps" doc:"Bounds on what is fetched from other sites. Each that fits a topic counts; moves are not bounded, since clients are held."`
	MapReplication    int           `key:"mapReplication" doc:"Replication factor of the map topic. 0: that of the site." default:"0"`
}

// Cap bounds how fast a mirror fetches from another site.
type Cap struct {
	Source         string   `key:"source" doc:"The site that is fetched from. Empty: each of them has this for itself."`
	Topics         []string `key:"topics" doc:"Names, or prefixes followed by *, of the topics that share it. Empty: all."`
	BytesPerSecond int      `key:"bytesPerSecond" doc:"Bytes a second as they travel: compressed." required:"true"`
}

// Control drives moves and watches sites.
type Control struct {
	ProbeInterval time.Duration `key:"probeInterval" doc:"How often each site is probed." default:"1s"`
	HoldDown      time.Duration `key:"holdDown" doc:"After a move, no failover without a person for so long." default:"30s"`
	ProbeTimeout  time.Duration `key:"probeTimeout" doc:"A probe without an answer for so long has failed." default:"2s"`
	DirectQuiet   time.Duration `key:"directQuiet" doc:"A producer past the gateways has gone when it has not written for so long. For groups that are adopting." default:"10m"`
}

// Telemetry is off where an address is empty.
type Telemetry struct {
	Listen      string  `key:"listen" doc:"Address of /metrics, /livez and /readyz. Empty: they are served by the console only." default:":9095"`
	OTLP        string  `key:"otlp" doc:"URL of an OTLP/HTTP endpoint that gets a trace of each move, for example http://127.0.0.1:4318. Empty: no traces."`
	TraceSample float64 `key:"traceSample" doc:"Share of moves that are traced, 0 to 1." default:"1"`
}

// Console is the status page.
type Console struct {
	Listen string `key:"listen" doc:"Address of the status page and its API. Loopback unless something in front of it asks who comes: it only shows, but it shows names." default:"127.0.0.1:9096"`
}

// Log lines.
type Log struct {
	Level  string `key:"level" doc:"Least level that is written." enum:"debug,info,warn,error" default:"info"`
	Format string `key:"format" doc:"Form of a line." enum:"text,json" default:"text"`
}
