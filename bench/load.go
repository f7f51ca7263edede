package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// wrkInstall says how to get the better of the two load generators.
const wrkInstall = "Debian: apt-get install wrk"

// connections is how many clients a throughput is measured with.
const connections = 32

// throughput loads url from 32 connections for b.time, from a process of its own: wrk, or one of ours if that is not there.
// It answers "rate" (requests/s), "p50" and "p99" (ms).
func (b *bench) throughput(ctx context.Context, url string) (values, error) {
	seconds := strconv.Itoa(max(1, int(b.time.Seconds())))
	wrk, err := find("wrk", wrkInstall)
	if err != nil {
		return b.load(ctx, loadOptions{url: url, connections: connections, time: b.time})
	}
	out, err := output(ctx, b.cache, nil, wrk, "--latency", "-t1", fmt.Sprintf("-c%d", connections), "-d"+seconds, url)
	if err != nil {
		return nil, err
	}
	vs, err := readWrk(string(out))
	if err != nil {
		return nil, fmt.Errorf("load %s: %w", url, err)
	}
	return vs, nil
}

// loaded is a side that is loaded as hard as it can be, for "rate", and then at a fixed rate of requests a second, for "p50" and "p99".
func (b *bench) loaded(name, url string, fixed float64) side {
	return side{name, func(ctx context.Context) (values, error) {
		vs, err := b.throughput(ctx, url)
		if err != nil {
			return nil, err
		}
		slow, err := b.load(ctx, loadOptions{url: url, connections: 16, rate: fixed, time: b.time})
		if err != nil {
			return nil, err
		}
		return values{"rate": vs["rate"], "p50": slow["p50"], "p99": slow["p99"]}, nil
	}}
}

// generator says what throughput loads with.
func generator() string {
	if _, err := exec.LookPath("wrk"); err != nil {
		return "a Go client; " + wrkInstall
	}
	return "wrk"
}

var wrkLine = regexp.MustCompile(`(?m)^\s*(Requests/sec:|50%|99%|Non-2xx or 3xx responses:|Socket errors:)\s+(.*)$`)

// readWrk reads what wrk printed. Requests that failed are an error, and so is what no measurement gives.
func readWrk(out string) (values, error) {
	vs := values{}
	for _, m := range wrkLine.FindAllStringSubmatch(out, -1) {
		line, text := strings.TrimSpace(m[0]), strings.TrimSpace(m[2])
		var name string
		var v float64
		var err error
		switch m[1] {
		case "Requests/sec:":
			name = "rate"
			if v, err = strconv.ParseFloat(text, 64); err == nil && !(v > 0 && v <= math.MaxFloat64) {
				err = errors.New("no rate")
			}
		case "50%", "99%":
			name = "p" + strings.TrimSuffix(m[1], "%")
			var d time.Duration
			if d, err = time.ParseDuration(text); err == nil && d < 0 {
				err = errors.New("less than no time")
			}
			v = d.Seconds() * 1e3
		default:
			return nil, errors.New(line)
		}
		if err != nil {
			return nil, fmt.Errorf("read %q: %w", line, err)
		}
		if _, ok := vs[name]; ok {
			return nil, fmt.Errorf("wrk printed twice: %q", line)
		}
		vs[name] = v
	}
	if len(vs) != 3 {
		return nil, fmt.Errorf("wrk printed something else: %q", out)
	}
	return vs, nil
}

// loadOptions are what a load client of ours is to do.
type loadOptions struct {
	url         string
	connections int
	rate        float64       // requests a second at fixed moments, late or not; 0: one after another on each connection
	time        time.Duration // how long
	timeout     time.Duration // of a request, from when it was due; 0 means 5 s
	tolerant    bool          // requests may fail: they are counted, and took as long as the timeout at most
}

// load runs a load client in a process of its own. It answers "rate" (answered requests/s), "p50", "p99", "most" (ms) and "failed".
func (b *bench) load(ctx context.Context, o loadOptions) (values, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	out, err := output(ctx, b.cache, []string{childVariable + "=load"}, self, "-url", o.url, "-connections", strconv.Itoa(o.connections),
		"-rate", strconv.FormatFloat(o.rate, 'g', -1, 64), "-time", o.time.String(), "-timeout", cmp.Or(o.timeout, 5*time.Second).String())
	if err != nil {
		return nil, err
	}
	vs := values{}
	if err := json.Unmarshal(out, &vs); err != nil {
		return nil, fmt.Errorf("read the load client's answer: %w", err)
	}
	if vs["failed"] > 0 && !o.tolerant {
		return nil, fmt.Errorf("%.0f requests to %s failed", vs["failed"], o.url)
	}
	return vs, nil
}

// loadClient is the child that load starts.
func loadClient(args []string) error {
	var o loadOptions
	f := flag.NewFlagSet("load", flag.ContinueOnError)
	f.StringVar(&o.url, "url", "", "")
	f.IntVar(&o.connections, "connections", 1, "")
	f.Float64Var(&o.rate, "rate", 0, "")
	f.DurationVar(&o.time, "time", time.Second, "")
	f.DurationVar(&o.timeout, "timeout", time.Second, "")
	if err := f.Parse(args); err != nil {
		return err
	}
	c := newLoader(o)
	var wg sync.WaitGroup
	for range o.connections {
		wg.Go(c.work)
	}
	c.feed()
	wg.Wait()
	return json.NewEncoder(os.Stdout).Encode(c.result())
}

// loader sends requests and keeps what they took.
type loader struct {
	loadOptions
	client http.Client
	begin  time.Time
	due    chan time.Time // when requests are to be sent

	mu     sync.Mutex
	took   []time.Duration
	failed int
}

func newLoader(o loadOptions) *loader {
	return &loader{loadOptions: o, begin: time.Now(), due: make(chan time.Time, 1<<16), client: http.Client{
		Transport: &http.Transport{MaxIdleConnsPerHost: o.connections, DisableCompression: true}}}
}

// feed says when requests are due. Those that nobody could send yet wait, and waiting counts as taking time.
func (l *loader) feed() {
	defer close(l.due)
	if l.rate == 0 {
		return
	}
	for n := 0; ; n++ {
		at := l.begin.Add(time.Duration(float64(n) / l.rate * float64(time.Second)))
		if at.Sub(l.begin) >= l.time {
			return
		}
		time.Sleep(time.Until(at))
		l.due <- at
	}
}

func (l *loader) work() {
	if l.rate > 0 {
		for at := range l.due {
			l.send(at)
		}
		return
	}
	for now := l.begin; now.Sub(l.begin) < l.time; now = time.Now() {
		l.send(now)
	}
}

func (l *loader) send(at time.Time) {
	ctx, cancel := context.WithDeadline(context.Background(), at.Add(l.timeout)) // one that is too late already fails at once
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, l.url, nil)
	var resp *http.Response
	if err == nil {
		resp, err = l.client.Do(req)
	}
	ok := err == nil && resp.StatusCode == http.StatusOK
	if err == nil {
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			ok = false
		}
		resp.Body.Close()
	}
	took := min(time.Since(at), l.timeout)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.took = append(l.took, took)
	if !ok {
		l.failed++
	}
}

func (l *loader) result() values {
	slices.Sort(l.took)
	at := func(q float64) float64 {
		if len(l.took) == 0 {
			return 0
		}
		return l.took[int(q*float64(len(l.took)-1))].Seconds() * 1e3
	}
	return values{
		"rate": float64(len(l.took)-l.failed) / time.Since(l.begin).Seconds(),
		"p50":  at(0.5), "p99": at(0.99), "most": at(1), "failed": float64(l.failed),
	}
}
