package kafka

import (
	"context"
	"fmt"
	"slices"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway/broker"
)

// asks sends a request that any broker answers, and again where it may be.
func (a *admin) asks(ctx context.Context, what string, req kmsg.Request, see func(kmsg.Response) error) error {
	err := a.cluster.retry(ctx, func() error {
		answer, err := a.cluster.any(ctx, req, req.MaxVersion())
		if err != nil {
			return err
		}
		return see(answer)
	})
	if err != nil {
		return fmt.Errorf("site %s: %s: %w", a.cluster.config.Site, what, err)
	}
	return nil
}

// refusal is an error code in an answer, with the broker's own text.
func refusal(code int16, text *string) error {
	err := kerr.ErrorForCode(code)
	if err == nil {
		return nil
	}
	if err = sentinel(err); text != nil && *text != "" {
		err = fmt.Errorf("%w: %s", err, *text)
	}
	return err
}

// Quotas implements broker.Admin.
func (a *admin) Quotas(ctx context.Context) (quotas map[broker.QuotaEntity]map[string]float64, err error) {
	req := kmsg.NewPtrDescribeClientQuotasRequest()
	err = a.asks(ctx, "list quotas", req, func(answer kmsg.Response) error {
		resp := answer.(*kmsg.DescribeClientQuotasResponse)
		quotas = make(map[broker.QuotaEntity]map[string]float64, len(resp.Entries))
		for _, e := range resp.Entries {
			parts := make(map[string]*string, len(e.Entity))
			for _, p := range e.Entity {
				parts[p.Type] = p.Name
			}
			values := make(map[string]float64, len(e.Values))
			for _, v := range e.Values {
				values[v.Key] = v.Value
			}
			quotas[broker.NewQuotaEntity(parts)] = values
		}
		return refusal(resp.ErrorCode, resp.ErrorMessage)
	})
	return quotas, err
}

// SetQuota implements broker.Admin.
func (a *admin) SetQuota(ctx context.Context, entity broker.QuotaEntity, values map[string]*float64) error {
	parts, err := entity.Parts()
	if err != nil {
		return err
	}
	e := kmsg.NewAlterClientQuotasRequestEntry()
	for kind, name := range parts {
		p := kmsg.NewAlterClientQuotasRequestEntryEntity()
		p.Type, p.Name = kind, name
		e.Entity = append(e.Entity, p)
	}
	for key, value := range values {
		o := kmsg.NewAlterClientQuotasRequestEntryOp()
		o.Key, o.Remove = key, value == nil
		if value != nil {
			o.Value = *value
		}
		e.Ops = append(e.Ops, o)
	}
	req := kmsg.NewPtrAlterClientQuotasRequest()
	req.Entries = []kmsg.AlterClientQuotasRequestEntry{e}
	return a.asks(ctx, "change the quota of "+string(entity), req, func(answer kmsg.Response) error {
		for _, r := range answer.(*kmsg.AlterClientQuotasResponse).Entries {
			if err := refusal(r.ErrorCode, r.ErrorMessage); err != nil {
				return err
			}
		}
		return nil
	})
}

// ScramUsers implements broker.Admin.
func (a *admin) ScramUsers(ctx context.Context) (users map[string][]string, err error) {
	req := kmsg.NewPtrDescribeUserSCRAMCredentialsRequest()
	err = a.asks(ctx, "list SCRAM users", req, func(answer kmsg.Response) error {
		resp := answer.(*kmsg.DescribeUserSCRAMCredentialsResponse)
		users = make(map[string][]string, len(resp.Results))
		for _, r := range resp.Results {
			if r.ErrorCode != 0 {
				return refusal(r.ErrorCode, r.ErrorMessage)
			}
			mechanisms := []string{}
			for _, c := range r.CredentialInfos {
				mechanisms = append(mechanisms, scramMechanisms[c.Mechanism])
			}
			slices.Sort(mechanisms)
			users[r.User] = mechanisms
		}
		return refusal(resp.ErrorCode, resp.ErrorMessage)
	})
	return users, err
}

var scramMechanisms = map[int8]string{1: "SCRAM-SHA-256", 2: "SCRAM-SHA-512"}
