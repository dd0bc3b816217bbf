package telemetry

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/url"
	"strings"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	sdkresource "go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"spillway"
	"spillway/federation/control"
	"spillway/federation/failover"
	"spillway/federation/history"
)

// Traces writes one trace per move: one span per state, and inside of it one for
// each piece of work that a loop or a site did for it. The ids of the trace, its
// root, and its states follow from the share and its epoch, so that spans fit
// together whichever process wrote them, and work can be told before the move
// has ended.
type Traces struct {
	provider *sdktrace.TracerProvider
	tracer   trace.Tracer
	cluster  string
}

// tracesPath is where OTLP collectors take traces, if the endpoint names no path.
const tracesPath = "/v1/traces"

// NewTraces sends spans to an OTLP/HTTP endpoint such as http://127.0.0.1:4318.
// Sample is the share of moves to trace, 0 to 1.
func NewTraces(ctx context.Context, endpoint, cluster, process string, sample float64) (*Traces, error) {
	at, err := url.Parse(endpoint)
	if err != nil {
		return nil, fmt.Errorf("trace exporter: %w", err)
	}
	if strings.Trim(at.Path, "/") == "" {
		at.Path = tracesPath // the library would post to the root
	}
	exporter, err := otlptracehttp.New(ctx, otlptracehttp.WithEndpointURL(at.String()))
	if err != nil {
		return nil, fmt.Errorf("trace exporter for %s: %w", endpoint, err)
	}
	return newTraces(sdktrace.WithBatcher(exporter), cluster, process, sample), nil
}

func newTraces(spans sdktrace.TracerProviderOption, cluster, process string, sample float64) *Traces {
	provider := sdktrace.NewTracerProvider(spans,
		sdktrace.WithIDGenerator(moveIDs{}),
		sdktrace.WithSampler(sdktrace.TraceIDRatioBased(sample)),
		sdktrace.WithResource(sdkresource.NewSchemaless(
			attribute.String("service.name", "spillway"),
			attribute.String("service.namespace", cluster),
			attribute.String("service.instance.id", process),
		)),
	)
	return &Traces{provider: provider, tracer: provider.Tracer("spillway/telemetry"), cluster: cluster}
}

// Close sends what is waiting.
func (t *Traces) Close(ctx context.Context) error {
	if err := t.provider.Shutdown(ctx); err != nil {
		return fmt.Errorf("close traces: %w", err)
	}
	return nil
}

// Move writes the spans of a finished or aborted move: the root over all of
// it, and one child for each state that was passed.
func (t *Traces) Move(m history.Record) {
	traceID, rootID := t.ids(m)
	ctx := context.WithValue(context.Background(), idsKey{}, fixedIDs{traceID, rootID})
	attributes := []attribute.KeyValue{
		attribute.String("spillway.failover_group", m.Group),
		attribute.Int("spillway.epoch", int(m.Epoch)),
		attribute.String("spillway.from", string(m.From)),
		attribute.String("spillway.to", string(m.To)),
		attribute.String("spillway.who", m.Who),
		attribute.String("spillway.why", m.Why),
	}
	ctx, root := t.tracer.Start(ctx, fmt.Sprintf("%s %s", m.Kind, m.Group), trace.WithTimestamp(m.Started), trace.WithAttributes(attributes...))
	ctx = context.WithValue(ctx, idsKey{}, nil)
	passed := make(map[failover.State]bool)
	for i, p := range m.Passages {
		end := m.Ended
		if i+1 < len(m.Passages) {
			end = m.Passages[i+1].At
		}
		inner := ctx
		if !passed[p.State] {
			inner = context.WithValue(ctx, idsKey{}, fixedIDs{traceID, t.stateID(m.Group, m.Index, m.Epoch, p.State)})
		}
		passed[p.State] = true
		_, span := t.tracer.Start(inner, string(p.State), trace.WithTimestamp(p.At), trace.WithAttributes(attribute.String("spillway.why", p.Why)))
		span.End(trace.WithTimestamp(end))
	}
	if m.Aborted != "" {
		root.SetStatus(codes.Error, "aborted: "+m.Aborted)
	}
	root.End(trace.WithTimestamp(m.Ended))
}

// Action writes the span of one piece of work, within the span of its state.
func (t *Traces) Action(a control.ActionInfo) {
	ctx := trace.ContextWithSpanContext(context.Background(), trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: t.traceID(a.Share.Group, a.Share.Index, a.Epoch), SpanID: t.stateID(a.Share.Group, a.Share.Index, a.Epoch, a.State),
		TraceFlags: trace.FlagsSampled, Remote: true,
	}))
	_, span := t.tracer.Start(ctx, a.What, trace.WithTimestamp(a.Started), trace.WithAttributes(
		attribute.String("spillway.failover_group", a.Share.Group), attribute.String("spillway.site", string(a.Site))))
	if a.Err != nil {
		span.SetStatus(codes.Error, a.Err.Error())
	}
	span.End(trace.WithTimestamp(a.Ended))
}

func (t *Traces) ids(m history.Record) (trace.TraceID, trace.SpanID) {
	sum := t.sum(m.Group, m.Index, m.Epoch, "")
	return trace.TraceID(sum[:16]), trace.SpanID(sum[16:24])
}

func (t *Traces) traceID(group string, index int, epoch spillway.Epoch) trace.TraceID {
	sum := t.sum(group, index, epoch, "")
	return trace.TraceID(sum[:16])
}

func (t *Traces) stateID(group string, index int, epoch spillway.Epoch, state failover.State) trace.SpanID {
	sum := t.sum(group, index, epoch, state)
	return trace.SpanID(sum[:8])
}

func (t *Traces) sum(group string, index int, epoch spillway.Epoch, state failover.State) [sha256.Size]byte {
	return sha256.Sum256(fmt.Appendf(nil, "%s/%s/%d/%d%s", t.cluster, group, index, epoch, state))
}

type idsKey struct{}

type fixedIDs struct {
	trace trace.TraceID
	span  trace.SpanID
}

// moveIDs gives the ids that Move laid into the context, and random ones else.
type moveIDs struct{}

func (moveIDs) NewIDs(ctx context.Context) (trace.TraceID, trace.SpanID) {
	if ids, ok := ctx.Value(idsKey{}).(fixedIDs); ok {
		return ids.trace, ids.span
	}
	var id trace.TraceID
	binary.LittleEndian.PutUint64(id[:8], rand.Uint64()|1)
	binary.LittleEndian.PutUint64(id[8:], rand.Uint64())
	return id, randomSpan()
}

func (moveIDs) NewSpanID(ctx context.Context, _ trace.TraceID) trace.SpanID {
	if ids, ok := ctx.Value(idsKey{}).(fixedIDs); ok {
		return ids.span
	}
	return randomSpan()
}

func randomSpan() trace.SpanID {
	var id trace.SpanID
	binary.LittleEndian.PutUint64(id[:], rand.Uint64()|1)
	return id
}
