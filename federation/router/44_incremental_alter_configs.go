package router

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway"
	"spillway/broker"
	"spillway/federation/authorization"
	"spillway/federation/session"
)

// IncrementalAlterConfigs (44). v1 flexible.
//
// Settings of topics are changed at the site that serves the failover group, and its
// mirrors carry them to the others (docs/decisions/0014). Left out: settings that are a
// site's own (notHere), and those of brokers, groups and client metrics.
var incrementalAlterConfigsAPI = api{
	key: 44, min: 0, max: 1, needs: 0, begin: (*Client).beginIncrementalAlterConfigs,
	level: TopicAdministration, treatment: answeredHere, about: "With gateway.administration. Settings of topics, changed at the site that serves; mirrors carry them to the others. Those that are a site's own, and of brokers and groups, are refused. See operate/topics.md.",
}

func (c *Client) beginIncrementalAlterConfigs(_ context.Context, sreq session.Request) (session.Answer, error) {
	req := kmsg.NewPtrIncrementalAlterConfigsRequest()
	if err := decode(sreq, req); err != nil {
		return nil, err
	}
	who := c.who(sreq)
	return func(ctx context.Context) ([]byte, error) {
		return c.incrementalAlterConfigs(ctx, req, who).AppendTo(nil), nil
	}, nil
}

func (c *Client) incrementalAlterConfigs(ctx context.Context, req *kmsg.IncrementalAlterConfigsRequest, who string) *kmsg.IncrementalAlterConfigsResponse {
	resp := req.ResponseKind().(*kmsg.IncrementalAlterConfigsResponse)
	of := make([]resource, len(req.Resources))
	for i, asked := range req.Resources {
		of[i] = resource{asked.ResourceType, asked.ResourceName}
	}
	answers := c.alterEach(ctx, of, func(ctx context.Context, i int) error {
		settings := req.Resources[i].Configs
		changes := make([]broker.SettingChange, len(settings))
		for j, s := range settings {
			changes[j] = broker.SettingChange{Key: s.Name, Op: broker.SettingOp(s.Op), Value: s.Value}
		}
		return c.router.alterTopic(ctx, of[i].name, changes, req.ValidateOnly, who)
	})
	for i, answer := range answers {
		out := kmsg.NewIncrementalAlterConfigsResponseResource()
		out.ResourceType, out.ResourceName, out.ErrorCode, out.ErrorMessage = of[i].kind, of[i].name, answer.code, answer.message
		resp.Resources = append(resp.Resources, out)
	}
	return resp
}

// resource is what a request wants to have other settings.
type resource struct {
	kind kmsg.ConfigResourceType
	name string
}

// altered is what the client is told of one.
type altered struct {
	code    int16
	message *string
}

// alterEach changes each resource of a request that the client may change, some at the same
// time, within the time that clients wait.
func (c *Client) alterEach(ctx context.Context, of []resource, change func(ctx context.Context, i int) error) []altered {
	ctx, cancel := context.WithTimeout(ctx, changeMax)
	defer cancel()
	named := make(map[string]int)
	for _, one := range of {
		named[one.name]++
	}
	answers := make([]altered, len(of))
	atOnce(len(of), func(i int) {
		err := refuseResource(of[i].kind, of[i].name, named[of[i].name])
		if err == nil {
			err = c.mayAlterConfigs(of[i].name)
		}
		if err == nil {
			err = change(ctx, i)
		}
		if err != nil {
			c.router.events.refused("alter-configs")
		}
		answers[i].code, answers[i].message = c.router.answerTo(err)
	})
	return answers
}

// refuseResource refuses what is no topic, or is named more than once.
func refuseResource(kind kmsg.ConfigResourceType, name string, times int) error {
	switch {
	case kind != kmsg.ConfigResourceTypeTopic:
		return refuse(kerr.InvalidRequest, "settings of a %s are a site's own; change them there", kind)
	case times > 1:
		return refuse(kerr.InvalidRequest, "%s is named twice in the request", short(name))
	}
	return nil
}

