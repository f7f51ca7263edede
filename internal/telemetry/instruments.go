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

// Tasks are the instruments of what tasks do: package agent's Recorder. Each invocation counts several things, so that counts are plain
// numbers here, read when metrics are gathered: through an instrument each would take as long as a small guest's whole call.
type Tasks struct {
	duration, start, cpu metric.Float64Histogram
	guestCounter         metric.Float64Counter
	guestGauge           metric.Float64Gauge
	guestHistogram       metric.Float64Histogram
	hostcalls            atomic.Pointer[func(each func(job, function, outcome string, n uint64))]
	processor            atomic.Pointer[func(each func(job string, used, waited time.Duration))]

	jobsMu sync.RWMutex
	jobs   map[string]*counts

	mu    sync.Mutex
	names map[string]map[string]bool // of guests' metrics, by job
}

// counts are one job's.
type counts struct {
	coldstarts, errors, timeouts, inflight atomic.Int64
	outcomes, returns                      outcomes
	record                                 []metric.RecordOption
	observe                                []metric.ObserveOption
}

// outcomes counts by name, of which there are few.
type outcomes struct {
	job  string
	mu   sync.RWMutex
	list []*outcome
}

type outcome struct {
	name    string
	n       atomic.Int64
	observe []metric.ObserveOption
}

func (o *outcomes) find(name string) *outcome {
	o.mu.RLock()
	defer o.mu.RUnlock()
	for _, have := range o.list {
		if have.name == name {
			return have
		}
	}
	return nil
}

func (o *outcomes) add(name string) {
	have := o.find(name)
	if have == nil {
		o.mu.Lock()
		for _, h := range o.list {
			if h.name == name {
				have = h
			}
		}
		if have == nil {
			set := attribute.NewSet(attribute.String("job", o.job), attribute.String("outcome", name))
			have = &outcome{name: name, observe: []metric.ObserveOption{metric.WithAttributeSet(set)}}
			o.list = append(o.list, have)
		}
		o.mu.Unlock()
	}
	have.n.Add(1)
}

func (o *outcomes) each(observe func(n int64, by ...metric.ObserveOption)) {
	o.mu.RLock()
	defer o.mu.RUnlock()
	for _, have := range o.list {
		observe(have.n.Load(), have.observe...)
	}
}

func (t *Tasks) job(name string) *counts {
	t.jobsMu.RLock()
	c := t.jobs[name]
	t.jobsMu.RUnlock()
	if c != nil {
		return c
	}
	t.jobsMu.Lock()
	defer t.jobsMu.Unlock()
	if c = t.jobs[name]; c == nil {
		by := metric.WithAttributeSet(attribute.NewSet(attribute.String("job", name)))
		c = &counts{record: []metric.RecordOption{by}, observe: []metric.ObserveOption{by}}
		c.outcomes.job, c.returns.job = name, name
		t.jobs[name] = c
	}
	return c
}

// eachJob has read answer what an instrument shows of each job, when it is asked.
func (t *Tasks) eachJob(read func(c *counts, observe func(n int64, by ...metric.ObserveOption))) metric.Int64Callback {
	return func(_ context.Context, o metric.Int64Observer) error {
		t.jobsMu.RLock()
		defer t.jobsMu.RUnlock()
		for _, c := range t.jobs {
			read(c, func(n int64, by ...metric.ObserveOption) { o.Observe(n, by...) })
		}
		return nil
	}
}

// happened is an instrument of a count that jobs have once it is not zero.
func happened(of func(*counts) *atomic.Int64) func(*counts, func(int64, ...metric.ObserveOption)) {
	return func(c *counts, observe func(int64, ...metric.ObserveOption)) {
		if n := of(c).Load(); n != 0 {
			observe(n, c.observe...)
		}
	}
}

