//go:build unix

package main

import (
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	collectorpb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// collector takes spans by OTLP/HTTP.
type collector struct {
	t  *testing.T
	mu sync.Mutex
	by map[string]*tracepb.Span // by name
	of map[string][]string      // attributes of the spans' resources, by span name
}

func (c *collector) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b, err := io.ReadAll(r.Body)
	var got collectorpb.ExportTraceServiceRequest
	if err != nil || r.Method != http.MethodPost || r.URL.Path != "/v1/traces" || r.Header.Get("Content-Type") != "application/x-protobuf" || proto.Unmarshal(b, &got) != nil {
		c.t.Errorf("%s %s %v: %d bytes, %v", r.Method, r.URL, r.Header, len(b), err)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, rs := range got.ResourceSpans {
		var attributes []string
		for _, kv := range rs.Resource.Attributes {
			attributes = append(attributes, kv.Key+"="+kv.Value.GetStringValue())
		}
		for _, ss := range rs.ScopeSpans {
			for _, span := range ss.Spans {
				c.by[span.Name], c.of[span.Name] = span, attributes
			}
		}
	}
	w.Header().Set("Content-Type", "application/x-protobuf")
	answer, _ := proto.Marshal(&collectorpb.ExportTraceServiceResponse{})
	_, _ = w.Write(answer)
}

func (c *collector) span(name string) *tracepb.Span {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.by[name]
}

func TestSpansLeadFromTheClientThroughIngressToTheGuest(t *testing.T) {
	c := &collector{t: t, by: map[string]*tracepb.Span{}, of: map[string][]string{}}
	collecting := httptest.NewServer(c)
	defer collecting.Close()
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collecting.URL)
	s := startServer(t)
	s.deploy("probe", buildProbe(t), "limits: {time: 20s}\ncapabilities: {kv: [things]}\n")
	const traceID, clientSpan = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
	r, _ := http.NewRequestWithContext(t.Context(), "GET", "http://"+s.ingress+"/probe/trace", nil)
	r.Header.Set("Traceparent", "00-"+traceID+"-"+clientSpan+"-01")
	r.Header.Set("Tracestate", "vendor=1")
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	seen, err := io.ReadAll(resp.Body) // the traceparent that the guest was given
	if err != nil {
		t.Fatal(err)
	}
	s.until("both spans", func() bool { return c.span("ingress probe") != nil && c.span("invoke probe") != nil })
	ingress, invoke := c.span("ingress probe"), c.span("invoke probe")
	for _, span := range []*tracepb.Span{ingress, invoke} {
		if hex.EncodeToString(span.TraceId) != traceID || span.TraceState != "vendor=1" || span.EndTimeUnixNano <= span.StartTimeUnixNano {
			t.Errorf("%s: %v", span.Name, span)
		}
		if of := c.of[span.Name]; !slices.Contains(of, "service.name=ripstop") || !slices.Contains(of, "ripstop.process=worker") {
			t.Errorf("%s is of %v", span.Name, of)
		}
	}
	if hex.EncodeToString(ingress.ParentSpanId) != clientSpan || ingress.Kind != tracepb.Span_SPAN_KIND_SERVER {
		t.Errorf("ingress: %v", ingress)
	}
	if string(invoke.ParentSpanId) != string(ingress.SpanId) {
		t.Errorf("invoke: %v", invoke)
	}
	if want := fmt.Sprintf("00-%s-%x-01", traceID, invoke.SpanId); strings.TrimSpace(string(seen)) != want {
		t.Errorf("the guest saw %q, want %s", seen, want)
	}
	attributes := map[string]string{}
	for _, kv := range ingress.Attributes {
		attributes[kv.Key] = kv.Value.GetStringValue() + fmt.Sprint(kv.Value.GetIntValue())
	}
	if attributes["ripstop.job"] != "probe0" || attributes["http.response.status_code"] != "200" || attributes["faas.invocation_id"] != resp.Header.Get("Ripstop-Invocation")+"0" {
		t.Errorf("attributes of ingress: %v", attributes)
	}

	s.get("/probe/kv")
	s.get("/probe/secret?name=other")
	var shown []string
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(strings.Join(shown, "\n"))
		}
	})
	s.until("host calls by function and outcome", func() bool {
		_, b := s.call("GET", "/metrics", nil, "")
		text := string(b)
		shown = slices.DeleteFunc(strings.Split(text, "\n"), func(line string) bool {
			return !strings.HasPrefix(line, "ripstop_hostcalls") && !strings.HasPrefix(line, "faas_inv") && !strings.HasPrefix(line, "ripstop_sandbox")
		})
		for _, series := range []string{
			`ripstop_hostcalls_total{function="ripstop_task_1.kv_put",job="probe",outcome="ok"} `,
			`ripstop_hostcalls_total{function="ripstop_task_1.secret_get",job="probe",outcome="denied"} 1`,
			`ripstop_hostcalls_total{function="wasi_snapshot_preview1.`,
			`faas_invocations_total{job="probe",outcome="ok"} 3`,
			`ripstop_sandbox_returns_total{job="probe",outcome="returned"} `,
			`http_server_request_duration_seconds_count{`,
		} {
			if !strings.Contains(text, series) {
				return false
			}
		}
		return true
	})
}
