package configs

import (
	"fmt"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"spillway/broker/namespace"
	"spillway/federation/authentication"
	"spillway/lb"
)

// HoldLimit is the longest hold that clients bear: franz-go and kafka-go give
// up a produce after 10 s (C29).
const HoldLimit = 8 * time.Second

var nameRule = regexp.MustCompile(`^[a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?$`)

// name checks what becomes part of keys in the store and labels of metrics.
func (c *checker) name(key, value string) {
	if value != "" && !nameRule.MatchString(value) {
		c.fault(c.lineOf(key), key, "%q cannot be a name: use lower-case letters, digits, - and _, at most 63", value)
	}
}

func (c *checker) at(key, format string, args ...any) {
	if !c.faulty(key) {
		c.fault(c.lineOf(key), key, format, args...)
	}
}

// validate checks what keys mean to each other.
func (c *checker) validate(cfg *Config) {
	c.name("virtualCluster.name", cfg.VirtualCluster.Name)
	if id := cfg.VirtualCluster.ClusterID; len(id) > 64 || strings.ContainsAny(id, " \t\n") {
		c.at("virtualCluster.clusterID", "%q cannot be a cluster id: at most 64 letters, no spaces", id)
	}
	if _, err := namespace.Parse(cfg.VirtualCluster.Namespace); err != nil {
		c.at("virtualCluster.namespace", "%v", err)
	}
	for i := range cfg.Sites {
		cfg.Sites[i].namespace = cfg.VirtualCluster.Namespace
	}
	places := c.sites(cfg)
	c.process(cfg, places)
	c.coordinator(cfg)
	c.groups(cfg, places)
	c.gateway(cfg.Gateway)
	c.authorization(cfg.Gateway, cfg.Sites)
	for key, address := range map[string]string{
		"mirror.listen": cfg.Mirror.Listen, "telemetry.listen": cfg.Telemetry.Listen, "console.listen": cfg.Console.Listen,
	} {
		c.address(key, address, true)
	}
	c.address("mirror.advertised", cfg.Mirror.Advertised, true)
	c.caps(cfg)
	if t := cfg.Telemetry.TraceSample; t > 1 || t < 0 {
		c.at("telemetry.traceSample", "%v is not between 0 and 1", t)
	}
	if cfg.Mirror.MetadataInterval <= 0 {
		c.at("mirror.metadataInterval", "must be longer than 0s")
	}
	if cfg.Control.DirectQuiet < directQuietLeast {
		c.at("control.directQuiet", "%s: must be %s or more, since a producer may pause", cfg.Control.DirectQuiet, directQuietLeast)
	}
	if cfg.Control.ProbeInterval <= 0 {
		c.at("control.probeInterval", "must be longer than 0s")
	}
}

// sites returns the names of all places, sites first, in order.
func (c *checker) sites(cfg *Config) []string {
	if len(cfg.Sites) == 0 {
		c.at("sites", "is missing: name at least one Kafka cluster")
	}
	var places []string
	for i, s := range cfg.Sites {
		key := fmt.Sprintf("sites[%d]", i)
		c.name(key+".name", s.Name)
		if slices.Contains(places, s.Name) {
			c.at(key+".name", "%q is named twice", s.Name)
		}
		places = append(places, s.Name)
		switch {
		case s.Embedded == nil && len(s.Bootstrap) == 0:
			c.at(key+".bootstrap", "is missing: give host:port of some brokers, or embedded")
		case s.Embedded != nil && len(s.Bootstrap) > 0:
			c.at(key+".bootstrap", "does not go with embedded; leave one of them out")
		}
		for j, b := range s.Bootstrap {
			c.address(fmt.Sprintf("%s.bootstrap[%d]", key, j), b, false)
		}
		c.embedded(key+".embedded", s.Embedded)
		if s.Weight < 1 || s.Weight > lb.WeightMax {
			c.at(key+".weight", "must be 1 to %d", lb.WeightMax)
		}
		c.credentials(key, s)
	}
	for i, w := range cfg.Witnesses {
		key := fmt.Sprintf("witnesses[%d].name", i)
		c.name(key, w.Name)
		if slices.Contains(places, w.Name) {
			c.at(key, "%q is named twice", w.Name)
		}
		places = append(places, w.Name)
	}
	return places
}

