package telemetry

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// maxNames bounds the metrics that one job's guests may name; further ones are left out.
const maxNames = 100

// Tasks are the instruments of what tasks do: package agent's Recorder. Each invocation counts several things, so that counts are plain
// numbers here, read when metrics are gathered: through an instrument each would take as long as a small guest's whole call.
type Tasks struct {
	duration, start, cpu *histogram
	guestCounter         metric.Float64Counter
	guestGauge           metric.Float64Gauge
	guestHistogram       metric.Float64Histogram
	hostcalls            atomic.Pointer[func(each func(job, function, outcome string, n uint64))]
	processor            atomic.Pointer[func(each func(job string, used, waited time.Duration))]

	jobsMu sync.RWMutex
	jobs   map[string]*Job

	mu    sync.Mutex
	names map[string]map[string]bool // of guests' metrics, by job
}

// Job are the instruments of what one job's tasks do: package agent's JobRecorder.
type Job struct {
	tasks                                  *Tasks
	name                                   string
	coldstarts, errors, timeouts, inflight atomic.Int64
	outcomes, returns                      outcomes
	duration, start, cpu                   *durations
	observe                                []metric.ObserveOption
}

// outcomes counts by name, of which there are few.
type outcomes struct {
	job  string
	mu   sync.Mutex // of who adds
	list atomic.Pointer[[]*outcome]
}

type outcome struct {
	name    string
	n       atomic.Int64
	observe []metric.ObserveOption
}

func (o *outcomes) all() []*outcome {
	if l := o.list.Load(); l != nil {
		return *l
	}
	return nil
}

func (o *outcomes) find(name string) *outcome {
	for _, have := range o.all() {
		if have.name == name {
			return have
		}
	}
	return nil
}

func (o *outcomes) add(name string) {
	have := o.find(name)
	if have == nil {
		have = o.begin(name)
	}
	have.n.Add(1)
}

func (o *outcomes) begin(name string) *outcome {
	o.mu.Lock()
	defer o.mu.Unlock()
	if have := o.find(name); have != nil {
		return have
	}
	set := attribute.NewSet(attribute.String("job", o.job), attribute.String("outcome", name))
	have := &outcome{name: name, observe: []metric.ObserveOption{metric.WithAttributeSet(set)}}
	l := append(slices.Clone(o.all()), have)
	o.list.Store(&l)
	return have
}

func (o *outcomes) each(observe func(n int64, by ...metric.ObserveOption)) {
	for _, have := range o.all() {
		observe(have.n.Load(), have.observe...)
	}
}

// Job gives the instruments of one job.
func (t *Tasks) Job(name string) *Job {
	t.jobsMu.RLock()
	c := t.jobs[name]
	t.jobsMu.RUnlock()
	if c != nil {
		return c
	}
	t.jobsMu.Lock()
	defer t.jobsMu.Unlock()
	if c = t.jobs[name]; c == nil {
		by := attribute.String("job", name)
		c = &Job{tasks: t, name: name, duration: t.duration.of(by), start: t.start.of(by), cpu: t.cpu.of(by), observe: []metric.ObserveOption{metric.WithAttributeSet(attribute.NewSet(by))}}
		c.outcomes.job, c.returns.job = name, name
		t.jobs[name] = c
	}
	return c
}

// eachJob has read answer what an instrument shows of each job, when it is asked.
func (t *Tasks) eachJob(read func(c *Job, observe func(n int64, by ...metric.ObserveOption))) metric.Int64Callback {
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
func happened(of func(*Job) *atomic.Int64) func(*Job, func(int64, ...metric.ObserveOption)) {
	return func(c *Job, observe func(int64, ...metric.ObserveOption)) {
		if n := of(c).Load(); n != 0 {
			observe(n, c.observe...)
		}
	}
}

func newTasks(m metric.Meter, hs *histograms) (*Tasks, error) {
	t := &Tasks{names: map[string]map[string]bool{}, jobs: map[string]*Job{}}
	t.duration = hs.add("faas.invoke_duration", "Time from the arrival of a request to its end.")
	t.start = hs.add("faas.init_duration", "Time to make a sandbox.")
	t.cpu = hs.add("faas.cpu_usage", "Time at the processor of an invocation's guest.")
	var errs [13]error
	_, errs[0] = m.Int64ObservableCounter("faas.invocations", metric.WithUnit("{invocation}"), metric.WithDescription("Invocations that ended, by outcome."),
		metric.WithInt64Callback(t.eachJob(func(c *Job, observe func(int64, ...metric.ObserveOption)) { c.outcomes.each(observe) })))
	_, errs[1] = m.Int64ObservableCounter("faas.coldstarts", metric.WithUnit("{coldstart}"), metric.WithDescription("Invocations for which a sandbox had to be made first."),
		metric.WithInt64Callback(t.eachJob(happened(func(c *Job) *atomic.Int64 { return &c.coldstarts }))))
	_, errs[2] = m.Int64ObservableCounter("faas.errors", metric.WithUnit("{error}"), metric.WithDescription("Invocations that failed."),
		metric.WithInt64Callback(t.eachJob(happened(func(c *Job) *atomic.Int64 { return &c.errors }))))
	_, errs[3] = m.Int64ObservableCounter("faas.timeouts", metric.WithUnit("{timeout}"), metric.WithDescription("Invocations ended at their deadline."),
		metric.WithInt64Callback(t.eachJob(happened(func(c *Job) *atomic.Int64 { return &c.timeouts }))))
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
		metric.WithInt64Callback(t.eachJob(func(c *Job, observe func(int64, ...metric.ObserveOption)) {
			observe(c.inflight.Load(), c.observe...)
		})))
	t.guestCounter, errs[6] = m.Float64Counter("ripstop.guest.counter", metric.WithDescription("Counters of guests, by name."))
	t.guestGauge, errs[7] = m.Float64Gauge("ripstop.guest.gauge", metric.WithDescription("Gauges of guests, by name."))
	t.guestHistogram, errs[8] = m.Float64Histogram("ripstop.guest.histogram", metric.WithDescription("Histograms of guests, by name."))
	_, errs[9] = m.Int64ObservableCounter("ripstop.sandbox.returns", metric.WithUnit("{sandbox}"), metric.WithDescription("Sandboxes that were to be as new after an invocation, by how that went."),
		metric.WithInt64Callback(t.eachJob(func(c *Job, observe func(int64, ...metric.ObserveOption)) { c.returns.each(observe) })))
	used, err := m.Float64ObservableCounter("ripstop.task.cpu", metric.WithUnit("s"), metric.WithDescription("Time at the processor of guests, their starts and what was done for them included."))
	errs[10] = err
	waited, err := m.Float64ObservableCounter("ripstop.task.cpu_waited", metric.WithUnit("s"), metric.WithDescription("Time for which guests waited for their turn at the processor."))
	errs[11] = err
	_, errs[12] = m.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		if read := t.processor.Load(); read != nil {
			(*read)(func(job string, u, w time.Duration) {
				o.ObserveFloat64(used, u.Seconds(), t.Job(job).observe...)
				o.ObserveFloat64(waited, w.Seconds(), t.Job(job).observe...)
			})
		}
		return nil
	}, used, waited)
	return t, errors.Join(errs[:]...)
}

