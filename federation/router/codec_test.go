package router

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"

	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"

	"spillway/broker/wire"
	"spillway/broker/wire/wiretest"
	"spillway/federation/session"
)

var errNotStored = errors.New("the commit does not carry its virtual offset and epoch")

// served calls f for each API and version that the router serves.
func served(f func(a api, version int16)) {
	keys := make([]int16, 0, len(apis))
	for key := range apis {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	for _, key := range keys {
		for version := apis[key].min; version <= apis[key].max; version++ {
			f(apis[key], version)
		}
	}
}

func TestEveryAPIHasACodecProof(t *testing.T) {
	for key := range apis {
		if _, ok := codecs[key]; !ok {
			t.Errorf("API key %d is served and has no codec; add one to codecs", key)
		}
	}
	for key := range codecs {
		if _, ok := apis[key]; !ok {
			t.Errorf("API key %d has a codec and is not served", key)
		}
	}
}

// What the router decodes of a request or an answer, it can write again, byte by
// byte: nulls, empty lists and tagged fields that nobody knows included.
func TestMessagesSurviveTheCodec(t *testing.T) {
	served(func(a api, version int16) {
		random := rand.New(rand.NewPCG(uint64(a.key), uint64(version)))
		for range 20 {
			req := kmsg.RequestForKey(a.key)
			req.SetVersion(version)
			wiretest.Fill(random, req)
			body := req.AppendTo(nil)
			again := kmsg.RequestForKey(a.key)
			if err := wire.Check(a.key, version, body); err != nil {
				t.Fatal(err)
			}
			if err := decode(session.Request{RequestHeader: wire.RequestHeader{Key: a.key, Version: version}, Body: body}, again); err != nil {
				t.Fatal(err)
			}
			if got := again.AppendTo(nil); !bytes.Equal(got, body) {
				t.Errorf("request %d version %d\nwas %x\nis  %x", a.key, version, body, got)
			}
			resp := req.ResponseKind()
			wiretest.Fill(random, resp)
			body = resp.AppendTo(nil)
			if err := wire.CheckResponse(a.key, version, body); err != nil {
				t.Fatal(err)
			}
			if got := copyOf(resp).AppendTo(nil); !bytes.Equal(got, body) {
				t.Errorf("answer %d version %d\nwas %x\nis  %x", a.key, version, body, got)
			}
		}
	})
}

// TestRewritesAreExact has random requests go through the whole router to a site and
// random answers back. With the identity as mapping the bytes are equal. With a
// real one they are what a dumb twin makes of them, whose inverse gives the bytes back.
// The twin goes by the names of fields, so what the router forgets to translate fails here.
func TestRewritesAreExact(t *testing.T) {
	for name, m := range map[string]mapping{"identity": identity(), "real": translating()} {
		for release, versions := range map[string]*kversion.Versions{"3.9": kversion.V3_9_0(), "4.4": kversion.V4_4_0()} {
			t.Run(name+" mapping, site "+release, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := newCodecWorld(t, m, versions)
					defer w.Close()
					served(func(a api, version int16) {
						if c := codecs[a.key]; !c.alone && w.site.knows(a.key) {
							random := rand.New(rand.NewPCG(uint64(a.key), uint64(version)))
							for range 20 {
								if err := w.prove(t, random, a.key, version, c); err != nil {
									t.Fatalf("key %d version %d: %v", a.key, version, err)
								}
							}
						}
					})
				})
			})
		}
	}
}

// knows tells whether the site has the API at all.
func (s *codecSite) knows(key int16) bool {
	_, ok := s.release.LookupMaxKeyVersion(key)
	return ok
}