// memoryMin is what a mirror can do with at all.
const memoryMin = 1 << 20

func (c *checker) caps(cfg *Config) {
	if cfg.Mirror.Memory < memoryMin {
		c.at("mirror.memory", "%d bytes, must be %d or more", cfg.Mirror.Memory, memoryMin)
	}
	for i, limit := range cfg.Mirror.Caps {
		key := fmt.Sprintf("mirror.caps[%d]", i)
		if limit.BytesPerSecond < 1 {
			c.at(key+".bytesPerSecond", "must be 1 or more: nothing would ever be carried")
		}
		if limit.Source != "" && !slices.ContainsFunc(cfg.Sites, func(s Site) bool { return s.Name == limit.Source }) {
			c.at(key+".source", "%q is no site", limit.Source)
		}
	}
}

func (c *checker) embedded(key string, e *EmbeddedSite) {
	if e == nil {
		return
	}
	c.address(key+".listen", e.Listen, false)
	if host, _, err := net.SplitHostPort(e.Listen); err == nil && host != "localhost" {
		if ip := net.ParseIP(host); ip == nil || !ip.IsLoopback() {
			c.at(key+".listen", "%q is not a loopback address: an embedded cluster must not be reached from other hosts", e.Listen)
		}
	}
	if e.Brokers < 1 {
		c.at(key+".brokers", "must be 1 or more")
	}
}

func (c *checker) credentials(key string, s Site) {
	c.sasl(key+".sasl", s.SASL)
	c.sasl(key+".gatewaySASL", s.GatewaySASL)
	if s.GatewayPrincipal != "" && s.GatewaySASL.Mechanism == "" {
		c.at(key+".gatewaySASL", "is missing: the fence denies writes to %s, so gateways need credentials of their own", s.GatewayPrincipal)
	}
	if (s.TLS.CertFile == "") != (s.TLS.KeyFile == "") {
		c.at(key+".tls", "certFile and keyFile go together")
	}
	if !s.TLS.Enabled && (s.TLS.CAFile != "" || s.TLS.CertFile != "") {
		c.at(key+".tls.enabled", "is not true, so caFile and certFile do nothing")
	}
	for name, p := range map[string]string{".gatewayPrincipal": s.GatewayPrincipal, ".mirrorPrincipal": s.MirrorPrincipal} {
		if p != "" && !strings.HasPrefix(p, "User:") {
			c.at(key+name, "%q is not a principal; try %q", p, "User:"+p)
		}
	}
	if s.GatewayPrincipal != "" && s.GatewayPrincipal == s.MirrorPrincipal {
		c.at(key+".gatewayPrincipal", "is the mirror's too: the fence would stop the mirror")
	}
}

func (c *checker) sasl(key string, s SASL) {
	secrets := btoi(s.PasswordFile != "") + btoi(s.PasswordEnv != "")
	switch {
	case s.Mechanism == "" && (s.User != "" || secrets > 0):
		c.at(key+".mechanism", "is missing: PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512")
	case s.Mechanism != "" && secrets != 1:
		c.at(key, "needs exactly one of passwordFile and passwordEnv")
	}
	if s.Mechanism != "" && s.User == "" {
		c.at(key+".user", "is missing")
	}
}

var roles = []string{RoleGateway, RoleMirror, RoleControl, RoleConsole, RoleBroker}

