package kafka

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway"
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
	return a.acls(ctx, "deny write to "+principal, req, len(topics), created)
}

func created(answer kmsg.Response) (codes []int16) {
	for _, r := range answer.(*kmsg.CreateACLsResponse).Results {
		codes = append(codes, r.ErrorCode)
	}
	return codes
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
	return a.acls(ctx, "allow write to "+principal, req, len(topics), deleted)
}

func deleted(answer kmsg.Response) (codes []int16) {
	for _, r := range answer.(*kmsg.DeleteACLsResponse).Results {
		codes = append(codes, r.ErrorCode)
		for _, m := range r.MatchingACLs {
			if m.ErrorCode != 0 {
				codes[len(codes)-1] = m.ErrorCode
			}
		}
	}
	return codes
}

// ACLs implements broker.Admin.
func (a *admin) ACLs(ctx context.Context) ([]spillway.ACL, error) {
	return a.listACLs(ctx, kmsg.ACLResourceTypeTopic, kmsg.ACLResourceTypeGroup)
}

// AllACLs implements broker.Admin.
func (a *admin) AllACLs(ctx context.Context) ([]spillway.ACL, error) {
	return a.listACLs(ctx, kmsg.ACLResourceTypeAny)
}

func (a *admin) listACLs(ctx context.Context, kinds ...kmsg.ACLResourceType) ([]spillway.ACL, error) {
	var all []spillway.ACL
	for _, kind := range kinds {
		req := kmsg.NewPtrDescribeACLsRequest()
		req.ResourceType, req.ResourcePatternType = kind, kmsg.ACLResourcePatternTypeAny
		req.Operation, req.PermissionType = kmsg.ACLOperationAny, kmsg.ACLPermissionTypeAny
		err := a.acls(ctx, "list ACLs", req, 1, func(answer kmsg.Response) []int16 {
			resp := answer.(*kmsg.DescribeACLsResponse)
			for _, r := range resp.Resources {
				for _, e := range r.ACLs {
					all = append(all, spillway.ACL{
						Resource: r.ResourceType.String(), Pattern: r.ResourcePatternType.String(), Name: r.ResourceName,
						Principal: e.Principal, Host: e.Host, Operation: e.Operation.String(), Permission: e.PermissionType.String(),
					})
				}
			}
			return []int16{resp.ErrorCode}
		})
		if err != nil {
			return nil, err
		}
	}
	slices.SortFunc(all, spillway.ACL.Compare)
	return slices.Compact(all), nil // an answer that was asked for twice
}

// aclsAtOnce bounds the entries of one request.
const aclsAtOnce = 200

// CreateACLs implements broker.Admin.
func (a *admin) CreateACLs(ctx context.Context, acls []spillway.ACL) error {
	var faults []error
	for some := range slices.Chunk(acls, aclsAtOnce) {
		req := kmsg.NewPtrCreateACLsRequest()
		for _, e := range some {
			c := kmsg.NewCreateACLsRequestCreation()
			c.ResourceName, c.Principal, c.Host = e.Name, e.Principal, e.Host
			if err := words(e, &c.ResourceType, &c.ResourcePatternType, &c.Operation, &c.PermissionType); err != nil {
				return err
			}
			req.Creations = append(req.Creations, c)
		}
		faults = append(faults, a.acls(ctx, "create ACLs", req, len(some), created))
	}
	return errors.Join(faults...)
}

// DeleteACLs implements broker.Admin.
func (a *admin) DeleteACLs(ctx context.Context, acls []spillway.ACL) error {
	var faults []error
	for some := range slices.Chunk(acls, aclsAtOnce) {
		req := kmsg.NewPtrDeleteACLsRequest()
		for _, e := range some {
			f := kmsg.NewDeleteACLsRequestFilter()
			f.ResourceName, f.Principal, f.Host = &e.Name, &e.Principal, &e.Host
			if err := words(e, &f.ResourceType, &f.ResourcePatternType, &f.Operation, &f.PermissionType); err != nil {
				return err
			}
			req.Filters = append(req.Filters, f)
		}
		faults = append(faults, a.acls(ctx, "delete ACLs", req, len(some), deleted))
	}
	return errors.Join(faults...)
}

// words puts an entry's words into the protocol's numbers.
func words(e spillway.ACL, resource *kmsg.ACLResourceType, pattern *kmsg.ACLResourcePatternType, operation *kmsg.ACLOperation, permission *kmsg.ACLPermissionType) (err error) {
	var faults [4]error
	*resource, faults[0] = kmsg.ParseACLResourceType(e.Resource)
	*pattern, faults[1] = kmsg.ParseACLResourcePatternType(e.Pattern)
	*operation, faults[2] = kmsg.ParseACLOperation(e.Operation)
	*permission, faults[3] = kmsg.ParseACLPermissionType(e.Permission)
	return errors.Join(faults[:]...)
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
			return fmt.Errorf("%d results, not %d", len(codes), want)
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
