package manifest

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/ripstop-vm/ripstop/runtime/hostcall"
)

// testTable has functions that look like those of a real runtime.
func testTable(t testing.TB) *hostcall.Table {
	t.Helper()
	i32, i64 := hostcall.I32, hostcall.I64
	none := func(c *hostcall.Call) { c.Fail(hostcall.Success) }
	e := []hostcall.ValueType{i32}
	table, err := hostcall.NewTable(&hostcall.Library{Name: "test", Funcs: []hostcall.Func{
		{Module: "wasi_snapshot_preview1", Name: "path_open", Params: []hostcall.ValueType{i32, i32, i32, i32, i32, i64, i64, i32, i32}, Results: e, Fails: true, Call: none, Args: []hostcall.Arg{
			{Name: "fd", Kind: hostcall.FD, Param: 0}, {Name: "dirflags", Kind: hostcall.Flags, Param: 1, Names: []string{"SYMLINK_FOLLOW"}},
			{Name: "path", Kind: hostcall.Path, Param: 2}, {Name: "oflags", Kind: hostcall.Flags, Param: 4, Names: []string{"CREAT", "DIRECTORY", "EXCL", "TRUNC"}},
			{Name: "rights_base", Kind: hostcall.Flags, Param: 5}, {Name: "rights_inheriting", Kind: hostcall.Flags, Param: 6},
			{Name: "fdflags", Kind: hostcall.Flags, Param: 7}, {Name: "opened_fd", Kind: hostcall.FD, Dir: hostcall.Out, Size: 4, Param: 8},
		}},
		{Module: "wasi_snapshot_preview1", Name: "path_unlink_file", Params: []hostcall.ValueType{i32, i32, i32}, Results: e, Fails: true, Call: none, Args: []hostcall.Arg{
			{Name: "fd", Kind: hostcall.FD, Param: 0}, {Name: "path", Kind: hostcall.Path, Param: 1}}},
		{Module: "ripstop_task_1", Name: "fetch", Params: []hostcall.ValueType{i32, i32, i32, i32}, Results: e, Fails: true, Call: none, Args: []hostcall.Arg{
			{Name: "method", Kind: hostcall.Text, Param: 0}, {Name: "url", Kind: hostcall.Text, Param: 2}}},
		{Module: "ripstop_task_1", Name: "kv_put", Params: []hostcall.ValueType{i32, i32, i32, i32, i32, i32}, Results: e, Fails: true, Call: none, Args: []hostcall.Arg{
			{Name: "bucket", Kind: hostcall.Text, Param: 0}, {Name: "key", Kind: hostcall.Text, Param: 2}, {Name: "value", Kind: hostcall.Bytes, Param: 4}}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	return table
}

const full = `# a guestbook
name: guestbook
module: build/guestbook.wasm
kind: task
isolation: task
engine: wasmtime
weight: 200
routes:
  - path: /guestbook/
  - host: book.example.com
    path: /
limits:
  memory: 64MiB
  time: 2s
  start: 500ms
  request: 65536
  response: 1MiB
  files: 32
  log: 16KiB
  concurrency: 8
  queue: -1
  hostcalls: 10000
  cpu: 250ms
  fuel: 1000000000
capabilities:
  files:
    - guest: /data
      source: book
      access: rw
      except: [/data/private]
  env:
    LANG: C.UTF-8
    PORT: 8080
    DEBUG: true
  fetch:
    - https://api.example.com
    - http://[fd00::7]:8080
    - scheme: https
      host: "*.internal.example"
      private: true
  kv: [entries]
  invoke: [mailer]
  secrets: [API_KEY]
  clock:
    offset: -1h30m
  random:
    seed: 18446744073709551615
policy:
  - on: path_open
    when: call.path.startsWith("/data/private/")
    do: deny
    errno: EPERM
  - on: [fetch, kv_*]
    do: deny
    mode: observe
  - on: kv_put
    do: set
    set:
      key: '"x/" + call.key'
config:
  title: It's a book
queue:
  concurrency: 2
  attempts: 7
  backoff: {first: 10s, max: 1s}
  ttl: 2d
  length: 1000
  ordered: true
schedule:
  - name: nightly
    cron: "30 3 * * MON-FRI"
    zone: Europe/Vienna
    missed: skip
    overlap: wait
    method: PUT
    path: /tidy?all=1
    headers: {X-Part: 7}
    body: now
  - cron: "*/5 * * * *"
`

func TestAFullManifestIsReadAndItsJSONSaysTheSame(t *testing.T) {
	m, err := Parse([]byte(full), testTable(t))
	if err != nil {
		t.Fatal(err)
	}
	c := m.Capabilities
	if m.Limits.Memory != 64*MiB || m.Limits.Time != Duration(2*time.Second) || m.Limits.Request != 64*KiB || m.Limits.Queue != -1 ||
		c.Clock.Offset != -90*time.Minute || *c.Random.Seed != 1<<64-1 || c.Env["PORT"] != "8080" || c.Env["DEBUG"] != "true" ||
		c.Fetch[1].Host != "fd00::7" || c.Fetch[1].Port != 8080 || c.Fetch[0].Port != 0 || !c.Fetch[2].Private ||
		len(m.Schedule) != 2 || m.Schedule[0].Headers["X-Part"] != "7" || m.Schedule[0].Overlap != OverlapWait || m.Schedule[1].Name != "" ||
		len(m.Policy) != 3 || m.Policy[1].On[1] != "kv_*" || m.Policy[2].Set["key"] == "" || m.Routes[1].Host != "book.example.com" ||
		m.Queue != (Queue{Concurrency: 2, Attempts: 7, Backoff: Backoff{First: Duration(10 * time.Second), Max: Duration(time.Second)}, TTL: Duration(48 * time.Hour), Length: 1000, Ordered: true}) {
		t.Errorf("read %+v", m)
	}
	m.Fill("other")
	if m.Name != "guestbook" {
		t.Errorf("Fill took the name %s", m.Name)
	}
	first, err := m.JSON()
	if err != nil {
		t.Fatal(err)
	}
	again, err := ParseJSON(first)
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Validate(testTable(t)); err != nil {
		t.Fatal(err)
	}
	second, _ := again.JSON()
	if !bytes.Equal(first, second) || bytes.Contains(first, []byte("guestbook.wasm")) {
		t.Errorf("JSON changed:\n%s\n%s", first, second)
	}
	// JSON is YAML: the canonical form can be deployed as it is.
	third, err := Parse(first, testTable(t))
	if err != nil {
		t.Fatal(err)
	}
	if b, _ := third.JSON(); !bytes.Equal(first, b) {
		t.Errorf("JSON read as YAML:\n%s\n%s", first, b)
	}
}

func TestAnEmptyManifestIsFilledWithDefaults(t *testing.T) {
	for _, src := range []string{"", "# nothing\n", "{}", "---\n", "limits:\n"} {
		m, err := Parse([]byte(src), nil)
		if err != nil {
			t.Errorf("%q: %v", src, err)
			continue
		}
		m.Fill("hello")
		if err := m.Validate(nil); err != nil {
			t.Errorf("%q: %v", src, err)
		}
		if m.Name != "hello" || m.Isolation != "request" || m.Routes[0].Path != "/hello/" || m.Limits.Memory != 256*MiB || m.Limits.Queue != 64 ||
			m.Queue != (Queue{Concurrency: 15, Attempts: 5, Backoff: Backoff{First: Duration(time.Second), Max: Duration(5 * time.Minute)}, TTL: Duration(24 * time.Hour), Length: 100_000}) {
			t.Errorf("%q: %+v", src, m)
		}
		if m.Limits.MemoryPages() != 4096 {
			t.Errorf("%d pages", m.Limits.MemoryPages())
		}
	}
}

func TestEachProblemIsReportedWhereItIs(t *testing.T) {
	for _, c := range []struct{ src, want string }{
		{"nmae: x", "1:1: nmae: there is no such key: did you mean name?"},
		{"name: X_y", "1:7: name: \"X_y\" is no DNS label: only a-z, 0-9 and, inside, '-' are allowed"},
		{"name: 12", "1:7: name: a text is wanted, not a number: put quotes around 12"},
		{"name: [a]", "1:7: name: a text is wanted, not a list"},
		{"limits:\n  memroy: 1", "2:3: limits.memroy: there is no such key: did you mean memory?"},
		{"limits:\n  memory: 64MB", "2:11: limits.memory: \"64MB\" is no size: write a whole number with KiB, MiB, GiB or TiB, such as 64MiB"},
		{"limits:\n  memory: 5GiB", "2:11: limits.memory: 5GiB is out of range: 64KiB to 4GiB is allowed"},
		{"queue: {attempts: 101}", "1:19: queue.attempts: 101 is out of range: 1 to 100 is allowed"},
		{"queue: {attempts: 0}", "1:19: queue.attempts: 0 is out of range: 1 to 100 is allowed"},
		{"queue: {concurrency: 17}", "1:22: queue.concurrency: 17 is more than limits.concurrency, which is 16 if left out: raise that, or write at most 16 here"},
		{"limits: {concurrency: 2}\nqueue:\n  concurrency: 3", "3:16: queue.concurrency: 3 is more than limits.concurrency, which is 2: raise that, or write at most 2 here"},
		{"queue: {concurrency: 4097}", "1:22: queue.concurrency: 4097 is out of range: 1 to 4096 is allowed"},
		{"queue:\n  backoff: {first: 2d}", "2:20: queue.backoff.first: 48h is out of range: 1ms to 24h is allowed"},
		{"limits: {memory: 0}", "1:18: limits.memory: 0 is out of range: 64KiB to 4GiB is allowed"},
		{"limits: {time: 5}", "1:16: limits.time: \"5\" is no duration: write it with units, such as 250ms, 10s, 1h30m or 5d"},
		{"limits: {time: 2h}", "1:16: limits.time: 2h is out of range: 1ms to 1h is allowed"},
		{"weight: 0", "1:9: weight: 0 is out of range: 1 to 1000 is allowed"},
		{"weight: 1001", "1:9: weight: 1001 is out of range: 1 to 1000 is allowed"},
		{"weight: -1", "1:9: weight: -1 is out of range: 1 to 1000 is allowed"},
		{"limits: {cpu: 1us}", "1:15: limits.cpu: 1µs is out of range: 1ms to 1h is allowed"},
		{"limits: {fuel: -1}", "1:16: limits.fuel: -1 is out of range: 1 to 1000000000000000 is allowed"},
		{"limits: {queue: -2}", "1:17: limits.queue: -2 is out of range: 1 to 65536, or -1 is allowed"},
		{"limits: {files: 99999999999999999999}", "1:17: limits.files: a whole number is wanted, not a text"},
		{"limits: 5", "1:9: limits: a mapping is wanted, not a number"},
		{"routes:\n- path: a", "2:9: routes[0].path: \"a\" does not begin with a /"},
		{"routes:\n- path: /a/../b", "2:9: routes[0].path: \"/a/../b\" is not clean: it has an empty, . or .. segment"},
		{"routes:\n- {path: /a, host: A.b}", "2:20: routes[0].host: \"A.b\" is not lower case: write \"a.b\""},
		{"routes:\n- path: /a\n- path: /a", "3:3: routes[1]: is the same as routes[0]"},
		{"request: body", "1:10: request: \"body\" is neither environment nor stdin"},
		{"kind: task\nrequest: stdin", "2:10: request: a task is given its request in memory: the key is for commands"},
		{"kind: magic", "1:7: kind: \"magic\" is neither command nor task"},
		{"capabilities:\n  fetch:\n  - ftp://a", "3:5: capabilities.fetch[0].scheme: \"ftp\" is neither http nor https"},
		{"capabilities:\n  fetch: [https://a/b]", "2:11: capabilities.fetch[0]: \"https://a/b\" has a path: a grant is of a whole server; use a rule to judge paths"},
		{"capabilities:\n  files:\n  - guest: data\n    source: x", "3:12: capabilities.files[0].guest: \"data\" is not absolute: begin it with a /"},
		{"capabilities:\n  files:\n  - guest: /data\n    source: x\n    except: [/other]", "5:14: capabilities.files[0].except[0]: \"/other\" is not below \"/data\""},
		{"capabilities:\n  kv: [Big]", "2:8: capabilities.kv[0]: \"Big\" is no bucket name: only a-z, 0-9 and, after the first, '-', '_' and '.' are allowed"},
		{"capabilities:\n  random: {seed: -1}", "2:18: capabilities.random.seed: -1 is out of range"},
		{"capabilities:\n  clock: {frozen: yesterday}", "2:19: capabilities.clock.frozen: \"yesterday\" is no time: write it like 2026-01-02T15:04:05Z"},
		{"policy:\n- on: path_opne\n  do: deny", "2:7: policy[0].on: there is no host function \"path_opne\": did you mean path_open?"},
		{"policy:\n- on: fetch\n  do: deny\n  when: call.port == \"1\"", "4:19: policy[0].when: found no matching overload for '_==_' applied to '(int, string)'"},
		{"policy:\n- on: fetch\n  do: deny\n  when: 'call.scheme == ''x'' && call.port == \"1\"'", "4:44: policy[0].when: found no matching overload for '_==_' applied to '(int, string)'"},
		{"policy:\n- on: fetch\n  do: deny\n  when: |\n    call.scheme == \"x\" &&\n      call.port == \"1\"\n", "6:17: policy[0].when: found no matching overload for '_==_' applied to '(int, string)'"},
		{"policy:\n- on: fetch\n  do: deny\n  when: >-\n    call.scheme == \"x\" &&\n    call.port == \"1\"\n", "6:15: policy[0].when: found no matching overload for '_==_' applied to '(int, string)'"},
		{"policy:\n- on: kv_put\n  do: set\n  set: {key: call.bukcet}", "4:14: policy[0].set.key: kv_put has no call.bukcet: did you mean call.bucket? It has call.bucket, call.bucket_size, call.function, call.key, call.key_size, call.module, call.paths, call.value_size"},
		{"policy:\n- on: fetch", "2:3: policy[0].do: is missing: write deny, allow, stop or set"},
		{"config: {a: [1]}", "1:13: config.a: a text is wanted, not a list"},
		{"name: a\nname: b", "2:1: mapping key \"name\" already defined at [1:1]"},
		{"a: &x 1\nb: *x", "1:1: a: there is no such key: known are name, module, kind, isolation, engine, request, args, routes, weight, limits, capabilities, policy, config, queue, schedule"},
		{"schedule:\n- cron: '0 24 * * *'", "2:12: schedule[0].cron: \"24\" is no hour: 0 to 23 is allowed"},
		{"schedule:\n- cron: \"0 0 1 * MOON\"", "2:18: schedule[0].cron: \"MOON\" is no day of the week: 0 to 7 is allowed, and names such as SUN"},
		{"schedule:\n- cron: 0 0 30 2 *", "2:9: schedule[0].cron: never fires: no such day of the month is in any month that it names"},
		{"schedule:\n- cron: '@daily'", "2:10: schedule[0].cron: \"@daily\" is no minute: 0 to 59 is allowed"},
		{"schedule:\n- zone: UTC", "2:3: schedule[0].cron: has 0 fields, not the five of minute, hour, day of the month, month and day of the week, as in \"0 3 * * MON-FRI\""},
		{"schedule:\n- cron: 0 0 * * *\n  zone: Mars/Olympus", "3:9: schedule[0].zone: there is no time zone \"Mars/Olympus\": write one such as UTC or Europe/Vienna"},
		{"schedule:\n- {cron: 0 0 * * *, missed: never}", "2:29: schedule[0].missed: \"never\" is none of run-once, skip"},
		{"schedule:\n- {cron: 0 0 * * *, overlap: queue}", "2:30: schedule[0].overlap: \"queue\" is none of skip, wait, allow"},
		{"schedule:\n- {cron: 0 0 * * *, path: tidy}", "2:27: schedule[0].path: \"tidy\" is no path: it begins with a /, and has neither spaces nor a #"},
		{"schedule:\n- {cron: 0 0 * * *, headers: {ripstop-attempt: 1}}", "2:48: schedule[0].headers.ripstop-attempt: names that begin with Ripstop- are the server's"},
		{"schedule:\n- cron: 0 0 * * *\n- cron: 0 0 * * *\n  zone: UTC", "3:3: schedule[1]: is the same as schedule[0]: give them names of their own"},
		{"schedule:\n- {cron: 0 0 * * *, name: a}\n- {cron: 0 1 * * *, name: a}", "3:3: schedule[1]: is the same as schedule[0]: give them names of their own"},
		{"schedule: [{cron: 0 0 * * *, name: " + strings.Repeat("a", 41) + "}]", "1:36: schedule[0].name: 41 bytes, at most 40 are allowed"},
		{"schedule: [{cron: 0 0 * * *, body: " + strings.Repeat("a", 48<<10+1) + "}]", "1:12: schedule[0]: path, headers and body have 49153 bytes, at most 49152 are allowed"},
		{"schedule: [" + strings.Repeat("{cron: 0 0 * * *}, ", 17) + "]", "1:11: schedule: 17 schedules, at most 16 are allowed"},
		{"name: &x a", "1:7: name: anchors, aliases and merges are not supported: write it out"},
		{"name: !!str a", "1:7: name: tags are not supported"},
		{"name: a\n---\nname: b", "3:1: a second document: a manifest is one"},
		{"- a", "1:1: a mapping is wanted, not a list"},
		{"name: \xff", "1:1: is not UTF-8 text"},
		{strings.Repeat("[", 300), "1:1: is nested too deeply"},
		{strings.Repeat("#", MaxBytes+1), "1:1: 262145 bytes, at most 262144 are allowed"},
	} {
		_, err := Parse([]byte(c.src), testTable(t))
		if err == nil {
			t.Errorf("%q was taken", c.src)
			continue
		}
		got := Errors(err)[0].Error()
		if got != c.want {
			t.Errorf("%.200q:\n got %s\nwant %s", c.src, got, c.want)
		}
	}
}

func TestAMisspelledFunctionHidesNoMistakeInItsRule(t *testing.T) {
	_, err := Parse([]byte("policy:\n- on: [fetch, path_opne]\n  do: deny\n- on: path_opne\n  do: deny\n  when: call.fd > 3 && call.pth == \"/\"\n"), testTable(t))
	want := []string{
		"2:15: policy[0].on[1]: there is no host function \"path_opne\": did you mean path_open?",
		"4:7: policy[1].on: there is no host function \"path_opne\": did you mean path_open?",
		"6:24: policy[1].when: path_open has no call.pth: did you mean call.path?",
	}
	got := Errors(err)
	if len(got) != len(want) {
		t.Fatalf("%v", err)
	}
	for i, w := range want {
		if !strings.HasPrefix(got[i].Error(), w) {
			t.Errorf("got %s\nwant %s", got[i], w)
		}
	}
}

func TestTextThatWouldKeepTheParserBusyIsRefusedAtOnce(t *testing.T) {
	for _, text := range []string{"a: ", "- ", "? ", "&a ", "!a ", "*a ", "[", "{", "{a: "} {
		_, err := Parse([]byte(strings.Repeat(text, MaxBytes/len(text))), nil)
		if err == nil || !strings.Contains(err.Error(), "nested too deeply") {
			t.Errorf("%q: %v", text, err)
		}
	}
	// What people write on one line is no such text.
	for _, text := range []string{
		"{\"env\": 1" + strings.Repeat(", \"a\": 1", 300) + "}",
		"config: {a: '" + strings.Repeat("a - b ? c : d, ", 100) + strings.Repeat("&& ** !! ", 100) + "'}",
	} {
		if _, err := Parse([]byte(text), nil); err != nil && strings.Contains(err.Error(), "deeply") {
			t.Errorf("%.60s: %v", text, err)
		}
	}
}

func TestQueuedInvocationsMayTakeAllSlotsOfTheirJob(t *testing.T) {
	for _, src := range []string{"queue: {concurrency: 16}", "limits: {concurrency: 40}\nqueue: {concurrency: 40}"} {
		if _, err := Parse([]byte(src), nil); err != nil {
			t.Errorf("%q: %v", src, err)
		}
	}
	// What is wrong with limits.concurrency is said once.
	_, err := Parse([]byte("limits: {concurrency: -1}\nqueue: {concurrency: 3}"), nil)
	if list := Errors(err); len(list) != 1 || list[0].Key != "limits.concurrency" {
		t.Errorf("%v", err)
	}
}

func TestAllProblemsAreReportedAtOnce(t *testing.T) {
	_, err := Parse([]byte("nmae: x\nkind: z\nlimits: {memory: 1, tmie: 1s}\npolicy:\n- on: nope\n  do: deny\n"), testTable(t))
	var at []int
	for _, e := range Errors(err) {
		at = append(at, e.Line)
	}
	if len(at) != 5 || at[0] != 1 || at[1] != 2 || at[2] != 3 || at[3] != 3 || at[4] != 5 {
		t.Errorf("problems on lines %d:\n%v", at, err)
	}
}

func TestJSONIsReadStrictly(t *testing.T) {
	for _, src := range []string{`{"nmae":"x"}`, `{"limits":{"memory":"64MB"}}`, `{"limits":{"time":5}}`, `{} {}`, `[]`, `{"limits":{"memory":1.5}}`, ``} {
		if m, err := ParseJSON([]byte(src)); err == nil {
			t.Errorf("%s was taken: %+v", src, m)
		}
	}
}

func TestSizesAndDurationsSurviveTheirText(t *testing.T) {
	for _, s := range []Size{0, 1, 512, 1023, KiB, 1536, 64 * MiB, 4 * GiB, 3 * TiB, 1<<63 - 1} {
		if got, err := ParseSize(s.String()); err != nil || got != s {
			t.Errorf("%d → %s → %d, %v", s, s, got, err)
		}
	}
	for _, text := range []string{"", "-1", "1.5MiB", "64 MB", "MiB", "9223372036854775807KiB", "1e3", "0x10"} {
		if got, err := ParseSize(text); err == nil {
			t.Errorf("%q = %d", text, got)
		}
	}
	for text, want := range map[string]time.Duration{"5d": 120 * time.Hour, "1d12h": 36 * time.Hour, "-1d": -24 * time.Hour, "0d": 0, "106751d": 106751 * 24 * time.Hour} {
		if got, err := ParseDuration(text); err != nil || time.Duration(got) != want {
			t.Errorf("%q = %s, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "d", "5", "1.5d", "d5h", "1h5d", "5d5", "5d-1h", "5days", "106752d", "4294967296d", "--1d"} {
		if got, err := ParseDuration(text); err == nil {
			t.Errorf("%q = %s", text, got)
		}
	}
	for d, want := range map[time.Duration]string{time.Hour: "1h", 90 * time.Second: "1m30s", time.Minute: "1m", 250 * time.Millisecond: "250ms", 0: "0s", time.Hour + time.Second: "1h0m1s"} {
		if got := Duration(d).String(); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(full))
	f.Add([]byte("policy: [{on: fetch, do: deny, when: 'call.port == 1'}]"))
	f.Add([]byte("{\"limits\":{\"memory\":\"1MiB\"}}"))
	f.Add([]byte("a: &x [*x]\n? b\n: |\n  c\n"))
	table := testTable(f)
	f.Fuzz(func(t *testing.T, src []byte) {
		m, err := Parse(src, table)
		if err != nil {
			for _, e := range Errors(err) {
				if e.Line < 1 || e.Column < 1 || e.Msg == "" {
					t.Errorf("a problem without a place: %+v", e)
				}
			}
			if len(Errors(err)) == 0 {
				t.Errorf("an error without a problem: %v", err)
			}
			return
		}
		m.Fill("x")
		if err := m.Validate(table); err != nil {
			t.Fatalf("filled, it is refused: %v", err)
		}
		b, err := m.JSON()
		if err != nil {
			t.Fatal(err)
		}
		again, err := ParseJSON(b)
		if err != nil {
			t.Fatalf("%v: %s", err, b)
		}
		if c, _ := again.JSON(); !bytes.Equal(b, c) {
			t.Errorf("not canonical:\n%s\n%s", b, c)
		}
	})
}
