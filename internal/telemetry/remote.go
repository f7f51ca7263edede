package telemetry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	collectorpb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/protobuf/proto"
)

// Bounds of what another process may show among our metrics. A worker with ten thousand jobs has some fifteen series of each.
const (
	maxFamilies = 200
	maxSeries   = 300_000
)

// Remote is what another process measured last. It is safe for concurrent use.
type Remote struct {
	mu       sync.Mutex
	families []*dto.MetricFamily
}

var _ prometheus.Gatherer = (*Remote)(nil)

// remoteNames are the beginnings of the names that another process may use, so that it cannot speak for ours.
var remoteNames = []string{"faas_", "http_server_", "ripstop_task_", "ripstop_guest_", "ripstop_hostcalls", "ripstop_sandbox_", "ripstop_worker_"}

// Set replaces what is shown by what Gather gave. Families under other names than a worker's are left out.
func (r *Remote) Set(b []byte) error {
	dec := expfmt.NewDecoder(bytes.NewReader(b), expfmt.NewFormat(expfmt.TypeProtoDelim))
	var families []*dto.MetricFamily
	seen := map[string]bool{}
	series := 0
	for {
		f := new(dto.MetricFamily)
		if err := dec.Decode(f); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return fmt.Errorf("read metrics: %w", err)
		}
		if seen[f.GetName()] || !slices.ContainsFunc(remoteNames, func(p string) bool { return strings.HasPrefix(f.GetName(), p) }) {
			continue
		}
		seen[f.GetName()] = true
		series += len(f.Metric)
		if len(families) >= maxFamilies || series > maxSeries {
			return fmt.Errorf("read metrics: more than %d families or %d series", maxFamilies, maxSeries)
		}
		families = append(families, f)
	}
	r.mu.Lock()
	r.families = families
	r.mu.Unlock()
	return nil
}

// Gather implements prometheus.Gatherer.
func (r *Remote) Gather() ([]*dto.MetricFamily, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.families, nil
}

// Forwarder sends spans on to the collector that OTEL_EXPORTER_OTLP_ENDPOINT (or the one for traces alone) names.
type Forwarder struct {
	client otlptrace.Client
	queue  chan []byte
	log    *slog.Logger
}

// SpansWanted reports whether the environment names a collector.
func SpansWanted() bool {
	return os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT") != "" || os.Getenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") != ""
}

// NewForwarder makes a Forwarder; Run sends.
func NewForwarder(log *slog.Logger) *Forwarder {
	return &Forwarder{client: otlptracehttp.NewClient(), queue: make(chan []byte, 64), log: log}
}

// Take queues a batch, or drops it if the collector is slow.
func (f *Forwarder) Take(b []byte) {
	select {
	case f.queue <- b:
	default:
	}
}

// Run sends batches until ctx ends.
func (f *Forwarder) Run(ctx context.Context) error {
	if err := f.client.Start(ctx); err != nil {
		return fmt.Errorf("start the exporter of spans: %w", err)
	}
	for {
		select {
		case <-ctx.Done():
			return f.client.Stop(context.WithoutCancel(ctx))
		case b := <-f.queue:
			var r collectorpb.ExportTraceServiceRequest
			err := proto.Unmarshal(b, &r)
			if err == nil {
				err = f.client.UploadTraces(ctx, r.ResourceSpans)
			}
			if err != nil && ctx.Err() == nil {
				f.log.Warn("spans were lost", "error", err)
			}
		}
	}
}
