package telemetry

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
)

// seconds are the histograms' bounds: a task answers in microseconds or in minutes.
var seconds = []float64{0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60}

var views = []sdkmetric.View{
	sdkmetric.NewView(sdkmetric.Instrument{Kind: sdkmetric.InstrumentKindHistogram, Unit: "s"}, sdkmetric.Stream{Aggregation: sdkmetric.AggregationExplicitBucketHistogram{Boundaries: seconds}}),
}

// maxNames bounds the metrics that one job's guests may name; further ones are left out.
const maxNames = 100

// Tasks are the instruments of what tasks do: package agent's Recorder.
type Tasks struct {
	invocations, coldstarts, errors, timeouts metric.Int64Counter
	returns                                   metric.Int64Counter
	inflight                                  metric.Int64UpDownCounter
	duration, start, cpu                      metric.Float64Histogram
	guestCounter                              metric.Float64Counter
	guestGauge                                metric.Float64Gauge
	guestHistogram                            metric.Float64Histogram
	hostcalls                                 atomic.Pointer[func(each func(job, function, outcome string, n uint64))]
	processor                                 atomic.Pointer[func(each func(job string, used, waited time.Duration))]

	mu    sync.Mutex
	names map[string]map[string]bool // of guests' metrics, by job
}

func newTasks(m metric.Meter) (*Tasks, error) {
	t := &Tasks{names: map[string]map[string]bool{}}
	var errs [16]error
	t.invocations, errs[0] = m.Int64Counter("faas.invocations", metric.WithUnit("{invocation}"), metric.WithDescription("Invocations that ended, by outcome."))
	t.coldstarts, errs[1] = m.Int64Counter("faas.coldstarts", metric.WithUnit("{coldstart}"), metric.WithDescription("Invocations for which a sandbox had to be made first."))
	t.errors, errs[2] = m.Int64Counter("faas.errors", metric.WithUnit("{error}"), metric.WithDescription("Invocations that failed."))
	t.timeouts, errs[3] = m.Int64Counter("faas.timeouts", metric.WithUnit("{timeout}"), metric.WithDescription("Invocations ended at their deadline."))
	_, errs[4] = m.Int64ObservableCounter("ripstop.hostcalls", metric.WithUnit("{call}"), metric.WithDescription("Host calls of guests, by function and outcome."),
		metric.WithInt64Callback(func(_ context.Context, o metric.Int64Observer) error {
			if read := t.hostcalls.Load(); read != nil {
				(*read)(func(job, function, outcome string, n uint64) {
					o.Observe(int64(n), metric.WithAttributeSet(attribute.NewSet(attribute.String("job", job), attribute.String("function", function), attribute.String("outcome", outcome))))
				})
			}
			return nil
		}))
	t.inflight, errs[5] = m.Int64UpDownCounter("ripstop.task.inflight", metric.WithUnit("{invocation}"), metric.WithDescription("Invocations under way."))
	t.duration, errs[6] = m.Float64Histogram("faas.invoke_duration", metric.WithUnit("s"), metric.WithDescription("Time from the arrival of a request to its end."))
	t.start, errs[7] = m.Float64Histogram("faas.init_duration", metric.WithUnit("s"), metric.WithDescription("Time to make a sandbox."))
	t.guestCounter, errs[8] = m.Float64Counter("ripstop.guest.counter", metric.WithDescription("Counters of guests, by name."))
	t.guestGauge, errs[9] = m.Float64Gauge("ripstop.guest.gauge", metric.WithDescription("Gauges of guests, by name."))
	t.guestHistogram, errs[10] = m.Float64Histogram("ripstop.guest.histogram", metric.WithDescription("Histograms of guests, by name."))
	t.returns, errs[11] = m.Int64Counter("ripstop.sandbox.returns", metric.WithUnit("{sandbox}"), metric.WithDescription("Sandboxes that were to be as new after an invocation, by how that went."))
	t.cpu, errs[12] = m.Float64Histogram("faas.cpu_usage", metric.WithUnit("s"), metric.WithDescription("Time at the processor of an invocation's guest."))
	used, err := m.Float64ObservableCounter("ripstop.task.cpu", metric.WithUnit("s"), metric.WithDescription("Time at the processor of guests, their starts and what was done for them included."))
	errs[13] = err
	waited, err := m.Float64ObservableCounter("ripstop.task.cpu_waited", metric.WithUnit("s"), metric.WithDescription("Time for which guests waited for their turn at the processor."))
	errs[14] = err
	_, errs[15] = m.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		if read := t.processor.Load(); read != nil {
			(*read)(func(job string, u, w time.Duration) {
				o.ObserveFloat64(used, u.Seconds(), jobAttr(job))
				o.ObserveFloat64(waited, w.Seconds(), jobAttr(job))
			})
		}
		return nil
	}, used, waited)
	return t, errors.Join(errs[:]...)
}

