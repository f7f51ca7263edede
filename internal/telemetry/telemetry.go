// Package telemetry measures what Ripstop does, with the OpenTelemetry SDK: instruments under the names of the semantic
// conventions where they have one, a Prometheus exporter, and spans by OTLP.
//
// A worker dials nothing: what it measures and its spans are bytes that it hands to its control process, which shows the
// first among its own metrics (Remote) and sends the second on (Forwarder).
package telemetry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/common/expfmt"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	otelprometheus "go.opentelemetry.io/otel/exporters/prometheus"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/exemplar"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	collectorpb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
)

// Options configures a Telemetry. The zero value measures and records no spans.
type Options struct {
	Process string // "server" or "worker": an attribute of spans
	// Spans takes batches of spans, as the protobuf body of an OTLP/HTTP request; nil records none.
	Spans func(ctx context.Context, b []byte) error
}

// Telemetry is a process's instruments. Its methods are safe for concurrent use.
type Telemetry struct {
	registry *prometheus.Registry
	meters   *sdkmetric.MeterProvider
	spans    *sdktrace.TracerProvider // nil if none are recorded
	tasks    *Tasks
	ingress  *Ingress
}

// scope names the instruments' and spans' origin.
const scope = "github.com/ripstop-vm/ripstop"

// New makes a Telemetry.
func New(opts Options) (*Telemetry, error) {
	t := &Telemetry{registry: prometheus.NewRegistry()}
	res := resource.NewSchemaless(attribute.String("service.name", "ripstop"), attribute.String("ripstop.process", opts.Process))
	durations := new(histograms)
	exporter, err := otelprometheus.New(otelprometheus.WithRegisterer(t.registry), otelprometheus.WithProducer(durations), otelprometheus.WithoutScopeInfo(), otelprometheus.WithoutTargetInfo())
	if err != nil {
		return nil, fmt.Errorf("set up metrics: %w", err)
	}
	t.meters = sdkmetric.NewMeterProvider(sdkmetric.WithReader(exporter), sdkmetric.WithExemplarFilter(exemplar.AlwaysOffFilter), sdkmetric.WithResource(res),
		sdkmetric.WithCardinalityLimit(maxSeries)) // of itself it lumps all jobs beyond two thousand together
	if err := t.registry.Register(prometheus.WrapCollectorWithPrefix("ripstop_"+opts.Process+"_", collectors.NewGoCollector())); err != nil {
		return nil, fmt.Errorf("set up metrics: %w", err)
	}
	meter := t.meters.Meter(scope)
	if t.tasks, err = newTasks(meter, durations); err != nil {
		return nil, fmt.Errorf("set up metrics: %w", err)
	}
	t.ingress = newIngress(durations)
	if opts.Spans != nil {
		exporter := otlptrace.NewUnstarted(spanClient(opts.Spans))
		if err := exporter.Start(context.Background()); err != nil {
			return nil, fmt.Errorf("set up spans: %w", err)
		}
		t.spans = sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter, sdktrace.WithBatchTimeout(time.Second)), sdktrace.WithResource(res),
			sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.AlwaysSample())))
	}
	return t, nil
}

// Tasks are the instruments of what tasks do.
func (t *Telemetry) Tasks() *Tasks { return t.tasks }

// Ingress are the instruments of requests answered.
func (t *Telemetry) Ingress() *Ingress { return t.ingress }

// Tracer records spans; nil if none are wanted.
func (t *Telemetry) Tracer() trace.Tracer {
	if t.spans == nil {
		return nil
	}
	return t.spans.Tracer(scope)
}

// Gatherer gives what was measured in this process.
func (t *Telemetry) Gatherer() prometheus.Gatherer { return t.registry }

// Gather gives what was measured in this process, as bytes for a Remote.
func (t *Telemetry) Gather() ([]byte, error) {
	families, err := t.registry.Gather()
	if err != nil {
		return nil, fmt.Errorf("gather metrics: %w", err)
	}
	var b bytes.Buffer
	enc := expfmt.NewEncoder(&b, expfmt.NewFormat(expfmt.TypeProtoDelim))
	for _, f := range families {
		if err := enc.Encode(f); err != nil {
			return nil, fmt.Errorf("encode metrics: %w", err)
		}
	}
	return b.Bytes(), nil
}

// Shutdown sends what spans are left, until ctx ends.
func (t *Telemetry) Shutdown(ctx context.Context) error {
	var errs []error
	if t.spans != nil {
		errs = append(errs, t.spans.Shutdown(ctx))
	}
	return errors.Join(append(errs, t.meters.Shutdown(ctx))...)
}

// spanClient is an otlptrace.Client that hands over bytes.
type spanClient func(ctx context.Context, b []byte) error

func (spanClient) Start(context.Context) error { return nil }
func (spanClient) Stop(context.Context) error  { return nil }

func (c spanClient) UploadTraces(ctx context.Context, spans []*tracepb.ResourceSpans) error {
	b, err := proto.Marshal(&collectorpb.ExportTraceServiceRequest{ResourceSpans: spans})
	if err != nil {
		return fmt.Errorf("encode spans: %w", err)
	}
	return c(ctx, b)
}
