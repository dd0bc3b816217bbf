package router

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway"
	"spillway/broker"
	"spillway/federation/authorization"
	"spillway/federation/session"
)

// DescribeConfigs (32). v1 synonyms; v3 documentation and types; v4 flexible.
//
// Settings of topics, as the site has them that serves the share. Left out:
// settings that name brokers of the site, and those of brokers, groups and client
// metrics, which are a site's own. A topic that is named twice is described once.
var describeConfigsAPI = api{
	key: 32, min: 1, max: 4, needs: 1, begin: (*Client).beginDescribeConfigs,
	treatment: forwarded, about: "Settings of topics, read alone, as the site has them. Those of brokers and groups are refused, and what does not fit into 64 MiB (about 5,000 topics).",
}

// Bounds for one request. A few bytes of a name lead to many of settings: about 3 KiB,
// and 20 KiB with synonyms and documentation.
const (
	// describedTogether bounds the topics that a site is asked for at once.
	describedTogether = 50
	// topicSettingsBytes is what those of one topic may take while they are decoded.
	topicSettingsBytes = 64 << 10
	// settingsBytesMax bounds the answer: decoded, and written once more. It is room for
	// the settings of about 5,000 topics without documentation.
	settingsBytesMax = 64 << 20
	// describeSiteMax bounds the wait for a site to answer for some topics,
	// describeTryMax that for one broker, describeAllMax that for everything. Clients
	// wait for 30 s (request.timeout.ms).
	describeSiteMax = 5 * time.Second
	describeTryMax  = 2 * time.Second
	describeAllMax  = 25 * time.Second
	// describePause is between two tries.
	describePause = 200 * time.Millisecond
)

// ofBrokers are the settings of a topic that name brokers (KIP-73).
var ofBrokers = []string{"leader.replication.throttled.replicas", "follower.replication.throttled.replicas"}

func (c *Client) beginDescribeConfigs(_ context.Context, sreq session.Request) (session.Answer, error) {
	req := kmsg.NewPtrDescribeConfigsRequest()
	if err := decode(sreq, req); err != nil {
		return nil, err
	}
	return func(ctx context.Context) ([]byte, error) {
		s := settings{client: c, sreq: sreq, req: req, resp: req.ResponseKind().(*kmsg.DescribeConfigsResponse)}
		s.describe(ctx)
		return s.resp.AppendTo(nil), nil
	}, nil
}

// settings is the answer to one request.
type settings struct {
	client *Client
	sreq   session.Request
	req    *kmsg.DescribeConfigsRequest
	resp   *kmsg.DescribeConfigsResponse // one resource for each of the request, in its order
	held   int64                         // bytes that it takes so far
}

// describe asks each site for its topics, some at a time, as far as there is memory.
func (s *settings) describe(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, describeAllMax)
	defer cancel()
	for site, indices := range s.bySite() {
		for len(indices) > 0 {
			n := min(len(indices), s.room())
			if n == 0 {
				s.refuse(indices, kerr.PolicyViolation, "settings of so many topics do not fit into the memory of the gateway; ask for fewer at once")
				s.client.router.events.refused("settings-memory")
				break
			}
			if err := s.describeAt(ctx, site, indices[:n]); err != nil {
				// Java's Admin hands this to its caller and does not ask again.
				s.refuse(indices, kerr.LeaderNotAvailable, fmt.Sprintf("settings of topics: no broker of site %s answered in time; ask again, and see spillway status", site))
				s.client.router.events.refused("settings-site")
				break
			}
			indices = indices[n:]
		}
	}
}

// room is for how many topics a site may be asked next. The first one of a request
// always is: tools have their say also where the budget is used up.
func (s *settings) room() int {
	want := min(s.held+describedTogether*topicSettingsBytes, settingsBytesMax)
	n := int((s.sreq.Reserve(want) - s.held) / topicSettingsBytes)
	if n < 1 {
		s.sreq.Hold(s.held)
	}
	if s.held == 0 {
		return max(n, 1)
	}
	return max(n, 0)
}