// mayAlterConfigs tells whether the client may change settings of a topic.
func (c *Client) mayAlterConfigs(topic string) error {
	share, _ := c.router.ShareOf(spillway.TopicPartition{Topic: topic})
	switch c.may(authorization.AlterConfigs, authorization.Topic, topic, share) {
	case authorization.Denied:
		return refuse(kerr.TopicAuthorizationFailed, "%s", kerr.TopicAuthorizationFailed.Description)
	case authorization.Unknown:
		return errUnread
	}
	return nil
}

// becomesCompacted tells why changes must not make a topic compacted; nil if they do not, or
// it is so already.
func (r *Router) becomesCompacted(ctx context.Context, cluster broker.Cluster, group spillway.FailoverGroup, site spillway.SiteID, topic string, changes []broker.SettingChange) error {
	for _, c := range changes {
		if c.Value == nil || c.Op == broker.SubtractSetting || !compacts(c.Key, *c.Value) {
			continue
		}
		now, err := cluster.Admin().TopicSettings(ctx, []string{topic})
		if err != nil {
			return err
		}
		if compacts(c.Key, now[topic][c.Key]) {
			continue // it is so already
		}
		if err := r.refuseCompacted(group, site, topic); err != nil {
			return err
		}
	}
	return nil
}

// alterTopic changes settings of one topic.
func (r *Router) alterTopic(ctx context.Context, topic string, changes []broker.SettingChange, checkOnly bool, who string) error {
	group, site, err := r.siteOfTopic(ctx, topic)
	if err != nil {
		return err
	}
	if err := alterable(topic, changes); err != nil {
		return err
	}
	cluster := r.sites[site]
	if err := r.becomesCompacted(ctx, cluster, group, site, topic, changes); err != nil {
		return err
	}
	if err := r.stillInSync(ctx, cluster, topic, changes); err != nil {
		return err
	}
	if err := cluster.Admin().AlterTopic(ctx, topic, changes, true); err != nil || checkOnly {
		return err
	}
	all, err := cluster.Admin().TopicSettings(ctx, []string{topic})
	if err != nil {
		return err
	}
	if set, there := all[topic]; there && !changesAnything(set, changes) {
		return nil
	}
	if err := r.paced(ctx); err != nil {
		return err
	}
	serves, epoch, err := r.config.Changes.Serves(ctx, group)
	switch {
	case err != nil:
		return err
	case serves != site:
		return refuse(kerr.NotController, "failover group %s has moved to site %s; try again", group.Name, serves)
	}
	// Told before it is done: that something was changed and nobody knows by whom is worse
	// than an entry of what was tried.
	if err := r.config.Changes.Audit(ctx, who, fmt.Sprintf("settings of topic %s at site %s: %s", topic, site, said(changes)), ""); err != nil {
		return err
	}
	if err := cluster.Admin().AlterTopic(ctx, topic, changes, false); err != nil {
		return err
	}
	// Where the group has moved meanwhile its new site may have nothing of it.
	now, later, err := r.config.Changes.Serves(ctx, group)
	if err != nil || now != site || later != epoch {
		return refuse(kerr.NotController, "settings of topic %s were changed at site %s while failover group %s moved away from there, or nobody can say whether it did; ask again", topic, site, group.Name)
	}
	return nil
}

// changesAnything tells whether a topic with what is set would be another after changes.
func changesAnything(set map[string]string, changes []broker.SettingChange) bool {
	for _, c := range changes {
		value, is := set[c.Key]
		switch c.Op {
		case broker.SetSetting:
			if !is || value != *c.Value {
				return true
			}
		case broker.ResetSetting:
			if is {
				return true
			}
		default: // of a list, with what the site may have by default
			there := strings.Split(value, ",")
			for word := range strings.SplitSeq(*c.Value, ",") {
				if !is || slices.Contains(there, word) != (c.Op == broker.AppendSetting) {
					return true
				}
			}
		}
	}
	return false
}

