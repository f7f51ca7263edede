package telemetry

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"go.opentelemetry.io/otel/attribute"
	otelprometheus "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/metric"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
)

// family gives what a registry has under a name, with when it was made left out.
func family(t *testing.T, r prometheus.Gatherer, name string) *dto.MetricFamily {
	t.Helper()
	all, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range all {
		if f.GetName() == name {
			for _, m := range f.Metric {
				m.Histogram.CreatedTimestamp = nil
			}
			return f
		}
	}
	t.Fatalf("there is no %s", name)
	return nil
}

func TestAHistogramShowsWhatTheSDKsShows(t *testing.T) {
	r := prometheus.NewRegistry()
	hs := new(histograms)
	exporter, err := otelprometheus.New(otelprometheus.WithRegisterer(r), otelprometheus.WithProducer(hs), otelprometheus.WithoutScopeInfo(), otelprometheus.WithoutTargetInfo())
	if err != nil {
		t.Fatal(err)
	}
	var boundaries []float64
	for _, b := range bounds {
		boundaries = append(boundaries, b.Seconds())
	}
	theirs, err := sdkmetric.NewMeterProvider(sdkmetric.WithReader(exporter)).Meter(scope).
		Float64Histogram("theirs", metric.WithUnit("s"), metric.WithDescription("About."), metric.WithExplicitBucketBoundaries(boundaries...))
	if err != nil {
		t.Fatal(err)
	}
	ours := hs.add("ours", "About.")
	ours.of(attribute.String("job", "unused"))
	for _, job := range []string{"a", "b"} {
		by := attribute.String("job", job)
		d := ours.of(by)
		record := func(took time.Duration) {
			d.add(took)
			theirs.Record(context.Background(), took.Seconds(), metric.WithAttributes(by))
		}
		for _, b := range bounds {
			for _, off := range []time.Duration{-1, 0, 1} {
				record(b + off)
			}
		}
		record(0)
		record(time.Hour)
		for range 1000 {
			record(time.Duration(rand.ExpFloat64() * float64(10*time.Millisecond)))
		}
	}
	a, b := family(t, r, "ours_seconds"), family(t, r, "theirs_seconds")
	b.Name = a.Name
	for _, f := range []*dto.MetricFamily{a, b} {
		for _, m := range f.Metric { // a sum of floats depends on their order
			sum := fmt.Sprintf("%.6f", m.Histogram.GetSampleSum())
			if m.Histogram.SampleSum = nil; sum == "0.000000" {
				t.Error("the sum is 0")
			}
			m.Label = append(m.Label, &dto.LabelPair{Name: new("sum"), Value: &sum})
		}
	}
	if a.String() != b.String() {
		t.Errorf("ours: %s\ntheirs: %s", a, b)
	}
}

func TestADurationBelowZeroCountsAsNone(t *testing.T) {
	h := new(histograms).add("h", "")
	d := h.of()
	d.add(-time.Second)
	if d.sum.Load() != 0 || d.counts[0].Load() != 1 {
		t.Errorf("the sum is %d, the first bucket has %d", d.sum.Load(), d.counts[0].Load())
	}
}

func TestASumThatIsLongerThanADurationIsShownWhole(t *testing.T) {
	h := new(histograms).add("h", "")
	d := h.of()
	const year = 365 * 24 * time.Hour
	var want float64
	for range 50 {
		d.add(20 * year)
		want += (20 * year).Seconds()
		m := h.read(time.Now())
		if got := m.Data.(metricdata.Histogram[float64]).DataPoints[0].Sum; math.Abs(got-want) > 1 {
			t.Fatalf("the sum is %v, want %v", got, want)
		}
	}
}

func TestAnswersBeyondTheBoundAreCountedTogether(t *testing.T) {
	tel, err := New(Options{Process: "worker"})
	if err != nil {
		t.Fatal(err)
	}
	const more = 100
	var all sync.WaitGroup
	for part := range 4 {
		all.Go(func() {
			for i := part; i < maxAnswers+more; i += 4 {
				tel.Ingress().Request(fmt.Sprint("job", i/maxOfJob), "GET", i%maxOfJob, time.Millisecond)
			}
		})
	}
	all.Wait()
	tel.Ingress().Request("another", "GET", 200, time.Millisecond)
	f := family(t, tel.Gatherer(), "http_server_request_duration_seconds")
	if len(f.Metric) != maxAnswers+1 {
		t.Errorf("%d series, want %d", len(f.Metric), maxAnswers+1)
	}
	for _, m := range f.Metric {
		if text := m.String(); strings.Contains(text, "otel_metric_overflow") {
			if n := m.Histogram.GetSampleCount(); n != more+1 {
				t.Errorf("%d answers are beyond the bound, want %d", n, more+1)
			}
			return
		}
	}
	t.Error("answers beyond the bound are lost")
}

func TestAnswersOfOneJobLeaveRoomForOthers(t *testing.T) {
	tel, err := New(Options{Process: "worker"})
	if err != nil {
		t.Fatal(err)
	}
	const jobs = 2 * maxAnswers / 4000 // whose answers might be told apart by as many methods and statuses as there are
	for job := range jobs {
		for i := range 4000 {
			tel.Ingress().Request(fmt.Sprint("bad", job), fmt.Sprint("M", i/400), 200+i%400, time.Millisecond)
		}
	}
	tel.Ingress().Request("good", "GET", 200, time.Millisecond)
	f := family(t, tel.Gatherer(), "http_server_request_duration_seconds")
	if want := jobs*(maxOfJob+1) + 1; len(f.Metric) != want {
		t.Errorf("%d series, want %d", len(f.Metric), want)
	}
	good, rest := false, 0
	for _, m := range f.Metric {
		text := m.String()
		good = good || strings.Contains(text, `"good"`)
		if strings.Contains(text, "otel_metric_overflow") && strings.Contains(text, `"bad`) {
			if n := m.Histogram.GetSampleCount(); n == 4000-maxOfJob {
				rest++
			}
		}
	}
	if !good || rest != jobs {
		t.Errorf("the other job is told apart: %t; the rest of %d jobs is, want %d", good, rest, jobs)
	}
}

func TestEachOfManyJobsHasItsOwnSeries(t *testing.T) {
	const jobs = 2500
	tel, err := New(Options{Process: "worker"})
	if err != nil {
		t.Fatal(err)
	}
	for i := range jobs {
		j := tel.Tasks().Job(fmt.Sprint("job", i))
		j.Invocation("ok", false, time.Millisecond)
		j.CPU(time.Microsecond)
		j.Metric("counter", "c", 1)
	}
	all, err := tel.Gatherer().Gather()
	if err != nil {
		t.Fatal(err)
	}
	have := map[string]int{}
	for _, f := range all {
		have[f.GetName()] = len(f.Metric)
	}
	for _, name := range []string{"faas_invocations_total", "ripstop_task_inflight", "faas_invoke_duration_seconds", "faas_cpu_usage_seconds", "ripstop_guest_counter_total"} {
		if have[name] != jobs {
			t.Errorf("%s has %d series, want %d", name, have[name], jobs)
		}
	}
}
