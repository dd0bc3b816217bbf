package router

import (
	"context"
	"maps"
	"slices"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway/broker"
	"spillway/federation/session"
)

// AlterConfigs (33). v2 flexible. Clients of 4.0 and later have IncrementalAlterConfigs.
//
// It says all settings that a topic shall have. Those that are not named are reset, but
// for what is each site's own: clients do not know of it, and would take it away. Two
// clients at once overwrite each other, as at a broker.
var alterConfigsAPI = api{
	key: 33, min: 0, max: 2, needs: 0, begin: (*Client).beginAlterConfigs,
	level: TopicAdministration, treatment: answeredHere, about: "As IncrementalAlterConfigs; what is not named is reset, but for what is a site's own.",
}

func (c *Client) beginAlterConfigs(_ context.Context, sreq session.Request) (session.Answer, error) {
	req := kmsg.NewPtrAlterConfigsRequest()
	if err := decode(sreq, req); err != nil {
		return nil, err
	}
	who := c.who(sreq)
	return func(ctx context.Context) ([]byte, error) {
		return c.alterConfigs(ctx, req, who).AppendTo(nil), nil
	}, nil
}

func (c *Client) alterConfigs(ctx context.Context, req *kmsg.AlterConfigsRequest, who string) *kmsg.AlterConfigsResponse {
	resp := req.ResponseKind().(*kmsg.AlterConfigsResponse)
	of := make([]resource, len(req.Resources))
	for i, asked := range req.Resources {
		of[i] = resource{asked.ResourceType, asked.ResourceName}
	}
	answers := c.alterEach(ctx, of, func(ctx context.Context, i int) error {
		return c.router.replaceSettings(ctx, req.Resources[i], req.ValidateOnly, who)
	})
	for i, answer := range answers {
		out := kmsg.NewAlterConfigsResponseResource()
		out.ResourceType, out.ResourceName, out.ErrorCode, out.ErrorMessage = of[i].kind, of[i].name, answer.code, answer.message
		resp.Resources = append(resp.Resources, out)
	}
	return resp
}

func (r *Router) replaceSettings(ctx context.Context, asked kmsg.AlterConfigsRequestResource, checkOnly bool, who string) error {
	topic := asked.ResourceName
	_, site, err := r.siteOfTopic(ctx, topic)
	if err != nil {
		return err
	}
	all, err := r.sites[site].Admin().TopicSettings(ctx, []string{topic})
	if err != nil {
		return err
	}
	set, exists := all[topic]
	if !exists {
		return refuse(kerr.UnknownTopicOrPartition, "there is no topic %s", topic)
	}
	var changes []broker.SettingChange
	kept := make(map[string]bool)
	for _, s := range asked.Configs {
		changes = append(changes, broker.SettingChange{Key: s.Name, Value: s.Value})
		kept[s.Name] = true
	}
	for _, key := range slices.Sorted(maps.Keys(set)) {
		if !kept[key] && !sitesOwn(key) {
			changes = append(changes, broker.SettingChange{Key: key, Op: broker.ResetSetting})
		}
	}
	return r.alterTopic(ctx, topic, changes, checkOnly, who)
}

// sitesOwn tells which settings of a topic each site has for itself.
func sitesOwn(key string) bool {
	return key == unclean || key == "min.insync.replicas" || notHere(key, "") != ""
}
