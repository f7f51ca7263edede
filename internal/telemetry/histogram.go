package telemetry

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/instrumentation"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
)

// bounds are the upper bounds of the histograms' buckets, each included: a task answers in microseconds or in minutes.
var bounds = [...]time.Duration{
	100 * time.Microsecond, 250 * time.Microsecond, 500 * time.Microsecond, time.Millisecond, 2500 * time.Microsecond, 5 * time.Millisecond, 10 * time.Millisecond,
	25 * time.Millisecond, 50 * time.Millisecond, 100 * time.Millisecond, 250 * time.Millisecond, 500 * time.Millisecond,
	time.Second, 2500 * time.Millisecond, 5 * time.Second, 10 * time.Second, 30 * time.Second, time.Minute,
}

// histogram is a histogram of durations (OpenTelemetry metrics data model, "Histogram"), with cumulative temporality. What one of the SDK's takes for a
// duration is felt at each request, and this one takes two additions. Exemplars it has none.
type histogram struct {
	name, about string
	began       time.Time

	mu  sync.Mutex
	all []*durations
}

// durations are those of one set of attributes. It is safe for concurrent use.
type durations struct {
	by     attribute.Set
	sum    atomic.Int64 // but for full
	counts [len(bounds) + 1]atomic.Uint64
	mu     sync.Mutex
	full   float64 // what was taken off sum, in seconds, before that is full: ten thousand requests at once fill it in ten days
}

// much is what a sum is taken down by.
const much = time.Duration(1 << 60)

// seconds is the sum.
func (d *durations) seconds() float64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	sum := time.Duration(d.sum.Load())
	if sum >= much {
		sum = time.Duration(d.sum.Add(-int64(much)))
		d.full += much.Seconds()
	}
	return d.full + sum.Seconds()
}

// add counts a duration; one below zero as zero.
func (d *durations) add(took time.Duration) {
	took = max(took, 0)
	i := 0
	for i < len(bounds) && took > bounds[i] {
		i++
	}
	d.counts[i].Add(1)
	d.sum.Add(int64(took))
}

// of makes the durations of a set of attributes, which nobody else has made.
func (h *histogram) of(by ...attribute.KeyValue) *durations {
	d := &durations{by: attribute.NewSet(by...)}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.all = append(h.all, d)
	return d
}

// read is what was counted up to now.
func (h *histogram) read(now time.Time) metricdata.Metrics {
	h.mu.Lock()
	all := slices.Clone(h.all)
	h.mu.Unlock()
	upTo := make([]float64, len(bounds))
	for i, b := range bounds {
		upTo[i] = b.Seconds()
	}
	data := metricdata.Histogram[float64]{Temporality: metricdata.CumulativeTemporality}
	for _, d := range all {
		p := metricdata.HistogramDataPoint[float64]{Attributes: d.by, StartTime: h.began, Time: now, Bounds: upTo, BucketCounts: make([]uint64, len(d.counts))}
		for i := range d.counts {
			p.BucketCounts[i] = d.counts[i].Load()
			p.Count += p.BucketCounts[i]
		}
		p.Sum = d.seconds()
		if p.Count > 0 {
			data.DataPoints = append(data.DataPoints, p)
		}
	}
	return metricdata.Metrics{Name: h.name, Description: h.about, Unit: "s", Data: data}
}

// histograms gives an exporter what histograms have counted.
type histograms struct {
	mu  sync.Mutex
	all []*histogram
}

var _ sdkmetric.Producer = (*histograms)(nil)

// add makes a histogram under a name.
func (hs *histograms) add(name, about string) *histogram {
	h := &histogram{name: name, about: about, began: time.Now()}
	hs.mu.Lock()
	defer hs.mu.Unlock()
	hs.all = append(hs.all, h)
	return h
}

// Produce implements sdkmetric.Producer.
func (hs *histograms) Produce(context.Context) ([]metricdata.ScopeMetrics, error) {
	hs.mu.Lock()
	all := slices.Clone(hs.all)
	hs.mu.Unlock()
	var ms []metricdata.Metrics
	for _, h := range all {
		if m := h.read(time.Now()); len(m.Data.(metricdata.Histogram[float64]).DataPoints) > 0 {
			ms = append(ms, m)
		}
	}
	return []metricdata.ScopeMetrics{{Scope: instrumentation.Scope{Name: scope}, Metrics: ms}}, nil
}