// HostCalls has the counts of host calls read whenever metrics are gathered.
func (t *Tasks) HostCalls(read func(each func(job, function, outcome string, n uint64))) {
	t.hostcalls.Store(&read)
}

// Processor has what jobs used of the processor read whenever metrics are gathered.
func (t *Tasks) Processor(read func(each func(job string, used, waited time.Duration))) {
	t.processor.Store(&read)
}

// Invocation notes one that ended.
func (j *Job) Invocation(outcome string, cold bool, took time.Duration) {
	j.outcomes.add(outcome)
	if cold {
		j.coldstarts.Add(1)
	}
	switch outcome {
	case "error", "fault":
		j.errors.Add(1)
	case "timeout":
		j.timeouts.Add(1)
	case "rejected":
		return
	}
	j.duration.add(took)
}

// CPU notes what an invocation used of the processor.
func (j *Job) CPU(used time.Duration) { j.cpu.add(used) }

// Start notes a sandbox that was made.
func (j *Job) Start(took time.Duration) { j.start.add(took) }

// Return notes a sandbox that returned to its image, or why it was thrown away instead.
func (j *Job) Return(outcome string) { j.returns.add(outcome) }

// Inflight notes invocations that began or ended.
func (j *Job) Inflight(change int64) { j.inflight.Add(change) }

// Metric notes what a guest measured.
func (j *Job) Metric(kind, name string, value float64) { j.tasks.metric(j.name, kind, name, value) }

func (t *Tasks) metric(job, kind, name string, value float64) {
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
	duration *histogram

	mu       sync.RWMutex
	answers  map[answer]*durations
	jobs     map[string]*jobAnswers
	overflow *durations // of answers beyond maxAnswers; nil: there are none
}

// jobAnswers are what was kept of one job.
type jobAnswers struct {
	kept     int
	overflow *durations // of its answers beyond maxOfJob; nil: there are none
}

// answer is what requests are told apart by.
type answer struct {
	job, method string
	status      int
}

// Bounds of the answers that are told apart, in all and of one job: guests choose statuses, and clients methods, so that one job could take what all
// have. A worker has up to ten thousand jobs.
const (
	maxAnswers = 100_000
	maxOfJob   = 100
)

func newIngress(hs *histograms) *Ingress {
	return &Ingress{duration: hs.add("http.server.request.duration", "Time to answer requests of ingress."), answers: map[answer]*durations{}, jobs: map[string]*jobAnswers{}}
}

// Request notes an answer. job is empty if none answers there.
func (i *Ingress) Request(job, method string, status int, took time.Duration) {
	a := answer{job, method, status}
	i.mu.RLock()
	d := i.answers[a]
	i.mu.RUnlock()
	if d == nil {
		d = i.add(a)
	}
	d.add(took)
}

func (i *Ingress) add(a answer) *durations {
	i.mu.Lock()
	defer i.mu.Unlock()
	if d := i.answers[a]; d != nil {
		return d
	}
	beyond := attribute.Bool("otel.metric.overflow", true) // OpenTelemetry metrics SDK, "Overflow attribute"
	j := i.jobs[a.job]
	switch {
	case j != nil && j.overflow != nil:
		return j.overflow
	case len(i.answers) >= maxAnswers:
		if i.overflow == nil {
			i.overflow = i.duration.of(beyond)
		}
		return i.overflow
	case j == nil:
		j = new(jobAnswers)
		i.jobs[a.job] = j
	case j.kept >= maxOfJob:
		j.overflow = i.duration.of(attribute.String("job", a.job), beyond)
		return j.overflow
	}
	j.kept++
	d := i.duration.of(attribute.String("job", a.job), attribute.String("http.request.method", a.method), attribute.Int("http.response.status_code", a.status))
	i.answers[a] = d
	return d
}
