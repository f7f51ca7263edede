//go:build unix

package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	w "github.com/ripstop-vm/ripstop/internal/wasmtest"
)

// hostile is a guest that means harm, and how it ends.
type hostile struct {
	module   []byte
	manifest string
	refused  string  // the code of the problem that its deploy ends with; empty: it is deployed
	status   int     // of its requests
	code     string  // of their problems
	most     float64 // how many times as long a neighbour may take; 0 means twice
	voices   int     // clients that ask for it again and again; 0 means 8. One that ends at once has one: many would be a flood of requests
}

func (h hostile) clients() int { return cmp.Or(h.voices, 8) }

const shortTime = "limits: {time: 300ms}\n"

// hostileModule is a command that asks for its request and then does body, with 256 MiB of memory and functions of its own behind it, the
// first of which is number 5.
func hostileModule(body []byte, more ...w.Func) *w.Module {
	i32, i64 := byte(w.I32), byte(w.I64)
	wasi := func(name string, params ...byte) w.Import {
		return w.Import{Module: "wasi_snapshot_preview1", Name: name, Type: w.Type{Params: params, Results: []byte{i32}}}
	}
	return &w.Module{
		Imports: []w.Import{wasi("fd_write", i32, i32, i32, i32), wasi("clock_time_get", i32, i64, i32), wasi("random_get", i32, i32), wasi("environ_sizes_get", i32, i32)},
		Funcs:   append([]w.Func{{Name: "start", Export: "_start", Locals: []byte{i32, i32}, Body: w.Cat(w.I32Const(16), w.I32Const(20), w.Call(3), []byte{w.Drop}, body)}}, more...),
		Memory:  []uint32{4096},
	}
}