func (w *codecWorld) prove(t *testing.T, random *rand.Rand, key, version int16, c codec) error {
	m, in := w.site.mapping, randomRequest(random, w.site.mapping, key, version)
	w.site.answers(func(up kmsg.Request) kmsg.Response { return randomAnswer(random, m, up) })
	body := in.AppendTo(nil)
	got, err := w.serve(t.Context(), key, version, bytes.Clone(body))
	if err != nil {
		return err
	}
	if err := wire.CheckResponse(key, version, got); err != nil {
		return err
	}
	asked, answered := w.site.take()
	if len(asked) == 0 {
		return fmt.Errorf("the site was not asked: %+v\nanswered %x", in, got)
	}
	asAsked(in, asked, answered)
	want, up := copyOf(in), merged(asked)
	if err := m.mapped(want, atSite); err != nil {
		return err
	}
	if err := equalAtSite(m, c, want, up); err != nil {
		return err
	}
	told := merged(answered)
	if err := m.mapped(told, atClient); err != nil {
		return err
	}
	told.SetVersion(version)
	var expected wiretest.Message = told
	if c.told != nil {
		expected = c.told(in, told)
	}
	if !c.tagged {
		untagged(expected)
	}
	if c.nested {
		if got, err = withoutTags(in.ResponseKind(), got); err != nil {
			return err
		}
	}
	if asks, ok := expected.(kmsg.ThrottleResponse); ok {
		millis, _ := asks.Throttle()
		expected.(kmsg.SetThrottleResponse).SetThrottle(min(max(millis, 0), 60_000))
	}
	if want := bytesOf(expected, version); !bytes.Equal(got, want) {
		is := in.ResponseKind()
		_ = is.ReadFrom(got)
		return fmt.Errorf("answer\nis   %x\nwant %x\nis   %+v\nwant %+v", got, want, is, expected)
	}
	return nil
}

// randomRequest makes a request that the gateway passes on, if it passes any on.
func randomRequest(random *rand.Rand, m mapping, key, version int16) kmsg.Request {
	c, in := codecs[key], kmsg.RequestForKey(key)
	in.SetVersion(version)
	wiretest.FillFull(random, in)
	m.tidy(random, in, atClient)
	if c.ask != nil {
		c.ask(random, m, in)
	}
	if !c.tagged && m.same {
		untagged(in)
	}
	return copyOf(in)
}

// randomAnswer makes one of the site to what it was asked.
func randomAnswer(random *rand.Rand, m mapping, up kmsg.Request) kmsg.Response {
	c, resp := codecs[up.Key()], up.ResponseKind()
	wiretest.Fill(random, resp)
	m.tidy(random, resp, atSite)
	if c.answer != nil {
		c.answer(random, m, up, resp)
	}
	if !c.tagged && m.same {
		untagged(resp)
	}
	return resp
}

// mapped translates a message, and proves that the way back gives its bytes again, but
// for leader epochs. The identity changes nothing but the ids of transactional producers.
func (m mapping) mapped(message wiretest.Message, to side) error {
	body, plain := message.AppendTo(nil), copyOf(message)
	mapping{bare: true}.translate(plain, to) // leader epochs alone
	m.translate(message, to)
	if m.same {
		same := copyOf(plain)
		mapping{bare: true, ids: true}.translate(same, to)
		body = same.AppendTo(nil)
	}
	if m.same && !bytes.Equal(message.AppendTo(nil), body) {
		return fmt.Errorf("the identity changes %T:\nwas %x\nis  %x", message, body, message.AppendTo(nil))
	}
	back := copyOf(message)
	m.translate(back, !to)
	if got, want := back.AppendTo(nil), plain.AppendTo(nil); !bytes.Equal(got, want) {
		return fmt.Errorf("the way back of %T:\nwas %x\nis  %x", message, want, got)
	}
	return nil
}

func withoutTags(resp kmsg.Response, body []byte) ([]byte, error) {
	err := resp.ReadFrom(body)
	untagged(resp)
	return resp.AppendTo(nil), err
}

func equalAtSite(m mapping, c codec, want, up kmsg.Request) error {
	if c.asked != nil {
		want = c.asked(want)
	}
	if !c.tagged {
		untagged(want)
	}
	if c.nested {
		untagged(up)
	}
	if c.stored != nil {
		if err := c.stored(m, up); err != nil {
			return err
		}
	}
	if c.own != nil {
		c.own(want)
		c.own(up)
	}
	if got, want := up.AppendTo(nil), bytesOf(want, up.GetVersion()); !bytes.Equal(got, want) {
		return fmt.Errorf("request\nis   %x\nwant %x\nis   %+v", got, want, up)
	}
	return nil
}
