package replay

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"spillway/broker/conn"
)

// What nobody answered may still be written for a while, and not after that.
func TestABatchThatNobodyAnsweredIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		r := &run{sent: began}
		time.Sleep(time.Second)
		for range 2 {
			if err := r.landed(t.Context()); err != nil || time.Since(began) != AnswerMax || !r.sent.IsZero() {
				t.Fatalf("after %s: %v", time.Since(began), err)
			}
		}
	})
}

func TestABatchOfWhichNobodyIsSureIsLookedFor(t *testing.T) {
	lost := errors.Join(conn.ErrClosed)
	for name, c := range map[string]struct {
		err             error
		next            int32 // in the log
		late            bool
		looked          bool
		written         int64
		refused, unsure bool
	}{
		"it is there":                        {lost, 12, false, true, 2, false, false},
		"it is not":                          {lost, 10, false, true, 0, false, false},
		"it is there and was not durable":    {kerr.RequestTimedOut, 12, false, true, 2, false, false},
		"it is there and is not durable yet": {kerr.RequestTimedOut, 10, false, false, 0, false, true},
		"nor does it become so":              {kerr.NotEnoughReplicasAfterAppend, 10, true, false, 0, true, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := &run{Config: Config{PatienceMax: time.Minute}}
				log := &virtualLog{next: c.next, unsure: unsure{next: 12, records: 2, err: c.err, until: r.patience()}}
				if c.late {
					time.Sleep(2 * time.Minute)
				}
				var done Range
				looked, err := r.look(context.Background(), log, &done)
				if looked != c.looked || done.Written != c.written || (err != nil) != c.refused || (log.unsure.err != nil) != c.unsure {
					t.Errorf("looked %t, %v, written %d, unsure of %v", looked, err, done.Written, log.unsure.err)
				}
				if err != nil && (!errors.As(err, new(refused)) || !strings.Contains(err.Error(), "are not durable")) {
					t.Error(err)
				}
			})
		})
	}
}