func hostiles() map[string]hostile {
	const all = 4096 << 16 // bytes of memory
	dropped := func(pieces ...[]byte) []byte { return w.Cat(w.Cat(pieces...), []byte{w.Drop}) }
	forever := func(body ...[]byte) []byte { return w.Loop(w.Cat(body...), w.Br(0)) }
	step := func(by int32) []byte { // local 0 goes on
		return w.Cat(w.LocalGet(0), w.I32Const(by), []byte{w.I32Add}, w.LocalSet(0))
	}
	var trees []w.Func // each calls the next one twice: 2⁴⁰ calls
	for i := range 40 {
		trees = append(trees, w.Func{Body: w.Cat(w.Call(uint32(6+i)), w.Call(uint32(6+i)))})
	}
	trees = append(trees, w.Func{})
	locals := bytes.Repeat([]byte{w.I64}, 2000)
	started := hostileModule(nil, w.Func{Body: forever()})
	start := uint32(5)
	started.Start = &start
	jump := func(n uint32) []byte {
		return w.Cat([]byte{0x0e}, w.U32(n), bytes.Repeat([]byte{0}, int(n)), []byte{0})
	}
	table := jump(30_000)
	floods := hostileModule(nil)
	for i := range 200_001 {
		floods.Data = append(floods.Data, w.Data{Offset: uint32(i), Bytes: []byte{1}})
	}
	many := hostileModule(forever())
	for i := range 100_000 {
		many.Data = append(many.Data, w.Data{Offset: uint32(i * 64), Bytes: []byte{1}})
	}
	grow := func(by int32) []byte {
		return w.Cat([]byte{0xd0, w.FuncRef}, w.I32Const(by), []byte{0xfc, 15, 0, w.Drop})
	}
	tables := hostileModule(forever(grow(1_000_000), grow(30_000), grow(1_000)))
	tables.Table = []uint32{1}
	nest := w.Cat(bytes.Repeat([]byte{0x03, 0x40}, 4_000), bytes.Repeat([]byte{w.End}, 4_000))
	var empty []w.Func
	for range 1000 {
		empty = append(empty, w.Func{Locals: bytes.Repeat([]byte{w.I64}, 5_000)})
	}
	var jumps []w.Func
	for range 40 {
		jumps = append(jumps, w.Func{Body: w.Block(w.I32Const(0), table)})
	}
	branches := w.Cat(step(7), w.LocalGet(0), w.I32Const(1), []byte{0x71, 0x04, 0x40}, step(3), []byte{0x05}, step(5), []byte{w.End}) // local 0 & 1: if, else
	return map[string]hostile{
		"an endless loop":              {hostileModule(forever()).Bytes(), shortTime, "", 504, "deadline", 0, 0},
		"an endless loop that costs":   {hostileModule(forever()).Bytes(), "limits: {cpu: 100ms, time: 1m}\n", "", 502, "limit", 0, 0},
		"a loop in start":              {started.Bytes(), "limits: {start: 300ms}\n", "start-timeout", 0, "", 0, 1},
		"a tree of calls":              {hostileModule(w.Call(5), trees...).Bytes(), shortTime, "", 504, "deadline", 0, 0},
		"a loop with branches":         {hostileModule(forever(branches)).Bytes(), shortTime, "", 504, "deadline", 0, 0},
		"a loop that touches pages":    {hostileModule(forever(step(4096), w.LocalGet(0), w.I32Const(all-4096), []byte{0x71}, w.I32Const(1), w.Store(0))).Bytes(), shortTime, "", 504, "deadline", 0, 0},
		"fills of all memory":          {hostileModule(forever(w.I32Const(0), w.I32Const(1), w.I32Const(all), []byte{0xfc, 11, 0})).Bytes(), shortTime, "", 504, "deadline", 0, 0},
		"copies of all memory":         {hostileModule(forever(w.I32Const(0), w.I32Const(1), w.I32Const(all-1), []byte{0xfc, 10, 0, 0})).Bytes(), shortTime, "", 504, "deadline", 0, 0},
		"recursion with many locals":   {hostileModule(w.Call(5), w.Func{Locals: locals, Body: w.Call(5)}).Bytes(), "limits: {time: 1m}\n", "", 502, "trap", 0, 1},
		"mutual recursion":             {hostileModule(w.Call(5), w.Func{Locals: locals, Body: w.Call(6)}, w.Func{Body: w.Call(5)}).Bytes(), "limits: {time: 1m}\n", "", 502, "trap", 0, 1},
		"growth of memory":             {hostileModule(forever(dropped(w.I32Const(1), w.MemoryGrow()))).Bytes(), "limits: {time: 300ms, memory: 512MiB}\n", "", 504, "deadline", 0, 0},
		"growth of a table":            {tables.Bytes(), shortTime, "", 504, "deadline", 0, 0},
		"a jump table in a loop":       {hostileModule(forever(w.Block(w.LocalGet(0), jump(15_000)))).Bytes(), shortTime, "", 504, "deadline", 0, 0},
		"data segments beyond measure": {floods.Bytes(), "", "module-invalid", 0, "", 3, 1},
		"many data segments":           {many.Bytes(), shortTime, "", 504, "deadline", 3, 0},
		"a flood of host calls":        {hostileModule(forever(dropped(w.I32Const(1), w.I64Const(0), w.I32Const(0), w.Call(1)))).Bytes(), "limits: {hostcalls: 100000, time: 1m}\n", "", 502, "limit", 0, 1},
		"a flood of randomness":        {hostileModule(forever(dropped(w.I32Const(0), w.I32Const(all), w.Call(2)))).Bytes(), shortTime, "", 504, "deadline", 0, 0},
		"a flood of log": {hostileModule(w.Cat(w.I32Const(0), w.I32Const(64), w.Store(0), w.I32Const(4), w.I32Const(1<<20), w.Store(0),
			forever(dropped(w.I32Const(2), w.I32Const(0), w.I32Const(1), w.I32Const(8), w.Call(0))))).Bytes(), shortTime, "", 504, "deadline", 0, 0},
		"nested loops with many locals":    {hostileModule(nil, w.Func{Locals: locals, Body: nest}).Bytes(), "", "module-invalid", 0, "", 3, 1},
		"many jump tables":                 {hostileModule(nil, jumps...).Bytes(), "", "module-invalid", 0, "", 3, 1},
		"empty functions of many locals":   {hostileModule(nil, empty...).Bytes(), "", "module-invalid", 0, "", 3, 1},
		"a compile bomb":                   {bomb(), "", "module-too-costly", 0, "", 3, 1},
		"a global that translation adds":   {hostileModule(w.Cat(w.I64Const(1), w.GlobalSet(0))).Bytes(), "", "module-invalid", 0, "", 3, 1},
		"a function that translation adds": {hostileModule(w.Call(5)).Bytes(), "", "module-invalid", 0, "", 3, 1},
	}
}

