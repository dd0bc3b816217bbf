package telemetry

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math/rand/v2"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	sdkresource "go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"spillway/federation/control"
)

// Traces writes one trace per move with one span per state. The ids of trace
// and root span follow from the share and its epoch, so that spans fit together
// whichever process drove which state.
type Traces struct {
	provider *sdktrace.TracerProvider
	tracer   trace.Tracer
	cluster  string
}

// NewTraces sends spans to an OTLP/HTTP endpoint such as http://127.0.0.1:4318.
// Sample is the share of moves to trace, 0 to 1.
func NewTraces(ctx context.Context, endpoint, cluster, process string, sample float64) (*Traces, error) {
	exporter, err := otlptracehttp.New(ctx, otlptracehttp.WithEndpointURL(endpoint))
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
func (t *Traces) Move(m control.Record) {
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
	for i, p := range m.Passages {
		end := m.Ended
		if i+1 < len(m.Passages) {
			end = m.Passages[i+1].At
		}
		_, span := t.tracer.Start(ctx, string(p.State), trace.WithTimestamp(p.At), trace.WithAttributes(attribute.String("spillway.why", p.Why)))
		span.End(trace.WithTimestamp(end))
	}
	if m.Aborted != "" {
		root.SetStatus(codes.Error, "aborted: "+m.Aborted)
	}
	root.End(trace.WithTimestamp(m.Ended))
}

func (t *Traces) ids(m control.Record) (trace.TraceID, trace.SpanID) {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s/%s/%d/%d", t.cluster, m.Group, m.Index, m.Epoch))
	return trace.TraceID(sum[:16]), trace.SpanID(sum[16:24])
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

func (moveIDs) NewSpanID(context.Context, trace.TraceID) trace.SpanID { return randomSpan() }

func randomSpan() trace.SpanID {
	var id trace.SpanID
	binary.LittleEndian.PutUint64(id[:], rand.Uint64()|1)
	return id
}
