package kafka

import (
	"context"
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway/broker"
)

// ACLs are raw requests: sarama drops the errors inside CreateAcls' answer,
// and a fence that silently was not built is none.

// DenyWrite implements broker.Admin.
func (a *admin) DenyWrite(ctx context.Context, principal string, topics []string) error {
	req := kmsg.NewPtrCreateACLsRequest()
	for _, topic := range topics {
		c := kmsg.NewCreateACLsRequestCreation()
		c.ResourceType, c.ResourceName, c.ResourcePatternType = kmsg.ACLResourceTypeTopic, topic, kmsg.ACLResourcePatternTypeLiteral
		c.Principal, c.Host = principal, "*"
		c.Operation, c.PermissionType = kmsg.ACLOperationWrite, kmsg.ACLPermissionTypeDeny
		req.Creations = append(req.Creations, c)
	}
	return a.acls(ctx, "deny write to "+principal, req, len(topics), func(answer kmsg.Response) (codes []int16) {
		for _, r := range answer.(*kmsg.CreateACLsResponse).Results {
			codes = append(codes, r.ErrorCode)
		}
		return codes
	})
}

// AllowWrite implements broker.Admin.
func (a *admin) AllowWrite(ctx context.Context, principal string, topics []string) error {
	req := kmsg.NewPtrDeleteACLsRequest()
	host := "*"
	for _, topic := range topics {
		f := kmsg.NewDeleteACLsRequestFilter()
		f.ResourceType, f.ResourceName, f.ResourcePatternType = kmsg.ACLResourceTypeTopic, &topic, kmsg.ACLResourcePatternTypeLiteral
		f.Principal, f.Host = &principal, &host
		f.Operation, f.PermissionType = kmsg.ACLOperationWrite, kmsg.ACLPermissionTypeDeny
		req.Filters = append(req.Filters, f)
	}
	return a.acls(ctx, "allow write to "+principal, req, len(topics), func(answer kmsg.Response) (codes []int16) {
		for _, r := range answer.(*kmsg.DeleteACLsResponse).Results {
			codes = append(codes, r.ErrorCode)
			for _, m := range r.MatchingACLs {
				if m.ErrorCode != 0 {
					codes[len(codes)-1] = m.ErrorCode
				}
			}
		}
		return codes
	})
}

func (a *admin) acls(ctx context.Context, what string, req kmsg.Request, want int, codesOf func(kmsg.Response) []int16) error {
	c := a.cluster
	if !c.Capabilities().ACLs {
		// Some servers accept ACLs and enforce none.
		return fmt.Errorf("site %s: %s: %w: the cluster has no authorizer", c.config.Site, what, broker.ErrNotSupported)
	}
	err := c.retry(ctx, func() error {
		answer, err := c.any(ctx, req, req.MaxVersion())
		if err != nil {
			return err
		}
		codes := codesOf(answer)
		if len(codes) != want {
			return fmt.Errorf("%d results for %d topics", len(codes), want)
		}
		var faults []error
		for _, code := range codes {
			if err := kerr.ErrorForCode(code); errors.Is(err, kerr.SecurityDisabled) {
				return fmt.Errorf("%w: the cluster has no authorizer: %w", broker.ErrNotSupported, err)
			} else if err != nil {
				faults = append(faults, sentinel(err))
			}
		}
		return errors.Join(faults...)
	})
	if err != nil {
		return fmt.Errorf("site %s: %s: %w", c.config.Site, what, err)
	}
	return nil
}