func (c *checker) process(cfg *Config, places []string) {
	p := cfg.Process
	c.name("process.id", p.ID)
	for i, r := range p.Roles {
		if !slices.Contains(roles, r) {
			text := fmt.Sprintf("%q is none of %s", r, strings.Join(roles, ", "))
			if near := nearest(r, roles); near != "" {
				text += fmt.Sprintf("; did you mean %s?", near)
			}
			c.at(fmt.Sprintf("process.roles[%d]", i), "%s", text)
		}
	}
	if p.Site == "" {
		return // the command line needs no place; serve asks for one
	}
	at := slices.Index(places, p.Site)
	if at < 0 {
		text := fmt.Sprintf("%q is neither a site nor a witness", p.Site)
		if near := nearest(p.Site, places); near != "" {
			text += fmt.Sprintf("; did you mean %s?", near)
		}
		c.at("process.site", "%s", text)
		return
	}
	if at >= len(cfg.Sites) {
		if _, given := c.lines["process.roles"]; !given {
			return // Roles drops what a witness cannot do
		}
		for i, r := range p.Roles {
			if r == RoleGateway || r == RoleMirror || r == RoleBroker {
				c.at(fmt.Sprintf("process.roles[%d]", i), "%s needs a Kafka cluster, and %s is a witness", r, p.Site)
			}
		}
		return
	}
	if slices.Contains(p.Roles, RoleBroker) && cfg.Sites[at].Embedded == nil {
		c.at("process.roles", "broker is for an embedded site, and %s has a bootstrap address", p.Site)
	}
}

func (c *checker) coordinator(cfg *Config) {
	switch k := cfg.Coordinator; {
	case k.Consul == nil && k.Embedded == nil:
		c.at("coordinator", "is missing: give consul, or embedded for a single host")
	case k.Consul != nil && k.Embedded != nil:
		c.at("coordinator", "consul and embedded do not go together")
	case k.Embedded != nil && k.Embedded.File == "" && k.Embedded.Socket == "":
		c.at("coordinator.embedded", "needs file, socket, or both")
	case k.Consul != nil:
		if k.Consul.TokenFile != "" && k.Consul.TokenEnv != "" {
			c.at("coordinator.consul", "give one of tokenFile and tokenEnv")
		}
	}
}

func (c *checker) gateway(g Gateway) {
	c.address("gateway.listen", g.Listen, false)
	c.address("gateway.advertised", g.Advertised, true)
	if (g.TLS.CertFile == "") != (g.TLS.KeyFile == "") {
		c.at("gateway.tls", "certFile and keyFile go together")
	}
	c.clients(g)
	c.quotas(g)
	if g.Lease.Interval <= 0 || g.Lease.TTL < 2*g.Lease.Interval {
		c.at("gateway.lease.ttl", "%s is too short for renewals every %s; twice that is the least", g.Lease.TTL, g.Lease.Interval)
	}
	for key, n := range map[string]int64{
		"connectionsMax": int64(g.Limits.ConnectionsMax), "connectionsPerAddressMax": int64(g.Limits.ConnectionsPerAddressMax),
		"frameBytesMax": int64(g.Limits.FrameBytesMax),
		"inFlightMax":   int64(g.Limits.InFlightMax), "unansweredBytesMax": g.Limits.UnansweredBytesMax,
	} {
		if n < 1 {
			c.at("gateway.limits."+key, "must be 1 or more")
		}
	}
}

// anonymous is who did not say who it is.
const anonymous = "User:ANONYMOUS"

