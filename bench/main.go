// Command bench measures Ripstop beside what users would pick instead, in one run on one machine, prints a table and
// writes out/report.json. A peer whose tools are missing is left out with a note.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"sort"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"text/tabwriter"
	"time"
)

// Figure is one line of the report.
type Figure struct {
	Name    string  `json:"name"`
	Value   float64 `json:"value"`
	Unit    string  `json:"unit"`
	Against string  `json:"against"`
	Ratio   float64 `json:"ratio"` // Value over the other's, in the same unit
	Target  string  `json:"target,omitempty"`
	Note    string  `json:"note,omitempty"`
}

func main() {
	root := flag.String("root", "..", "the project's root")
	seconds := flag.Duration("time", 3*time.Second, "how long each throughput is measured, per round")
	rounds := flag.Int("rounds", 3, "rounds; the median counts")
	flag.Parse()
	var all []Figure
	for _, part := range []func() ([]Figure, error){
		func() ([]Figure, error) { return hostCalls(*root, *rounds) },
		func() ([]Figure, error) { return endpoints(*root, *seconds, *rounds) },
	} {
		figs, err := part()
		if err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			os.Exit(1)
		}
		all = append(all, figs...)
	}
	w := tabwriter.NewWriter(os.Stdout, 2, 8, 2, ' ', 0)
	fmt.Fprintln(w, "WHAT\tVALUE\tUNIT\tAGAINST\tRATIO\tTARGET\tNOTE")
	for _, f := range all {
		fmt.Fprintf(w, "%s\t%.4g\t%s\t%s\t%.2f\t%s\t%s\n", f.Name, f.Value, f.Unit, f.Against, f.Ratio, f.Target, f.Note)
	}
	w.Flush()
	out := filepath.Join(*root, "bench", "out")
	if err := os.MkdirAll(out, 0o755); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	b, err := json.MarshalIndent(all, "", "  ")
	if err == nil {
		err = os.WriteFile(filepath.Join(out, "report.json"), append(b, '\n'), 0o644)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench: write report:", err)
		os.Exit(1)
	}
}

func median(xs []float64) float64 {
	if len(xs) == 0 {
		return 0
	}
	s := append([]float64(nil), xs...)
	sort.Float64s(s)
	return s[len(s)/2]
}

var benchLine = regexp.MustCompile(`^(Benchmark\S+?)(?:-\d+)?\s+\d+\s+([\d.]+) ns/op.*?(\d+) allocs/op`)

// hostCalls runs the Go benchmarks of host calls (package trace has them all side by side) and compares each with the bare one of the same run.
func hostCalls(root string, rounds int) ([]Figure, error) {
	cmd := exec.Command("go", "test", "-run", "^$", "-bench", "HostCall", "-benchmem", "-benchtime", "300ms", "-count", strconv.Itoa(rounds), "./runtime/trace")
	cmd.Dir = root
	cmd.Stderr = os.Stderr
	b, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("run host call benchmarks: %w\n%s", err, b)
	}
	ns, allocs := map[string][]float64{}, map[string]float64{}
	for _, line := range strings.Split(string(b), "\n") {
		m := benchLine.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		v, _ := strconv.ParseFloat(m[2], 64)
		a, _ := strconv.ParseFloat(m[3], 64)
		name := strings.TrimPrefix(m[1], "Benchmark")
		ns[name] = append(ns[name], v)
		allocs[name] = max(allocs[name], a)
	}
	var figs []Figure
	for name, vs := range ns {
		base, kind, ok := strings.Cut(name, "/")
		bare := ns[base+"/bare"]
		if !ok || kind == "bare" || len(bare) == 0 {
			continue
		}
		target := "≤ 3"
		if kind == "unwatched" {
			target = "≤ 1.2"
		}
		figs = append(figs, Figure{Name: "host call, " + kind, Value: median(vs), Unit: "ns", Against: "wazero's bare host call",
			Ratio: median(vs) / median(bare), Target: target, Note: fmt.Sprintf("%.0f allocations", allocs[name])})
	}
	sort.Slice(figs, func(i, j int) bool { return figs[i].Name < figs[j].Name })
	return figs, nil
}

// load sends requests to url from 16 connections for d and answers how many succeeded a second.
func load(url string, d time.Duration) (float64, error) {
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 32, DisableCompression: true}}
	defer client.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	var n, bad atomic.Int64
	var wg sync.WaitGroup
	began := time.Now()
	for range 16 {
		wg.Go(func() {
			for ctx.Err() == nil {
				resp, err := client.Get(url)
				if err != nil {
					bad.Add(1)
					continue
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
				if resp.StatusCode == http.StatusOK {
					n.Add(1)
				} else {
					bad.Add(1)
				}
			}
		})
	}
	wg.Wait()
	if bad.Load() > 0 {
		return 0, fmt.Errorf("%d of %d requests to %s failed", bad.Load(), bad.Load()+n.Load(), url)
	}
	return float64(n.Load()) / time.Since(began).Seconds(), nil
}

func freeAddr() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

func waitFor(url string) error {
	for range 100 {
		resp, err := http.Get(url)
		if err == nil {
			resp.Body.Close()
			return nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	return fmt.Errorf("%s did not answer within 10 s", url)
}
