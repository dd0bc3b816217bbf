package federation

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"time"

	"spillway"
	"spillway/federation/coordination"
)

// offers keeps in the store which requests each site offers. It implements router.Heard.
type offers struct{ gateway *Gateway }

// offersMax is for the store: a client waits for it.
const offersMax = time.Second

func (o offers) Get(ctx context.Context, site spillway.SiteID) map[int16]int16 {
	// The site has had the caller's time.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), offersMax)
	defer cancel()
	_, versions, err := o.read(ctx, site)
	if err != nil {
		o.gateway.problem("read what site "+string(site)+" offers, which does not answer itself", err)
	}
	return versions
}

func (o offers) Put(ctx context.Context, site spillway.SiteID, versions map[int16]int16) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), offersMax)
	defer cancel()
	version, known, err := o.read(ctx, site)
	if err == nil && maps.Equal(known, versions) {
		return
	}
	if err == nil {
		err = o.write(ctx, site, versions, version)
	}
	if err != nil && !errors.Is(err, coordination.ErrConflict) { // another gateway has heard the same
		o.gateway.problem("keep what site "+string(site)+" offers, for gateways that start while it is away", err)
	}
}

// read returns no versions, and 0, where none are kept.
func (o offers) read(ctx context.Context, site spillway.SiteID) (version uint64, versions map[int16]int16, err error) {
	e, err := o.gateway.config.Store.Get(ctx, o.gateway.keys.Offer(site))
	if errors.Is(err, coordination.ErrNotFound) {
		return 0, nil, nil
	}
	if err != nil {
		return 0, nil, err
	}
	if err := json.Unmarshal(e.Value, &versions); err != nil {
		return 0, nil, err
	}
	return e.Version, versions, nil
}

func (o offers) write(ctx context.Context, site spillway.SiteID, versions map[int16]int16, version uint64) error {
	value, err := json.Marshal(versions)
	if err != nil {
		return err
	}
	_, err = o.gateway.config.Store.Put(ctx, o.gateway.keys.Offer(site), value, version)
	return err
}