// attack is what has the hostile job do what it does, once, and reports how it ended otherwise than it should. The form of a deploy is built
// before, once: it is the work of an attacker's machine, and here would be done by the process that measures.
func (h hostile) attack(s *serverProcess, job string) func(testing.TB) {
	if h.refused == "" {
		return func(t testing.TB) { h.request(t, s, job) }
	}
	body, kind := form(h.module, h.manifest)
	sent, err := io.ReadAll(body)
	return func(t testing.TB) {
		if err != nil {
			t.Fatal(err)
		}
		status, answer, err := s.try(http.DefaultClient, "PUT", "/v1/jobs/"+job, bytes.NewReader(sent), kind)
		if err != nil {
			t.Error(err)
			return
		}
		ended(t, status, answer, 422, h.refused)
	}
}

func (h hostile) request(t testing.TB, s *serverProcess, job string) {
	resp, err := http.Get("http://" + s.ingress + "/" + job + "/")
	if err != nil {
		t.Error(err)
		return
	}
	body, _ := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if resp.StatusCode != 429 { // else its own queue is full
		ended(t, resp.StatusCode, body, h.status, h.code)
	}
}

func ended(t testing.TB, status int, body []byte, want int, code string) {
	var p struct{ Code, Type string }
	if err := json.Unmarshal(body, &p); err != nil || status != want || !strings.HasSuffix(p.Type, ":"+code) {
		t.Errorf("it ended with %d %s, and should with %d %s", status, body, want, code)
	}
}

// Every hostile guest ends with the right error, and its neighbour's requests all succeed. What they measure here is only told: this test runs
// beside others. TestSoakHostileGuestsDisturbNobody asserts it.
func TestHostileGuestsEndWithTheRightError(t *testing.T) {
	s := startServer(t, "--compile-time", "1s")
	s.deploy("quick", w.Task(w.TaskResponse(200, "content-type", "text/plain", "quick"), 1), "limits: {queue: 1000, time: 1m}\n") // however slow it is, none is refused
	n := newNeighbour(s, "quick", 400*time.Millisecond)
	worker := s.workerPID()
	for name, h := range hostiles() {
		t.Run(name, func(t *testing.T) {
			if h.refused == "" {
				if status, body := s.tryDeploy("hostile", h.module, h.manifest); status/100 != 2 {
					t.Fatalf("deploy: %d %s", status, body)
				}
			}
			attack := h.attack(s, "hostile")
			attack(t)
			d := n.disturb(t, 1, min(h.clients(), 4), func() { attack(t) })
			t.Logf("the neighbour's p99: %v quiet, %v beside it", d.quiet, d.loud)
		})
	}
	t.Run("requests held open", func(t *testing.T) {
		s.deploy("held", reading(), shortTime)
		n.disturb(t, 1, 4, func() { holdOpen(t, s, "held") })
	})
	if now := s.workerPID(); now != worker {
		t.Errorf("the worker was %d and is %d", worker, now)
	}
}

// holdOpen has a client begin a request and send no more of it, for as long as it is let.
func holdOpen(t testing.TB, s *serverProcess, job string) {
	c, err := net.Dial("tcp", s.ingress)
	if err != nil {
		t.Error(err)
		return
	}
	defer c.Close()
	_, _ = io.WriteString(c, "POST /"+job+"/ HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n")
	_ = c.SetReadDeadline(time.Now().Add(time.Minute))
	b := make([]byte, 64)
	if k, _ := io.ReadAtLeast(c, b, 12); !strings.HasPrefix(string(b[:k]), "HTTP/1.1 504") && !strings.HasPrefix(string(b[:k]), "HTTP/1.1 429") {
		t.Errorf("a request held open was answered %q", b[:k])
	}
}