func newTasks(m metric.Meter) (*Tasks, error) {
	t := &Tasks{names: map[string]map[string]bool{}, jobs: map[string]*counts{}}
	var errs [16]error
	_, errs[0] = m.Int64ObservableCounter("faas.invocations", metric.WithUnit("{invocation}"), metric.WithDescription("Invocations that ended, by outcome."),
		metric.WithInt64Callback(t.eachJob(func(c *counts, observe func(int64, ...metric.ObserveOption)) { c.outcomes.each(observe) })))
	_, errs[1] = m.Int64ObservableCounter("faas.coldstarts", metric.WithUnit("{coldstart}"), metric.WithDescription("Invocations for which a sandbox had to be made first."),
		metric.WithInt64Callback(t.eachJob(happened(func(c *counts) *atomic.Int64 { return &c.coldstarts }))))
	_, errs[2] = m.Int64ObservableCounter("faas.errors", metric.WithUnit("{error}"), metric.WithDescription("Invocations that failed."),
		metric.WithInt64Callback(t.eachJob(happened(func(c *counts) *atomic.Int64 { return &c.errors }))))
	_, errs[3] = m.Int64ObservableCounter("faas.timeouts", metric.WithUnit("{timeout}"), metric.WithDescription("Invocations ended at their deadline."),
		metric.WithInt64Callback(t.eachJob(happened(func(c *counts) *atomic.Int64 { return &c.timeouts }))))
	_, errs[4] = m.Int64ObservableCounter("ripstop.hostcalls", metric.WithUnit("{call}"), metric.WithDescription("Host calls of guests, by function and outcome."),
		metric.WithInt64Callback(func(_ context.Context, o metric.Int64Observer) error {
			if read := t.hostcalls.Load(); read != nil {
				(*read)(func(job, function, outcome string, n uint64) {
					o.Observe(int64(n), metric.WithAttributeSet(attribute.NewSet(attribute.String("job", job), attribute.String("function", function), attribute.String("outcome", outcome))))
				})
			}
			return nil
		}))
	_, errs[5] = m.Int64ObservableUpDownCounter("ripstop.task.inflight", metric.WithUnit("{invocation}"), metric.WithDescription("Invocations under way."),
		metric.WithInt64Callback(t.eachJob(func(c *counts, observe func(int64, ...metric.ObserveOption)) {
			observe(c.inflight.Load(), c.observe...)
		})))
	t.duration, errs[6] = m.Float64Histogram("faas.invoke_duration", metric.WithUnit("s"), metric.WithDescription("Time from the arrival of a request to its end."))
	t.start, errs[7] = m.Float64Histogram("faas.init_duration", metric.WithUnit("s"), metric.WithDescription("Time to make a sandbox."))
	t.guestCounter, errs[8] = m.Float64Counter("ripstop.guest.counter", metric.WithDescription("Counters of guests, by name."))
	t.guestGauge, errs[9] = m.Float64Gauge("ripstop.guest.gauge", metric.WithDescription("Gauges of guests, by name."))
	t.guestHistogram, errs[10] = m.Float64Histogram("ripstop.guest.histogram", metric.WithDescription("Histograms of guests, by name."))
	_, errs[11] = m.Int64ObservableCounter("ripstop.sandbox.returns", metric.WithUnit("{sandbox}"), metric.WithDescription("Sandboxes that were to be as new after an invocation, by how that went."),
		metric.WithInt64Callback(t.eachJob(func(c *counts, observe func(int64, ...metric.ObserveOption)) { c.returns.each(observe) })))
	t.cpu, errs[12] = m.Float64Histogram("faas.cpu_usage", metric.WithUnit("s"), metric.WithDescription("Time at the processor of an invocation's guest."))
	used, err := m.Float64ObservableCounter("ripstop.task.cpu", metric.WithUnit("s"), metric.WithDescription("Time at the processor of guests, their starts and what was done for them included."))
	errs[13] = err
	waited, err := m.Float64ObservableCounter("ripstop.task.cpu_waited", metric.WithUnit("s"), metric.WithDescription("Time for which guests waited for their turn at the processor."))
	errs[14] = err
	_, errs[15] = m.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		if read := t.processor.Load(); read != nil {
			(*read)(func(job string, u, w time.Duration) {
				o.ObserveFloat64(used, u.Seconds(), t.job(job).observe...)
				o.ObserveFloat64(waited, w.Seconds(), t.job(job).observe...)
			})
		}
		return nil
	}, used, waited)
	return t, errors.Join(errs[:]...)
}

// Invocation notes one that ended.
func (t *Tasks) Invocation(ctx context.Context, job, outcome string, cold bool, took time.Duration) {
	c := t.job(job)
	c.outcomes.add(outcome)
	if cold {
		c.coldstarts.Add(1)
	}
	switch outcome {
	case "error", "fault":
		c.errors.Add(1)
	case "timeout":
		c.timeouts.Add(1)
	case "rejected":
		return
	}
	t.duration.Record(ctx, took.Seconds(), c.record...)
}

// HostCalls has the counts of host calls read whenever metrics are gathered.
func (t *Tasks) HostCalls(read func(each func(job, function, outcome string, n uint64))) {
	t.hostcalls.Store(&read)
}

// CPU notes what an invocation used of the processor.
func (t *Tasks) CPU(ctx context.Context, job string, used time.Duration) {
	t.cpu.Record(ctx, used.Seconds(), t.job(job).record...)
}

// Processor has what jobs used of the processor read whenever metrics are gathered.
func (t *Tasks) Processor(read func(each func(job string, used, waited time.Duration))) {
	t.processor.Store(&read)
}

// Start notes a sandbox that was made.
func (t *Tasks) Start(job string, took time.Duration) {
	t.start.Record(context.Background(), took.Seconds(), t.job(job).record...)
}

// Return notes a sandbox that returned to its image, or why it was thrown away instead.
func (t *Tasks) Return(job, outcome string) { t.job(job).returns.add(outcome) }

// Inflight notes invocations that began or ended.
func (t *Tasks) Inflight(job string, change int64) { t.job(job).inflight.Add(change) }

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

	mu      sync.RWMutex
	answers map[answer][]metric.RecordOption // attributes that were made before
}

// answer is what requests are told apart by.
type answer struct {
	job, method string
	status      int
}

// maxAnswers bounds the attributes that are kept: guests choose statuses.
const maxAnswers = 20_000

func newIngress(m metric.Meter) (*Ingress, error) {
	d, err := m.Float64Histogram("http.server.request.duration", metric.WithUnit("s"), metric.WithDescription("Time to answer requests of ingress."))
	return &Ingress{duration: d, answers: map[answer][]metric.RecordOption{}}, err
}

// Request notes an answer. job is empty if none answers there.
func (i *Ingress) Request(ctx context.Context, job, method string, status int, took time.Duration) {
	a := answer{job, method, status}
	i.mu.RLock()
	by := i.answers[a]
	i.mu.RUnlock()
	if by == nil {
		by = []metric.RecordOption{metric.WithAttributeSet(attribute.NewSet(
			attribute.String("job", job), attribute.String("http.request.method", method), attribute.Int("http.response.status_code", status)))}
		i.mu.Lock()
		if len(i.answers) < maxAnswers {
			i.answers[a] = by
		}
		i.mu.Unlock()
	}
	i.duration.Record(ctx, took.Seconds(), by...)
}