func jobAttr(job string) metric.MeasurementOption {
	return metric.WithAttributeSet(attribute.NewSet(attribute.String("job", job)))
}

// Invocation notes one that ended.
func (t *Tasks) Invocation(ctx context.Context, job, outcome string, cold bool, took time.Duration) {
	by := jobAttr(job)
	t.invocations.Add(ctx, 1, metric.WithAttributeSet(attribute.NewSet(attribute.String("job", job), attribute.String("outcome", outcome))))
	if cold {
		t.coldstarts.Add(ctx, 1, by)
	}
	switch outcome {
	case "error", "fault":
		t.errors.Add(ctx, 1, by)
	case "timeout":
		t.timeouts.Add(ctx, 1, by)
	case "rejected":
		return
	}
	t.duration.Record(ctx, took.Seconds(), by)
}

// HostCalls has the counts of host calls read whenever metrics are gathered.
func (t *Tasks) HostCalls(read func(each func(job, function, outcome string, n uint64))) {
	t.hostcalls.Store(&read)
}

// CPU notes what an invocation used of the processor.
func (t *Tasks) CPU(ctx context.Context, job string, used time.Duration) {
	t.cpu.Record(ctx, used.Seconds(), jobAttr(job))
}

// Processor has what jobs used of the processor read whenever metrics are gathered.
func (t *Tasks) Processor(read func(each func(job string, used, waited time.Duration))) {
	t.processor.Store(&read)
}

// Start notes a sandbox that was made.
func (t *Tasks) Start(job string, took time.Duration) {
	t.start.Record(context.Background(), took.Seconds(), jobAttr(job))
}

// Return notes a sandbox that returned to its image, or why it was thrown away instead.
func (t *Tasks) Return(job, outcome string) {
	t.returns.Add(context.Background(), 1, metric.WithAttributeSet(attribute.NewSet(attribute.String("job", job), attribute.String("outcome", outcome))))
}

// Inflight notes invocations that began or ended.
func (t *Tasks) Inflight(job string, change int64) {
	t.inflight.Add(context.Background(), change, jobAttr(job))
}

// Metric notes what a guest measured.
func (t *Tasks) Metric(job, kind, name string, value float64) {
	if len(name) > 128 {
		return
	}
	t.mu.Lock()
	names := t.names[job]
	if names == nil {
		names = map[string]bool{}
		t.names[job] = names
	}
	known := names[name]
	if !known && len(names) < maxNames {
		names[name], known = true, true
	}
	t.mu.Unlock()
	if !known {
		return
	}
	by := metric.WithAttributeSet(attribute.NewSet(attribute.String("job", job), attribute.String("name", name)))
	switch ctx := context.Background(); kind {
	case "counter":
		if value > 0 { // a counter does not go down
			t.guestCounter.Add(ctx, value, by)
		}
	case "gauge":
		t.guestGauge.Record(ctx, value, by)
	case "histogram":
		t.guestHistogram.Record(ctx, value, by)
	}
}

// Ingress are the instruments of requests answered: package gateway's Recorder.
type Ingress struct {
	duration metric.Float64Histogram
}

func newIngress(m metric.Meter) (*Ingress, error) {
	d, err := m.Float64Histogram("http.server.request.duration", metric.WithUnit("s"), metric.WithDescription("Time to answer requests of ingress."))
	return &Ingress{d}, err
}

// Request notes an answer. job is empty if none answers there.
func (i *Ingress) Request(ctx context.Context, job, method string, status int, took time.Duration) {
	i.duration.Record(ctx, took.Seconds(), metric.WithAttributeSet(attribute.NewSet(
		attribute.String("job", job), attribute.String("http.request.method", method), attribute.Int("http.response.status_code", status))))
}