// siteOfTopic is the site that serves the failover group of a topic, once it stands still.
func (r *Router) siteOfTopic(ctx context.Context, topic string) (spillway.FailoverGroup, spillway.SiteID, error) {
	group, refusal := r.topicGroup(topic)
	if refusal != nil && refusal.code == kerr.InvalidTopicException {
		return group, "", refusal
	}
	if refusal != nil {
		return group, "", refuse(kerr.UnknownTopicOrPartition, "%s", refusal.message)
	}
	site, refusal := r.awaitStill(ctx, group)
	if refusal != nil {
		return group, "", refusal
	}
	if r.sites[site] == nil {
		return group, "", refuse(kerr.UnknownServerError, "site %s is not configured at this gateway", site)
	}
	return group, site, nil
}

// alterable refuses what cannot be changed through a gateway.
func alterable(topic string, changes []broker.SettingChange) error {
	if len(changes) > settingsMax {
		return refuse(kerr.PolicyViolation, "topic %s: %d settings, at most %d are possible", topic, len(changes), settingsMax)
	}
	bytes := 0
	for _, c := range changes {
		value := ""
		if c.Value != nil && (c.Op != broker.SubtractSetting || c.Key != "cleanup.policy") {
			value = *c.Value // taken away it may be anything
		}
		switch {
		case c.Op < broker.SetSetting || c.Op > broker.SubtractSetting:
			return refuse(kerr.InvalidRequest, "topic %s: operation %d on setting %s is not known", topic, c.Op, short(c.Key))
		case c.Value == nil && c.Op != broker.ResetSetting:
			return refuse(kerr.InvalidConfig, "topic %s: setting %s has no value", topic, short(c.Key))
		case c.Op == broker.ResetSetting && c.Key == unclean:
			value = "false" // of a mirror's topics that is what it is then, too
		}
		if why := notHere(c.Key, value); why != "" {
			return refuse(kerr.InvalidConfig, "topic %s: %s cannot be changed through the gateway: %s", topic, short(c.Key), why)
		}
		bytes += len(c.Key) + len(value)
	}
	if bytes > newSettingsBytes {
		return refuse(kerr.PolicyViolation, "topic %s: %d bytes of settings, at most %d are possible", topic, bytes, newSettingsBytes)
	}
	return nil
}

// stillInSync refuses more in-sync replicas than the topic has where it is served.
func (r *Router) stillInSync(ctx context.Context, cluster broker.Cluster, topic string, changes []broker.SettingChange) error {
	for _, c := range changes {
		if c.Key != "min.insync.replicas" || c.Op != broker.SetSetting {
			continue
		}
		least, err := strconv.Atoi(*c.Value)
		if err != nil {
			return refuse(kerr.InvalidConfig, "min.insync.replicas=%s is no number", short(*c.Value))
		}
		md, err := cluster.Metadata(ctx, topic)
		if err != nil {
			return err
		}
		for _, p := range md.Topics[topic].Partitions {
			if least > len(p.Replicas) {
				return refuse(kerr.InvalidConfig, "min.insync.replicas=%d with %d replicas at site %s: nobody could write to partition %d", least, len(p.Replicas), cluster.Site(), p.Partition)
			}
		}
	}
	return nil
}

// said is what was asked for in the audit log.
func said(changes []broker.SettingChange) string {
	words := make([]string, len(changes))
	for i, c := range changes {
		sign := map[broker.SettingOp]string{broker.SetSetting: "=", broker.AppendSetting: "+=", broker.SubtractSetting: "-="}[c.Op]
		if words[i] = short(c.Key) + " reset"; c.Value != nil && sign != "" {
			words[i] = strings.Trim(short(c.Key), `"`) + sign + strings.Trim(short(*c.Value), `"`)
		}
	}
	return strings.Join(words, ", ")
}