func (c *checker) quotas(g Gateway) {
	asked := len(g.SASL.Mechanisms) > 0 || g.TLS.ClientCAFile != ""
	for i, q := range g.Quotas {
		key := fmt.Sprintf("gateway.quotas[%d]", i)
		switch {
		case q.Principal != EveryPrincipal && !strings.HasPrefix(q.Principal, "User:"):
			c.at(key+".principal", "%q is not a principal; try %q, or %q for each of them", q.Principal, "User:"+q.Principal, EveryPrincipal)
		case slices.IndexFunc(g.Quotas, func(o Quota) bool { return o.Principal == q.Principal }) < i:
			c.at(key+".principal", "%q is there twice", q.Principal)
		case !asked && q.Principal != EveryPrincipal && q.Principal != anonymous:
			c.at(key+".principal", "%q never comes: without gateway.sasl and gateway.tls.clientCAFile nobody is asked, and all are %s", q.Principal, anonymous)
		}
		wrong := c.faulty(key+".producerByteRate") || c.faulty(key+".consumerByteRate") || c.faulty(key+".requestRate")
		if !wrong && q.ProducerByteRate == 0 && q.ConsumerByteRate == 0 && q.RequestRate == 0 {
			c.at(key, "limits nothing: give producerByteRate, consumerByteRate or requestRate")
		}
	}
}

// sessionLifetimeMin: clients would do little else than to log in.
const sessionLifetimeMin = 10 * time.Second

// clients checks how they say who they are.
func (c *checker) clients(g Gateway) {
	if _, given := c.lines["gateway.tls.clientAuth"]; given && g.TLS.ClientCAFile == "" {
		c.at("gateway.tls.clientAuth", "needs clientCAFile, to know whose certificates are good")
	}
	if g.TLS.ClientCAFile != "" && g.TLS.CertFile == "" {
		c.at("gateway.tls.clientCAFile", "needs certFile and keyFile: without TLS no client shows a certificate")
	}
	s := g.SASL
	if anybody := len(s.Mechanisms) == 0 && g.TLS.ClientAuth == "requested"; anybody && g.TLS.ClientCAFile != "" && !g.TLS.AllowAnonymous {
		c.at("gateway.tls.clientAuth", "requested without gateway.sasl lets anybody in who shows no certificate; if that is meant, allow it with allowAnonymous: true")
	} else if !anybody && g.TLS.AllowAnonymous {
		c.at("gateway.tls.allowAnonymous", "goes with clientAuth: requested and without gateway.sasl; nothing else lets clients in who do not say who they are")
	}
	if len(s.Mechanisms) == 0 { // nobody would be asked, and who wrote it would not notice
		if s.WithoutTLS {
			c.at("gateway.sasl.withoutTLS", "needs mechanisms: nobody is asked to log in")
		}
		if s.SessionLifetime > 0 && g.TLS.ClientCAFile == "" {
			c.at("gateway.sasl.sessionLifetime", "needs mechanisms, or gateway.tls.clientCAFile: nobody is asked who it is")
		}
	}
	for i, m := range s.Mechanisms {
		key := fmt.Sprintf("gateway.sasl.mechanisms[%d]", i)
		switch {
		case slices.Index(s.Mechanisms, m) < i:
			c.at(key, "%q is there twice", m)
		case !slices.Contains(authentication.Mechanisms, m):
			text := fmt.Sprintf("%q is none of %s", m, strings.Join(authentication.Mechanisms, ", "))
			if near := nearest(m, authentication.Mechanisms); near != "" {
				text += fmt.Sprintf("; did you mean %s?", near)
			}
			c.at(key, "%s", text)
		}
	}
	byPassword := slices.ContainsFunc(s.Mechanisms, func(m string) bool { return m != authentication.OAuthBearer })
	switch {
	case !byPassword && s.UsersFile != "":
		c.at("gateway.sasl.usersFile", "needs mechanisms with passwords, for example [SCRAM-SHA-512]")
	case byPassword && s.UsersFile == "":
		c.at("gateway.sasl.mechanisms", "needs usersFile")
	case len(s.Mechanisms) > 0 && g.TLS.CertFile == "" && !s.WithoutTLS:
		c.at("gateway.sasl.mechanisms", "without gateway.tls passwords could be read or guessed on the way; give it a certificate, or allow it with withoutTLS: true")
	}
	c.tokens(s)
	if s.SessionLifetime > 0 && s.SessionLifetime < sessionLifetimeMin {
		c.at("gateway.sasl.sessionLifetime", "%s is too short; %s is the least, 0s is no end", s.SessionLifetime, sessionLifetimeMin)
	}
}

