package authorization

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"spillway"
)

// sites are what a keeper reads.
type sites struct {
	mu    sync.Mutex
	lists map[spillway.SiteID][]spillway.ACL
	fault map[spillway.SiteID]error
	reads int
	said  []string
	ages  map[spillway.SiteID]time.Duration
}

func (s *sites) age(site spillway.SiteID) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ages[site]
}

func (s *sites) read(_ context.Context, id spillway.SiteID) ([]spillway.ACL, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reads++
	return s.lists[id], s.fault[id]
}

func (s *sites) set(id spillway.SiteID, fault error, entries ...spillway.ACL) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lists[id], s.fault[id] = entries, fault
}

func (s *sites) say(text string, values ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.said = append(s.said, fmt.Sprintf(text, values...))
}

func (s *sites) heard(text string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.ContainsFunc(s.said, func(one string) bool { return strings.Contains(one, text) })
}

func TestListsAreReadAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &sites{lists: make(map[spillway.SiteID][]spillway.ACL), fault: make(map[spillway.SiteID]error), ages: make(map[spillway.SiteID]time.Duration)}
		away := errors.New("the site is away")
		s.set("east", nil, entry(t, "allow User:alice read topic orders"))
		s.set("west", away)
		k := NewKeeper(Config{
			Policy: Policy{SuperUsers: []string{"User:root"}}, Sites: []spillway.SiteID{"east", "west"}, Read: s.read,
			Looked: func(site spillway.SiteID, err error, unread []spillway.SiteID) {
				if err != nil {
					s.say("%v (unread: %v)", err, unread)
				}
			},
			Changed: func(site spillway.SiteID, n int) { s.say("%s has %d", site, n) },
			Aged: func(site spillway.SiteID, age time.Duration) {
				s.mu.Lock()
				defer s.mu.Unlock()
				s.ages[site] = age
			},
		})
		alice, root := Client{Principal: "User:alice"}, Client{Principal: "User:root"}
		ask := func(site spillway.SiteID, c Client) Verdict {
			return k.Of(site).Decide(c, Read, Topic, "orders").Verdict
		}
		check := func(when string, site spillway.SiteID, want Verdict) {
			t.Helper()
			if got := ask(site, alice); got != want {
				t.Errorf("%s: %d at %s", when, got, site)
			}
		}
		check("before", "east", Unknown)
		if ask("east", root) != Allowed || ask("nowhere", root) != Allowed {
			t.Error("a super user needs no list")
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); k.Run(ctx) }()
		synctest.Wait()
		check("at once", "east", Allowed)
		check("never read", "west", Unknown)
		check("no such site", "nowhere", Unknown)
		synctest.Wait()
		if !s.heard("access control list of site west: the site is away (unread: [") || !s.heard("east has 1") {
			t.Errorf("said %q", s.said)
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if east, west := s.age("east"), s.age("west"); east != 0 || west != 10*time.Second {
			t.Errorf("the lists are %s and %s old", east, west)
		}
		s.set("west", nil)
		time.Sleep(1100 * time.Millisecond)
		check("an empty list", "west", Denied)
		s.set("east", nil, entry(t, "deny User:* all topic *"))
		time.Sleep(5 * time.Second)
		check("changed", "east", Denied)
		s.set("east", nil, entry(t, "allow User:alice read topic orders"))
		time.Sleep(5 * time.Second)
		s.set("east", away)
		time.Sleep(time.Minute)
		check("away", "east", Allowed)
		if east, west := s.age("east"), s.age("west"); east < 55*time.Second || east > 65*time.Second || west != 0 {
			t.Errorf("with the site away for a minute the lists are %s and %s old", east, west)
		}
		s.set("east", nil, make([]spillway.ACL, EntriesMax+1)...)
		time.Sleep(5 * time.Second)
		check("too many", "east", Allowed)
		if len(k.Unread()) != 0 || !s.heard("100001 entries") {
			t.Errorf("unread %v, said %q", k.Unread(), s.said)
		}
		large := entry(t, "allow User:alice read topic orders")
		large.Principal = strings.Repeat("x", BytesMax)
		s.set("east", nil, large)
		time.Sleep(5 * time.Second)
		check("too large", "east", Allowed)
		s.mu.Lock()
		reads := s.reads
		s.mu.Unlock()
		time.Sleep(time.Minute)
		s.mu.Lock()
		if more := s.reads - reads; more < 20 || more > 26 {
			t.Errorf("%d reads in a minute", more)
		}
		s.mu.Unlock()
		cancel()
		<-done
	})
}

