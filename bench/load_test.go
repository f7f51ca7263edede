package main

import (
	"fmt"
	"maps"
	"math"
	"strings"
	"testing"
)

// wrkPrinted is what wrk 4.1.0 prints, with more lines of its own in front of the rate.
func wrkPrinted(rate, p50, p99, more string) string {
	return fmt.Sprintf(`Running 1s test @ http://127.0.0.1:8080/
  1 threads and 2 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     7.71ms   13.74ms  84.27ms   89.40%%
    Req/Sec   645.80    249.94     0.97k    70.00%%
  Latency Distribution
     50%%    %s
     75%%    7.25ms
     90%%   23.07ms
     99%%   %s
  662 requests in 1.05s, 0.97MB read
%sRequests/sec:    %s
Transfer/sec:      0.93MB
`, p50, p99, more, rate)
}

func TestWhatWrkPrintsIsRead(t *testing.T) {
	for name, c := range map[string]struct {
		out  string
		want values
	}{
		"milliseconds":             {wrkPrinted("632.29", "1.60ms", "68.46ms", ""), values{"rate": 632.29, "p50": 1.6, "p99": 68.46}},
		"microseconds and seconds": {wrkPrinted("65000.00", "635.00us", "1.50s", ""), values{"rate": 65000, "p50": 0.635, "p99": 1500}},
		"minutes":                  {wrkPrinted("0.10", "1.00m", "1.50m", ""), values{"rate": 0.1, "p50": 60_000, "p99": 90_000}},
	} {
		got, err := readWrk(c.out)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for k, want := range c.want {
			if math.Abs(got[k]-want) > 1e-9*want {
				t.Errorf("%s: %s is %v, want %v", name, k, got[k], want)
			}
		}
		if len(got) != len(c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

func TestWhatIsNoMeasurementIsRefused(t *testing.T) {
	good := wrkPrinted("632.29", "1.60ms", "68.46ms", "")
	for name, c := range map[string]struct{ out, says string }{
		"other statuses":     {wrkPrinted("912.29", "1.37ms", "38.81ms", "  Non-2xx or 3xx responses: 914\n"), "Non-2xx or 3xx responses: 914"},
		"failed connections": {wrkPrinted("912.29", "1.37ms", "38.81ms", "  Socket errors: connect 0, read 3, write 0, timeout 0\n"), "Socket errors: connect 0, read 3"},
		"nothing":            {"", "something else"},
		"no connection":      {"unable to connect to 127.0.0.1:18999 Connection refused\n", "unable to connect"},
		"cut short":          {good[:strings.Index(good, "Requests/sec")], "something else"},
		"no distribution":    {strings.ReplaceAll(good, "99%", "98%"), "something else"},
		"a rate of words":    {strings.Replace(good, "632.29", "many", 1), `"Requests/sec:    many"`},
		"a rate of nan":      {strings.Replace(good, "632.29", "-nan", 1), "-nan"},
		"no requests":        {strings.Replace(good, "632.29", "0.00", 1), "0.00"},
		"an endless rate":    {strings.Replace(good, "632.29", "inf", 1), "inf"},
		"a latency of words": {strings.Replace(good, "1.60ms", "soon", 1), "soon"},
		"a negative latency": {strings.Replace(good, "1.60ms", "-1.60ms", 1), "-1.60ms"},
		"said twice":         {good + "Requests/sec:    1.00\n", "twice"},
	} {
		got, err := readWrk(c.out)
		if err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, %v; want an error that says %q", name, got, err, c.says)
		}
	}
}

// FuzzReadWrk: whatever it prints is refused, or gives a rate and latencies that a report may hold, and that lines of no interest leave alone.
func FuzzReadWrk(f *testing.F) {
	f.Add(wrkPrinted("632.29", "1.60ms", "68.46ms", ""))
	f.Add(wrkPrinted("65000.00", "635.00us", "1.50s", "  Non-2xx or 3xx responses: 914\n"))
	f.Add("Requests/sec: 1e400\n50% 1h\n99% 9999999999h\n")
	f.Add("Requests/sec: nan\n50% -1s\n99% 1s\n")
	f.Fuzz(func(t *testing.T, out string) {
		got, err := readWrk(out)
		if err != nil {
			return
		}
		if len(got) != 3 {
			t.Fatalf("%v", got)
		}
		for k, v := range got {
			if math.IsNaN(v) || math.IsInf(v, 0) || v < 0 || k == "rate" && v == 0 {
				t.Errorf("%s is %v", k, v)
			}
		}
		again, err := readWrk("Running 1s test @ http://127.0.0.1/\n" + out + "\nTransfer/sec:      0.93MB\n")
		if err != nil || !maps.Equal(got, again) {
			t.Errorf("%v, with more lines around it %v (%v)", got, again, err)
		}
	})
}
