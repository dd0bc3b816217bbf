package federation_test

import (
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway/federation"
	"spillway/federation/gatewaytest"
)

// Tools read the settings of topics, of those that are served. What is a site's own they
// are told to ask there.
func TestSettingsOfTopics(t *testing.T) {
	t.Parallel()
	w := gatewaytest.Start(t, gatewaytest.Options{Topics: map[string]int32{"orders": 1, "carts": 1}})
	c := raw(t, w.Addrs[0])
	req := kmsg.NewPtrDescribeConfigsRequest()
	req.Version = 4
	req.Resources = append(req.Resources, []kmsg.DescribeConfigsRequestResource{
		{ResourceType: kmsg.ConfigResourceTypeTopic, ResourceName: "orders"},
		{ResourceType: kmsg.ConfigResourceTypeBroker, ResourceName: "0"},
		{ResourceType: kmsg.ConfigResourceTypeTopic, ResourceName: "__consumer_offsets"},
		{ResourceType: kmsg.ConfigResourceTypeTopic, ResourceName: "carts", ConfigNames: []string{"cleanup.policy"}},
		{ResourceType: kmsg.ConfigResourceTypeTopic, ResourceName: "nobody"},
	}...)
	got := do[*kmsg.DescribeConfigsResponse](t, c, req).Resources
	if len(got) != len(req.Resources) {
		t.Fatalf("%+v", got)
	}
	for i, want := range []int16{0, kerr.InvalidRequest.Code, kerr.UnknownTopicOrPartition.Code, 0, kerr.UnknownTopicOrPartition.Code} {
		if got[i].ErrorCode != want || got[i].ResourceName != req.Resources[i].ResourceName || got[i].ResourceType != req.Resources[i].ResourceType {
			t.Errorf("%s: %+v, want error %d", req.Resources[i].ResourceName, got[i], want)
		}
		if (want == 0) != (len(got[i].Configs) > 0) {
			t.Errorf("%s: %d settings", req.Resources[i].ResourceName, len(got[i].Configs))
		}
	}
	if got[3].Configs[0].Name != "cleanup.policy" || len(got[3].Configs) != 1 {
		t.Errorf("%+v", got[3].Configs)
	}
	if got[1].ErrorMessage == nil || !strings.Contains(*got[1].ErrorMessage, "BROKER") {
		t.Errorf("%v", got[1].ErrorMessage)
	}
}

// Settings are in the budget of the process. One topic is always described.
func TestSettingsAreInTheBudget(t *testing.T) {
	t.Parallel()
	w := gatewaytest.Start(t, gatewaytest.Options{Topics: map[string]int32{"orders": 1, "carts": 1}, Gateway: func(c *federation.Config) { c.BudgetBytesMax = 100_000 }})
	req := kmsg.NewPtrDescribeConfigsRequest()
	req.Version = 4
	req.Resources = []kmsg.DescribeConfigsRequestResource{
		{ResourceType: kmsg.ConfigResourceTypeTopic, ResourceName: "orders"},
		{ResourceType: kmsg.ConfigResourceTypeTopic, ResourceName: "carts"},
	}
	got := do[*kmsg.DescribeConfigsResponse](t, raw(t, w.Addrs[0]), req).Resources
	if got[0].ErrorCode != 0 || len(got[0].Configs) == 0 || got[1].ErrorCode != kerr.PolicyViolation.Code || len(got[1].Configs) > 0 {
		t.Errorf("%+v", got)
	}
}
