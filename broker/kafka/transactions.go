package kafka

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway/broker"
)

// OpenTransactions implements broker.Admin: it asks every node.
func (a *admin) OpenTransactions(ctx context.Context) ([]broker.Transaction, error) {
	c := a.cluster
	m, err := c.metadata(ctx, onlyNodes())
	if err != nil {
		return nil, err
	}
	var open []broker.Transaction
	for _, n := range m.Nodes {
		err := c.retry(ctx, func() error {
			req := kmsg.NewPtrListTransactionsRequest()
			req.StateFilters = []string{broker.TransactionOngoing, broker.TransactionCommitting, "PrepareAbort", "PrepareEpochFence"}
			req.DurationFilterMillis = -1
			answer, err := c.do(ctx, n.ID, req, req.MaxVersion())
			if err != nil {
				return err
			}
			resp := answer.(*kmsg.ListTransactionsResponse)
			if err := kerr.ErrorForCode(resp.ErrorCode); err != nil {
				return sentinel(err)
			}
			for _, t := range resp.TransactionStates {
				open = append(open, broker.Transaction{TransactionalID: t.TransactionalID, State: t.TransactionState, ProducerID: t.ProducerID, ProducerEpoch: -1})
			}
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("site %s: ListTransactions: %w", c.config.Site, err)
		}
	}
	slices.SortFunc(open, func(a, b broker.Transaction) int { return strings.Compare(a.TransactionalID, b.TransactionalID) })
	return open, nil
}

// DescribeTransaction implements broker.Admin.
func (a *admin) DescribeTransaction(ctx context.Context, transactionalID string) (t broker.Transaction, err error) {
	err = a.atTransactionCoordinator(ctx, "DescribeTransactions", transactionalID, func(node int32) error {
		req := kmsg.NewPtrDescribeTransactionsRequest()
		req.TransactionalIDs = []string{transactionalID}
		answer, err := a.cluster.do(ctx, node, req, req.MaxVersion())
		if err != nil {
			return err
		}
		for _, s := range answer.(*kmsg.DescribeTransactionsResponse).TransactionStates {
			if s.TransactionalID != transactionalID {
				continue
			}
			if err := kerr.ErrorForCode(s.ErrorCode); err != nil {
				return sentinel(err)
			}
			t = broker.Transaction{TransactionalID: transactionalID, State: s.State, ProducerID: s.ProducerID, ProducerEpoch: s.ProducerEpoch}
			return nil
		}
		return errors.New("the transactional id is not in the answer")
	})
	return t, err
}

// fencedTimeoutMillis is the timeout of transactions that nobody begins: a fenced
// producer sets its own when it begins anew.
const fencedTimeoutMillis = 1000

// initProducerIDV5 is the newest version without two-phase commit.
const initProducerIDV5 = 5

// EndTransaction implements broker.Admin. Taking the id over is how a coordinator is
// told to abort: it does so before it gives the next producer epoch.
func (a *admin) EndTransaction(ctx context.Context, transactionalID string) error {
	return a.atTransactionCoordinator(ctx, "InitProducerId", transactionalID, func(node int32) error {
		req := kmsg.NewPtrInitProducerIDRequest()
		req.TransactionalID, req.TransactionTimeoutMillis = &transactionalID, fencedTimeoutMillis
		req.ProducerID, req.ProducerEpoch = -1, -1
		answer, err := a.cluster.do(ctx, node, req, initProducerIDV5)
		if err != nil {
			return err
		}
		return sentinel(kerr.ErrorForCode(answer.(*kmsg.InitProducerIDResponse).ErrorCode))
	})
}

func (a *admin) atTransactionCoordinator(ctx context.Context, what, transactionalID string, f func(node int32) error) error {
	c := a.cluster
	if err := c.atCoordinator(ctx, coordinatorKey{broker.TransactionCoordinator, transactionalID}, f); err != nil {
		return fmt.Errorf("site %s: %s of transactional id %s: %w", c.config.Site, what, transactionalID, err)
	}
	return nil
}
