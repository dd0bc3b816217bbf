package router

import (
	"cmp"
	"context"
	"slices"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway/federation/session"
)

// ApiVersions (18). v3 flexible, client software; v4 the same with another
// meaning of absent features; v5 expected cluster and node (KIP-1242). The
// answer's header never has tags (KIP-511).
//
// The list is the gateway's own, less what a site does not offer. Features
// (transaction.version, group.version) are left out: nothing of what is served
// depends on them.
var apiVersionsAPI = api{
	key: 18, min: 0, max: 5, needs: -1, begin: (*Client).beginAPIVersions,
	treatment: answeredHere, about: "This list, less what a site does not offer.",
}

// produceMinOffered is shown as the lowest version of Produce, though the
// lowest served is higher: old librdkafka takes a higher one for a broker
// without compression (KAFKA-18659), as Kafka 4 does.
const produceMinOffered = 0

// handshakeMinOffered is shown as the lowest version of SaslHandshake, though version 1
// is the lowest served: librdkafka (2.0 at least) logs in nowhere where a higher one is
// shown, and then uses version 1.
const handshakeMinOffered = 0

func (c *Client) beginAPIVersions(_ context.Context, sreq session.Request) (session.Answer, error) {
	req := kmsg.NewPtrApiVersionsRequest()
	req.NodeID = -1 // stays for versions without the field
	if err := decode(sreq, req); err != nil {
		return nil, err
	}
	c.repeats.Store(slices.Contains(repeatsProve, req.ClientSoftwareName))
	c.manners.Store(mannersOf(req.ClientSoftwareName, req.ClientSoftwareVersion, sreq.ClientID))
	c.counts.Store(takesEveryOffset(req.ClientSoftwareName, req.ClientSoftwareVersion))
	resp := req.ResponseKind().(*kmsg.ApiVersionsResponse)
	if code := c.router.expected(req); code != 0 {
		resp.ErrorCode = code
		return reply(resp), nil
	}
	return func(ctx context.Context) ([]byte, error) {
		c.router.offer.learn(ctx)
		resp.ApiKeys = c.router.offer.list()
		return resp.AppendTo([]byte{}), nil
	}, nil
}

// expected checks whom the client thinks that it talks to (KIP-1242).
func (r *Router) expected(req *kmsg.ApiVersionsRequest) int16 {
	if req.Version < 5 || req.ClusterID == nil && req.NodeID == -1 {
		return 0
	}
	if req.ClusterID == nil || req.NodeID == -1 {
		return kerr.InvalidRequest.Code
	}
	l := r.layout.Current()
	if n, ok := l.Node(req.NodeID); *req.ClusterID != r.topology.ClusterID() || len(l.Nodes) > 0 && (!ok || n.Gateway != r.config.Gateway) {
		return kerr.RebootstrapRequired.Code
	}
	return 0
}

// versionMismatch answers a version that is not served: in version 0, with the
// range that is, so that the client comes back with one of them (KIP-511).
func (c *Client) versionMismatch() session.Answer {
	resp := kmsg.NewPtrApiVersionsResponse()
	resp.Version, resp.ErrorCode = 0, kerr.UnsupportedVersion.Code
	k := kmsg.NewApiVersionsResponseApiKey()
	k.ApiKey, k.MinVersion, k.MaxVersion = apiVersionsAPI.key, apiVersionsAPI.min, apiVersionsAPI.max
	resp.ApiKeys = append(resp.ApiKeys, k)
	return reply(resp)
}

func (o *offer) list() []kmsg.ApiVersionsResponseApiKey {
	var keys []kmsg.ApiVersionsResponseApiKey
	for _, a := range apis {
		if !o.offered(a) {
			continue
		}
		k := kmsg.NewApiVersionsResponseApiKey()
		k.ApiKey, k.MinVersion, k.MaxVersion = a.key, a.min, a.max
		switch a.key {
		case produceAPI.key:
			k.MinVersion = produceMinOffered
		case saslHandshakeAPI.key:
			k.MinVersion = handshakeMinOffered
		}
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b kmsg.ApiVersionsResponseApiKey) int { return cmp.Compare(a.ApiKey, b.ApiKey) })
	return keys
}
