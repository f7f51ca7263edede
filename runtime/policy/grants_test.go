package policy

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/ripstop-vm/ripstop/runtime/hostcall"
)

func granted1(t *testing.T, c Capabilities) *Grants {
	t.Helper()
	g, err := Grant(c)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func TestNothingIsGrantedUnlessNamed(t *testing.T) {
	empty := granted1(t, Capabilities{})
	u, _ := url.Parse("https://api.example.com/")
	for what, err := range map[string]error{"fetch": empty.Fetch(u), "kv": empty.KV("a"), "invoke": empty.Invoke("a"), "enqueue": empty.Enqueue("a"), "secret": empty.Secret("A")} {
		var refused *RefusedError
		if !errors.As(err, &refused) || refused.What != what || !errors.Is(err, hostcall.ENOTCAPABLE) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if len(empty.Environ()) != 0 || len(empty.Files) != 0 {
		t.Errorf("%+v", empty)
	}
	some := granted1(t, Capabilities{KV: []string{"a"}, Invoke: []string{"b"}, Enqueue: []string{"d"}, Secrets: []string{"C"}, Env: map[string]string{"Z": "1", "A": "2"},
		Files: []File{{Guest: "/", Source: "x"}}})
	if err := errors.Join(some.KV("a"), some.Invoke("b"), some.Enqueue("d"), some.Secret("C")); err != nil {
		t.Error(err)
	}
	if some.KV("b") == nil || some.Invoke("a") == nil || some.Enqueue("b") == nil || some.Invoke("d") == nil || some.Secret("c") == nil {
		t.Error("something else was granted, too")
	}
	if got := strings.Join(some.Environ(), " "); got != "A=2 Z=1" {
		t.Error(got)
	}
	if !some.Files[0].ReadOnly() {
		t.Error("a file is writable unless said otherwise")
	}
}

func TestAFetchMatchesSchemeHostAndPort(t *testing.T) {
	g := granted1(t, Capabilities{Fetch: []Fetch{
		{Scheme: "https", Host: "API.example.com."},
		{Scheme: "https", Host: "*.cdn.example.com"},
		{Scheme: "http", Host: "10.0.0.7", Port: 8080},
		{Scheme: "http", Host: "bücher.example", Port: 81},
		{Scheme: "https", Host: "8.8.8.8"},
		{Scheme: "https", Host: "fd00::7"},
		{Scheme: "http", Host: "192.168.0.1", Private: true},
	}})
	for text, want := range map[string]bool{
		"https://api.example.com/x": true, "https://API.EXAMPLE.COM./": true, "https://api.example.com:443": true, "HTTPS://api.example.com": true,
		"http://api.example.com/": false, "https://api.example.com:8443/": false, "https://example.com/": false, "https://api.example.com.evil.org/": false,
		"https://evil.org@api.example.com/": true, "https://api.example.com@evil.org/": false, "https://api.example.com\\@evil.org/": false,
		"https://a.cdn.example.com/": true, "https://a.b.cdn.example.com/": true, "https://cdn.example.com/": false, "https://xcdn.example.com/": false,
		"http://10.0.0.7:8080/": true, "http://10.0.0.7/": false, "http://[::ffff:10.0.0.7]:8080/": true, "http://10.0.0.8:8080/": false,
		"http://xn--bcher-kva.example:81/": true, "http://bücher.example:81/": true,
		"https://8.8.8.8/": true, "https://[fd00::7]/": true, "https://[fd00:0::07]/": true, "https://[fd00::7%25eth0]/": false, "https://[fd00::8]/": false,
		"ftp://api.example.com/": false, "https:api.example.com": false, "https:///": false, "//api.example.com/": false, "https://api.example.com:/": false,
		"https://api.example.com:0443/": true, "https://api.example.com:99999/": false, "http://192.168.0.1/": true,
	} {
		u, err := url.Parse(text)
		if err != nil {
			if want {
				t.Errorf("%s: %v", text, err)
			}
			continue
		}
		if err := g.Fetch(u); (err == nil) != want {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestAddressesThatAreNotPublicAreRefusedUnlessNamed(t *testing.T) {
	var public, private FetchGrant
	private.private = true
	named := FetchGrant{addr: netip.MustParseAddr("10.0.0.7")}
	for _, text := range []string{
		"0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "100.127.255.255", "127.0.0.1", "127.9.9.9", "169.254.169.254", "172.16.0.1", "172.31.255.255",
		"192.0.0.1", "192.0.2.1", "192.88.99.1", "192.168.1.1", "198.18.0.1", "198.19.255.255", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255",
		"::", "::1", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:0:10.0.0.1", "64:ff9b::7f00:1", "64:ff9b::808:808", "64:ff9b:1::a00:1", "100::1", "2001::1", "2001:db8::1",
		"2002:7f00:1::", "3fff::1", "5f00::1", "fc00::1", "fd12::1", "fe80::1", "fe80::1%eth0", "febf::1", "fec0::1", "ff02::1",
	} {
		a := netip.MustParseAddr(text)
		if err := public.Address(a); !errors.Is(err, hostcall.ENOTCAPABLE) {
			t.Errorf("%s: %v", text, err)
		}
		if err := private.Address(a); err != nil {
			t.Errorf("%s with private: %v", text, err)
		}
		if err := named.Address(a); err == nil {
			t.Errorf("%s where 10.0.0.7 is named: %v", text, err)
		}
	}
	for _, text := range []string{"8.8.8.8", "1.1.1.1", "100.63.255.255", "100.128.0.0", "172.15.0.1", "172.32.0.1", "198.17.0.1", "::ffff:8.8.8.8", "2606:4700::1", "2a00::1", "2001:4860::8888"} {
		if err := public.Address(netip.MustParseAddr(text)); err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}
	if err := named.Address(netip.MustParseAddr("::ffff:10.0.0.7")); err != nil {
		t.Error(err)
	}
	if err := public.Control("udp", "8.8.8.8:53", nil); err == nil {
		t.Error("udp was spoken")
	}
	if err := public.Control("tcp4", "8.8.8.8:443", nil); err != nil {
		t.Error(err)
	}
	if err := public.Control("tcp6", "[fe80::1%lo]:443", nil); err == nil {
		t.Error("a link-local address with a zone was dialled")
	}
}

func TestBadCapabilitiesAreAllReportedWhereTheyAre(t *testing.T) {
	_, err := Grant(Capabilities{
		Files: []File{{Guest: "a", Source: ""}, {Guest: "/a/", Source: "x"}, {Guest: "/b", Source: "x", Access: "w", Except: []string{"/b", "/bb/c"}}, {Guest: "/b", Source: "y"}},
		Env:   map[string]string{"A=B": "", "C": "\x00"},
		Fetch: []Fetch{{}, {Scheme: "https", Host: "*.10.0.0.1"}, {Scheme: "https", Host: "a b", Port: 70000}, {Scheme: "https", Host: "*"}},
		KV:    []string{"A", "ok", "ok"}, Invoke: []string{"-a"}, Secrets: []string{"1"},
		Clock: Clock{Offset: 1, Frozen: time.Unix(1, 0)},
	})
	want := `files[0].guest files[0].source files[1].guest files[2].access files[2].except[0] files[2].except[1] files[3].guest
		env.A=B env.C fetch[0].scheme fetch[0].host fetch[1].host fetch[2].port fetch[2].host fetch[3].host kv[0] kv[2] invoke[0] secrets[0] clock`
	var got []string
	for _, e := range err.(interface{ Unwrap() []error }).Unwrap() {
		p := e.(*Error)
		got = append(got, p.Field)
		if p.Rule != -1 || p.Msg == "" || p.Offset != -1 {
			t.Errorf("%+v", p)
		}
	}
	if strings.Join(got, " ") != strings.Join(strings.Fields(want), " ") {
		t.Errorf("%s", strings.Join(got, " "))
	}
	for name, c := range map[string]Capabilities{
		"files": {Files: make([]File, MaxFiles+1)}, "fetch": {Fetch: make([]Fetch, MaxFetch+1)}, "kv": {KV: make([]string, MaxNames+1)},
		"env": {Env: map[string]string{"A": strings.Repeat("x", MaxEnvBytes)}},
	} {
		if _, err := Grant(c); err == nil || !strings.Contains(err.Error(), "at most") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestFetchesAreCheckedAtEachHopAndWhenDialled(t *testing.T) {
	hits := 0
	var srv *httptest.Server
	srv = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		hits++
		switch {
		case r.URL.Path == "/away":
			http.Redirect(w, r, strings.Replace(srv.URL, "127.0.0.1", "localhost", 1)+"/", http.StatusFound)
		case r.Header.Get("Accept-Encoding") != "":
			w.WriteHeader(http.StatusTeapot)
		}
	}))
	defer srv.Close()
	port := netip.MustParseAddrPort(srv.Listener.Addr().String()).Port()
	get := func(g *Grants, url, host string) (int, error) {
		tr := NewTransport(g)
		defer tr.CloseIdleConnections()
		req, err := http.NewRequest("GET", url, nil)
		if err != nil {
			t.Fatal(err)
		}
		if host != "" {
			req.Host = host
		}
		res, err := tr.Client().Do(req)
		if err != nil {
			return 0, err
		}
		_ = res.Body.Close()
		return res.StatusCode, nil
	}
	t.Setenv("HTTP_PROXY", "http://127.0.0.1:1")
	byAddress := granted1(t, Capabilities{Fetch: []Fetch{{Scheme: "http", Host: "127.0.0.1", Port: int(port)}}})
	if code, err := get(byAddress, srv.URL, ""); code != 200 || err != nil {
		t.Errorf("a named address: %d, %v", code, err)
	}
	if code, err := get(byAddress, srv.URL+"/away", ""); code != 302 || err != nil {
		t.Errorf("a redirect was followed: %d, %v", code, err)
	}
	if _, err := get(byAddress, srv.URL, "other.example"); !errors.Is(err, hostcall.ENOTCAPABLE) {
		t.Errorf("another Host: %v", err)
	}
	// The name is granted, but what it resolves to is not public.
	local := strings.Replace(srv.URL, "127.0.0.1", "localhost", 1)
	before := hits
	byName := granted1(t, Capabilities{Fetch: []Fetch{{Scheme: "http", Host: "localhost", Port: int(port)}}})
	if _, err := get(byName, local, ""); !errors.Is(err, hostcall.ENOTCAPABLE) || hits != before {
		t.Errorf("a name that resolves to loopback: %v", err)
	}
	private := granted1(t, Capabilities{Fetch: []Fetch{{Scheme: "http", Host: "localhost", Port: int(port), Private: true}}})
	if code, err := get(private, local, ""); code != 200 || err != nil {
		t.Errorf("with private: %d, %v", code, err)
	}
	// A client that follows redirects is checked at each hop.
	tr := NewTransport(byAddress)
	defer tr.CloseIdleConnections()
	if _, err := (&http.Client{Transport: tr}).Get(srv.URL + "/away"); !errors.Is(err, hostcall.ENOTCAPABLE) {
		t.Errorf("a redirect to another name: %v", err)
	}
}

func FuzzCompile(f *testing.F) {
	f.Add("path_open", `call.path.startsWith("/data/")`, "deny", "path", `"/x/" + call.name`)
	f.Add("*", `call.paths.exists(p, p.matches("^/a"))`, "stop", "", "")
	f.Add("fetch", `"a" in [call.host, call.url] || call.port in [1, 2] && !(call.method != "GET")`, "allow", "url", `call.url`)
	f.Add("fd_*", `call.fd == 3 ? call.offset > 5 : call.whence_name == "SET"`, "set", "whence", `call.fd % 3`)
	table, err := hostcall.NewTable(fakeLibrary())
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, on, when, do, arg, value string) {
		r := Rule{On: OneOrMany{on}, When: when, Do: do}
		if do == "set" {
			r.Set = map[string]string{arg: value}
		}
		if _, err := Compile([]Rule{r}, table); err != nil {
			var e *Error
			if !errors.As(err, &e) || e.Msg == "" || e.Offset > max(len(when), len(value)) {
				t.Errorf("%v", err)
			}
			return
		}
		w := judged(t, r)
		w.open(3, "private/key", 1)
		w.rename(3, "a", 4, "b")
		_, _ = w.Call("fetch", "GET", "https://api.example.com/")
		_, _ = w.Call("fd_seek", 3, uint64(1<<63), 1, w.Put(make([]byte, 8)))
		_, _ = w.Call("kv_put", "b", "k\xff", "v")
	})
}

// Conditions that are compiled to closures give what CEL's interpreter gives.
func TestDirectConditionsAgreeWithCEL(t *testing.T) {
	for _, when := range []string{
		`call.host == "a.example"`, `call.host != "a.example"`, `call.port < 100`, `call.port >= 443`, `call.host in ["a.example", "b"]`, `call.port in [80, 22]`,
		`call.url.contains("x") && call.port != 80`, `!(call.scheme.endsWith("s")) || call.method.startsWith("G")`, `call.bad == "" || true`, `true`,
		`call.port > 1 && call.host == "a.example" && call.method == "GET" || call.url == ""`,
	} {
		table, _ := hostcall.NewTable(fakeLibrary())
		if _, err := Compile([]Rule{{On: OneOrMany{"fetch"}, When: when, Do: "deny"}}, table); err != nil {
			continue // call.bad
		}
		one := judged(t, Rule{On: OneOrMany{"fetch"}, When: when, Do: "deny"})
		// A conditional is no shape that is made direct.
		other := judged(t, Rule{On: OneOrMany{"fetch"}, When: "(" + when + ") ? true : false", Do: "deny"})
		for _, u := range []string{"http://a.example/", "https://b/x", "http://c:22", "http://%zz", "", "\xff"} {
			for _, m := range []string{"GET", "PUT", "\xff"} {
				a, _ := one.Call("fetch", m, u)
				b, _ := other.Call("fetch", m, u)
				if a != b {
					t.Errorf("%s: %q %q: %s directly, %s interpreted", when, m, u, a, b)
				}
			}
		}
	}
}

func TestAServerThatChangesTheProtocolHasNotAnswered(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Connection", "Upgrade")
		w.Header().Set("Upgrade", "other")
		w.WriteHeader(http.StatusSwitchingProtocols)
	}))
	defer srv.Close()
	port := netip.MustParseAddrPort(srv.Listener.Addr().String()).Port()
	tr := NewTransport(granted1(t, Capabilities{Fetch: []Fetch{{Scheme: "http", Host: "127.0.0.1", Port: int(port)}}}))
	defer tr.CloseIdleConnections()
	req, err := http.NewRequest("GET", srv.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	if res, err := tr.RoundTrip(req); err == nil {
		_ = res.Body.Close()
		t.Errorf("it answered %d", res.StatusCode)
	}
}
