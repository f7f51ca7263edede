package agent

import (
	"bufio"
	"context"
	"encoding/json"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ripstop-vm/ripstop/internal/clock"
	"github.com/ripstop-vm/ripstop/internal/wire"
)

// TestReportsFitWhatTheControlProcessTakes keeps a guest from ending its worker with a long text.
func TestReportsFitWhatTheControlProcessTakes(t *testing.T) {
	s := newReports(clock.System)
	text := strings.Repeat("\x00", 10<<20)
	problem := &wire.Problem{Detail: text}
	s.offer(wire.Report{Kind: wire.ReportLog, Text: text})
	s.must(wire.Report{Kind: wire.ReportPrepared, Problem: problem})
	for range 2 {
		b, err := json.Marshal((<-s.queue).report)
		if err != nil || len(b) > 1<<20-100 {
			t.Errorf("a report of %d bytes: %v", len(b), err)
		}
	}
	if len(problem.Detail) != len(text) {
		t.Error("the caller's problem was changed")
	}
}

// reporting is reports that run, and what read gets of them.
func reporting(t *testing.T, read func(line string)) (s *reports, cancel func()) {
	t.Helper()
	ln, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	srv := &http.Server{Protocols: protocols, Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		rw.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(rw).Flush()
		in := bufio.NewReader(r.Body)
		for {
			line, err := in.ReadString('\n')
			if err != nil {
				return
			}
			read(line)
		}
	})}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ln) }()
	c, err := net.Dial("unix", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	l, err := NewLink(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	s = newReports(clock.System)
	ctx, end := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- s.run(ctx, l) }()
	var once sync.Once
	cancel = func() {
		once.Do(func() {
			end()
			if err := <-ran; err != nil {
				t.Error(err)
			}
			_ = l.Close()
			_ = srv.Close()
			<-served
		})
	}
	t.Cleanup(cancel)
	return s, cancel
}

func TestWhatWasReportedBeforeTheEndIsRead(t *testing.T) {
	for _, lines := range []int{0, 1, 200} {
		for range 20 {
			var got atomic.Int64
			s, cancel := reporting(t, func(line string) {
				if strings.Contains(line, "xxx") {
					got.Add(1)
				}
			})
			s.flush(t.Context(), wire.Report{Kind: wire.ReportReady}) // the next ones are gathered
			for range lines {
				s.offer(wire.Report{Kind: wire.ReportLog, Job: "j", Text: "xxx"})
			}
			ctx, end := context.WithTimeout(t.Context(), time.Minute)
			s.settle(ctx)
			end()
			cancel()
			if n := got.Load(); n != int64(lines) {
				t.Fatalf("of %d lines %d were read", lines, n)
			}
		}
	}
}

func TestAFloodOfLogsHoldsUpNobodyWhoWaits(t *testing.T) {
	s, _ := reporting(t, func(string) {})
	stop := make(chan struct{})
	var flood sync.WaitGroup
	for range 2 {
		flood.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					s.offer(wire.Report{Kind: wire.ReportLog, Text: "x"})
				}
			}
		})
	}
	defer flood.Wait()
	defer close(stop)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // it never ended
	defer cancel()
	for range 5 {
		if s.flush(ctx, wire.Report{Kind: wire.ReportRunning}); ctx.Err() != nil {
			t.Fatal("who waited for a report waited for the flood to end")
		}
	}
}

func TestReportsThatNeverRanSettleNobody(t *testing.T) {
	s := newReports(clock.System)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s.settle(ctx)
}