// bySite sorts the topics that are served by their site, and answers for the rest.
func (s *settings) bySite() map[spillway.SiteID][]int {
	s.resp.Resources = make([]kmsg.DescribeConfigsResponseResource, len(s.req.Resources))
	sites, seen := make(map[spillway.SiteID][]int), make(map[string]bool)
	for i, asked := range s.req.Resources {
		out := &s.resp.Resources[i]
		*out = kmsg.NewDescribeConfigsResponseResource()
		out.ResourceType, out.ResourceName = asked.ResourceType, asked.ResourceName
		share, ok := s.client.router.ShareOf(spillway.TopicPartition{Topic: asked.ResourceName})
		topic := asked.ResourceType == kmsg.ConfigResourceTypeTopic
		verdict := authorization.Allowed
		if topic {
			verdict = s.client.may(authorization.DescribeConfigs, authorization.Topic, asked.ResourceName, share)
		}
		switch {
		case verdict == authorization.Denied:
			s.refuse([]int{i}, kerr.TopicAuthorizationFailed, kerr.TopicAuthorizationFailed.Description)
		case verdict == authorization.Unknown:
			s.refuse([]int{i}, kerr.LeaderNotAvailable, "what clients may do is not known yet; ask again")
		case !topic:
			s.refuse([]int{i}, kerr.InvalidRequest, fmt.Sprintf("settings of a %s are a site's own; ask there", asked.ResourceType))
		case !ok:
			out.ErrorCode = kerr.UnknownTopicOrPartition.Code
		case seen[asked.ResourceName]: // or a small request would make a huge answer
			s.refuse([]int{i}, kerr.InvalidRequest, "the topic is named twice; the first time has its settings")
		default:
			seen[asked.ResourceName] = true
			sites[home(share)] = append(sites[home(share)], i)
		}
	}
	return sites
}

func (s *settings) refuse(indices []int, code *kerr.Error, message string) {
	for _, i := range indices {
		s.resp.Resources[i].ErrorCode, s.resp.Resources[i].ErrorMessage = code.Code, &message
	}
}

// describeAt fills in what one site knows, of any of its brokers that answers.
func (s *settings) describeAt(ctx context.Context, site spillway.SiteID, indices []int) error {
	ctx, cancel := context.WithTimeout(ctx, describeSiteMax)
	defer cancel()
	if s.client.router.sites[site] == nil {
		return fmt.Errorf("site %s is not configured at this gateway", site)
	}
	for {
		err := s.ask(ctx, site, indices)
		if err == nil {
			return nil
		}
		s.client.router.refresh(site)
		select {
		case <-time.After(describePause):
		case <-ctx.Done():
			return err
		}
	}
}

// ask has one broker answer.
func (s *settings) ask(ctx context.Context, site spillway.SiteID, indices []int) error {
	c := s.client
	ctx, cancel := context.WithTimeout(ctx, describeTryMax)
	defer cancel()
	lane, err := c.lanes.Lane(ctx, OtherLane, site, broker.AnyNode)
	if err != nil {
		return err
	}
	up := kmsg.NewPtrDescribeConfigsRequest()
	up.Version = min(s.req.Version, lane.conn.MaxVersion(up.Key()))
	up.IncludeSynonyms, up.IncludeDocumentation = s.req.IncludeSynonyms, s.req.IncludeDocumentation
	for _, i := range indices {
		asked := kmsg.NewDescribeConfigsRequestResource()
		asked.ResourceType, asked.ResourceName, asked.ConfigNames = s.req.Resources[i].ResourceType, s.req.Resources[i].ResourceName, s.req.Resources[i].ConfigNames
		up.Resources = append(up.Resources, asked)
	}
	got, err := c.lanes.ask(ctx, lane, up)
	if err != nil {
		return err
	}
	s.fill(indices, got.(*kmsg.DescribeConfigsResponse).Resources)
	return nil
}

// fill takes over what a site has answered, and counts it.
func (s *settings) fill(indices []int, answered []kmsg.DescribeConfigsResponseResource) {
	found := make(map[string]kmsg.DescribeConfigsResponseResource)
	for _, r := range answered {
		r.Configs = slices.DeleteFunc(r.Configs, func(c kmsg.DescribeConfigsResponseResourceConfig) bool { return slices.Contains(ofBrokers, c.Name) })
		found[r.ResourceName] = r
	}
	for _, i := range indices {
		r, ok := found[s.req.Resources[i].ResourceName]
		if !ok {
			s.refuse([]int{i}, kerr.LeaderNotAvailable, "the site has not answered for this topic; ask again")
			continue
		}
		r.ResourceType = s.req.Resources[i].ResourceType
		s.resp.Resources[i] = r
		s.held += settingsBytes(r)
	}
	s.sreq.Hold(s.held)
}

// settingsBytes is what the settings of one topic take, decoded and written once more.
func settingsBytes(r kmsg.DescribeConfigsResponseResource) (n int64) {
	const settingBytes, synonymBytes = 128, 64 // of their structs
	for _, c := range r.Configs {
		n += settingBytes + 2*int64(len(c.Name)+length(c.Value)+length(c.Documentation))
		for _, syn := range c.ConfigSynonyms {
			n += synonymBytes + 2*int64(len(syn.Name)+length(syn.Value))
		}
	}
	return n
}

func length(s *string) int {
	if s == nil {
		return 0
	}
	return len(*s)
}