// byACLs is how clients are authorized by what sites say.
const byACLs = "acls"

// authorization checks what clients may do.
func (c *checker) authorization(g Gateway, sites []Site) {
	a := g.Authorization
	if a.Rules != byACLs {
		if len(a.SuperUsers) > 0 {
			c.at("gateway.authorization.superUsers", "needs rules: acls; without it every client may do everything")
		}
		if len(a.NotClients) > 0 {
			c.at("gateway.authorization.notClients", "needs rules: acls; without it no switchover is refused by rights")
		}
		if a.AllowUnlisted {
			c.at("gateway.authorization.allowUnlisted", "needs rules: acls; without it every client may do everything")
		}
		return
	}
	if len(g.SASL.Mechanisms) == 0 && g.TLS.ClientCAFile == "" {
		c.at("gateway.authorization.rules", "acls needs gateway.sasl.mechanisms or gateway.tls.clientCAFile: nobody is asked who it is, so all would be User:ANONYMOUS")
	}
	for _, s := range sites {
		if s.Embedded != nil {
			c.at("gateway.authorization.rules", "acls needs access control lists, which the embedded site %s has not", s.Name)
		}
	}
	for i, name := range a.NotClients {
		if kind, user, _ := strings.Cut(name, ":"); kind != "User" || user == "" || user == "*" || strings.TrimSpace(name) != name {
			c.at(fmt.Sprintf("gateway.authorization.notClients[%d]", i), "%q is no principal of one user; write User:name", name)
		}
	}
	for i, name := range a.SuperUsers {
		key := fmt.Sprintf("gateway.authorization.superUsers[%d]", i)
		switch kind, user, _ := strings.Cut(name, ":"); {
		case kind == "" || user == "" || strings.TrimSpace(name) != name:
			c.at(key, "%q is no principal; write User:name", name)
		case kind != "User":
			c.at(key, "%q is no client: gateways know clients as User:name alone", name)
		case user == "*":
			c.at(key, "%q is nobody: super users are named one by one. If clients may do everything, set rules: none", name)
		case name == "User:ANONYMOUS" && g.TLS.AllowAnonymous:
			c.at(key, "lets everybody do everything who shows no certificate (gateway.tls.allowAnonymous)")
		}
	}
}

// tokens checks what lets a client in by a token.
func (c *checker) tokens(s ClientSASL) {
	t := s.Tokens
	if !slices.Contains(s.Mechanisms, authentication.OAuthBearer) {
		if t.KeysFile != "" || t.KeysURL != "" || t.Issuer != "" || len(t.Audiences) > 0 {
			c.at("gateway.sasl.tokens", "needs OAUTHBEARER among mechanisms")
		}
		return
	}
	if btoi(t.KeysFile != "")+btoi(t.KeysURL != "") != 1 {
		c.at("gateway.sasl.tokens", "needs exactly one of keysFile and keysURL")
	}
	if u, err := url.Parse(t.KeysURL); t.KeysURL != "" && (err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil) {
		c.at("gateway.sasl.tokens.keysURL", "is not an https address without user and password: who can change the keys on the way can let anybody in")
	}
	if t.Issuer == "" {
		c.at("gateway.sasl.tokens.issuer", "is missing: tokens of any issuer would do")
	}
	if len(t.Audiences) == 0 {
		c.at("gateway.sasl.tokens.audiences", "is missing: tokens made for others would do")
	}
}

func (c *checker) address(key, address string, mayBeEmpty bool) {
	if address == "" && mayBeEmpty {
		return
	}
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		c.at(key, "%q is not host:port", address)
		return
	}
	if n, err := strconv.Atoi(port); err != nil || n < 0 || n > 65535 {
		c.at(key, "%q has no port between 0 and 65535", address)
	}
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}