// A site that does not answer is given up after a time, and keeps no other waiting.
func TestASilentSiteIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := NewKeeper(Config{Sites: []spillway.SiteID{"east", "west"}, Read: func(ctx context.Context, id spillway.SiteID) ([]spillway.ACL, error) {
			if id == "west" {
				<-ctx.Done()
				return nil, ctx.Err()
			}
			return nil, nil
		}})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); k.Run(ctx) }()
		began := time.Now()
		synctest.Wait()
		if unread := k.Unread(); len(unread) != 1 || unread[0] != "west" {
			t.Errorf("unread: %v", unread)
		}
		waiting, ended := context.WithTimeout(ctx, 30*time.Second)
		defer ended()
		if k.Wait(waiting, []spillway.SiteID{"east"}) != nil || time.Since(began) != 0 {
			t.Errorf("who needs the list of east waited %s", time.Since(began))
		}
		if unread := k.Wait(waiting, []spillway.SiteID{"west", "east", "nowhere"}); len(unread) != 1 || unread[0] != "west" || time.Since(began) != 30*time.Second {
			t.Errorf("after %s not read: %v", time.Since(began), unread)
		}
		cancel()
		<-done
	})
}

// Who waits is told when every list was read, not when every site was asked, and soon: one that
// refuses the first question is asked again in a moment.
func TestWhoWaitsFindsTheListsRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var reads atomic.Int64
		began := time.Now()
		k := NewKeeper(Config{Sites: []spillway.SiteID{"east", "west"}, Read: func(_ context.Context, id spillway.SiteID) ([]spillway.ACL, error) {
			if id == "east" {
				return nil, nil
			}
			reads.Add(1)
			if time.Since(began) < 450*time.Millisecond {
				return nil, errors.New("the broker has just begun")
			}
			return nil, nil
		}})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); k.Run(ctx) }()
		if k.Wait(ctx, k.config.Sites) != nil || time.Since(began) != 500*time.Millisecond || len(k.Unread()) > 0 {
			t.Errorf("after %s, unread: %v", time.Since(began), k.Unread())
		}
		if k.Wait(ctx, k.config.Sites) != nil || k.Wait(ctx, nil) != nil {
			t.Error("there is nothing to wait for")
		}
		cancel()
		<-done
		if n := reads.Load(); n != 6 {
			t.Errorf("%d reads", n)
		}
		// One that goes on refusing is not asked so often for ever, and told of as often as any.
		reads.Store(0)
		told := 0
		k = NewKeeper(Config{Sites: []spillway.SiteID{"west"}, Read: func(context.Context, spillway.SiteID) ([]spillway.ACL, error) {
			reads.Add(1)
			return nil, errors.New("the site is away")
		}, Looked: func(spillway.SiteID, error, []spillway.SiteID) { told++ }})
		ctx, cancel = context.WithTimeout(t.Context(), 10500*time.Millisecond)
		defer cancel()
		k.Run(ctx)
		if n := reads.Load(); n < 25 || n > 31 {
			t.Errorf("%d reads in 10 seconds", n)
		}
		if told < 8 || told > 11 {
			t.Errorf("told of %d times in 10 seconds", told)
		}
	})
}

// A list that takes long is read more rarely.
func TestALongListIsReadRarely(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var reads atomic.Int64
		k := NewKeeper(Config{Sites: []spillway.SiteID{"east"}, Read: func(context.Context, spillway.SiteID) ([]spillway.ACL, error) {
			reads.Add(1)
			time.Sleep(2 * time.Second)
			return nil, nil
		}})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); k.Run(ctx) }()
		time.Sleep(time.Minute)
		if n := reads.Load(); n != 3 {
			t.Errorf("%d reads in a minute", n)
		}
		cancel()
		<-done
	})
}
