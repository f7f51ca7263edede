package api_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime/multipart"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ripstop-vm/ripstop/api"
	"github.com/ripstop-vm/ripstop/api/apitest"
	"github.com/ripstop-vm/ripstop/api/model"
	"github.com/ripstop-vm/ripstop/control"
	"github.com/ripstop-vm/ripstop/internal/clock"
	"github.com/ripstop-vm/ripstop/internal/wire"
)

// decode reads an answer's JSON and checks its status.
func decode[T any](t *testing.T, res *http.Response, status int) T {
	t.Helper()
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	if res.StatusCode != status {
		t.Fatalf("status is %d, want %d: %s", res.StatusCode, status, body)
	}
	var v T
	if len(body) > 0 {
		if err := json.Unmarshal(body, &v); err != nil {
			t.Fatalf("%v in %s", err, body)
		}
	}
	return v
}

func problem(t *testing.T, res *http.Response, status int, code string, details ...string) {
	t.Helper()
	if kind := res.Header.Get("Content-Type"); kind != "application/problem+json" {
		t.Errorf("content type is %q", kind)
	}
	p := decode[model.Problem](t, res, status)
	if p.Code != code || p.Status != status || p.Type != "urn:ripstop:problem:"+code || p.Title == "" {
		t.Errorf("problem is %+v, want code %q", p, code)
	}
	for _, d := range details {
		if !strings.Contains(p.Detail, d) {
			t.Errorf("detail %q does not say %q", p.Detail, d)
		}
	}
}

func deploy(t *testing.T, w *apitest.World, job string) model.Job {
	t.Helper()
	return decode[model.Job](t, w.Request(t, "PUT", "/v1/jobs/"+job+"/module", bytes.NewReader(apitest.Module)), http.StatusCreated)
}

// form is a multipart body of name and text pairs.
func form(t *testing.T, parts ...string) (kind string, body []byte) {
	t.Helper()
	var b bytes.Buffer
	f := multipart.NewWriter(&b)
	for i := 0; i < len(parts); i += 2 {
		p, err := f.CreateFormFile(parts[i], "file")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(p, parts[i+1]); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return f.FormDataContentType(), b.Bytes()
}

func noJobs(t *testing.T, w *apitest.World) {
	t.Helper()
	if l := decode[model.JobList](t, w.Request(t, "GET", "/v1/jobs", nil), http.StatusOK); len(l.Jobs) != 0 {
		t.Errorf("there are jobs: %+v", l.Jobs)
	}
}

func TestOneRequestDeploysAModuleAndAnswersWithItsURL(t *testing.T) {
	w := apitest.Open(t)
	j := deploy(t, w, "hello")
	if j.Name != "hello" || j.Version != 1 || j.Kind != "task" || j.Url != "http://127.0.0.1:8080/hello/" || j.Status != "ready" ||
		j.Size != int64(len(apitest.Module)) || len(j.Module) != 64 || len(j.Routes) != 1 || j.Routes[0].Path != "/hello/" || j.By != "bootstrap" {
		t.Errorf("job is %+v", j)
	}
	got := decode[model.Job](t, w.Request(t, "GET", "/v1/jobs/hello", nil), http.StatusOK)
	if got.Url != j.Url || got.Module != j.Module || !bytes.Equal(got.Manifest, j.Manifest) {
		t.Errorf("GET says %+v, PUT said %+v", got, j)
	}
	res := w.Request(t, "GET", "/v1/jobs/hello/module", nil)
	defer res.Body.Close()
	if b, err := io.ReadAll(res.Body); err != nil || !bytes.Equal(b, apitest.Module) {
		t.Errorf("module is %q, %v", b, err)
	}
}

func TestManifestAndModuleAreDeployedInOneStep(t *testing.T) {
	w := apitest.Open(t)
	kind, body := form(t, "manifest", "routes: [{host: a.example, path: /x/}]\n", "module", string(apitest.Module))
	j := decode[model.Job](t, w.Request(t, "PUT", "/v1/jobs/hello", bytes.NewReader(body), "Content-Type", kind), http.StatusCreated)
	if j.Version != 1 || j.Url != "http://a.example:8080/x/" {
		t.Errorf("job is %+v", j)
	}
	// Another manifest for the same module, sent alone.
	j = decode[model.Job](t, w.Request(t, "PUT", "/v1/jobs/hello/manifest", strings.NewReader(`{"routes":[{"path":"/y/"}]}`)), http.StatusCreated)
	if j.Version != 2 || j.Url != "http://127.0.0.1:8080/y/" {
		t.Errorf("job is %+v", j)
	}
	l := decode[model.VersionList](t, w.Request(t, "GET", "/v1/jobs/hello/versions", nil), http.StatusOK)
	if len(l.Versions) != 2 || l.Versions[0].Version != 2 || !l.Versions[0].Current || l.Versions[1].Current || l.Versions[0].Module != l.Versions[1].Module {
		t.Errorf("versions are %+v", l.Versions)
	}
	j = decode[model.Job](t, w.Request(t, "POST", "/v1/jobs/hello/rollback", nil), http.StatusOK)
	if j.Version != 1 || j.Latest != 2 || j.Url != "http://a.example:8080/x/" {
		t.Errorf("after the rollback: %+v", j)
	}
	j = decode[model.Job](t, w.Request(t, "POST", "/v1/jobs/hello/rollback", strings.NewReader(`{"version":2}`)), http.StatusOK)
	if j.Version != 2 {
		t.Errorf("after the rollback: %+v", j)
	}
	decode[struct{}](t, w.Request(t, "DELETE", "/v1/jobs/hello", nil), http.StatusNoContent)
	noJobs(t, w)
}

func TestBadUploadsAreProblemsAndLeaveNothing(t *testing.T) {
	w := apitest.Open(t, func(o *api.Options) { o.MaxUpload = 1 << 10 })
	wasm := string(apitest.Module)
	big := wasm + strings.Repeat("x", 1<<10)
	for name, c := range map[string]struct {
		path         string
		parts        []string // of a multipart body; else body
		body         string
		chunked      bool
		kind         string
		status       int
		code, detail string
	}{
		"no WebAssembly":                {path: "hello/module", body: "MZ program", status: 422, code: "module-invalid", detail: "no WebAssembly module"},
		"a name that is no label":       {path: "Hello_You/module", body: wasm, status: 400, code: "name-invalid"},
		"too large by its length":       {path: "hello/module", body: big, status: 413, code: "too-large", detail: "1KiB (1024 bytes)"},
		"too large without a length":    {path: "hello/module", body: big, chunked: true, status: 413, code: "too-large", detail: "1KiB (1024 bytes)"},
		"too large within a form":       {path: "hello", parts: []string{"module", big}, status: 413, code: "too-large", detail: "1KiB (1024 bytes)"},
		"an unknown manifest key":       {path: "hello", parts: []string{"manifest", "limits:\n  memry: 1MiB\n", "module", wasm}, status: 422, code: "manifest-invalid", detail: "2:3"},
		"a manifest of another job":     {path: "hello", parts: []string{"manifest", "name: other\n", "module", wasm}, status: 422, code: "manifest-invalid", detail: "other"},
		"a manifest without a module":   {path: "hello/manifest", body: "name: hello\n", status: 404, code: "job-unknown"},
		"a form with an unknown part":   {path: "hello", parts: []string{"modul", wasm}, status: 400, code: "bad-multipart", detail: "modul"},
		"a manifest after the module":   {path: "hello", parts: []string{"module", wasm, "manifest", "name: hello\n"}, status: 400, code: "bad-multipart", detail: "before the module"},
		"two manifests":                 {path: "hello", parts: []string{"manifest", "name: hello\n", "manifest", "name: hello\n"}, status: 400, code: "bad-multipart"},
		"an empty form":                 {path: "hello", parts: []string{}, status: 400, code: "nothing-to-deploy"},
		"no form":                       {path: "hello", body: wasm, status: 415, code: "not-multipart", detail: "/module"},
		"a form cut off in the module":  {path: "hello", kind: "multipart/form-data; boundary=b", body: "--b\r\nContent-Disposition: form-data; name=\"module\"\r\n\r\n" + wasm, status: 400, code: "bad-multipart"},
		"a form cut off at its heading": {path: "hello", kind: "multipart/form-data; boundary=b", body: "--b\r\nContent-Dispo", status: 400, code: "bad-multipart"},
	} {
		t.Run(name, func(t *testing.T) {
			kind, body := c.kind, []byte(c.body)
			if c.parts != nil {
				kind, body = form(t, c.parts...)
			}
			var r io.Reader = bytes.NewReader(body)
			if c.chunked {
				r = io.MultiReader(r)
			}
			problem(t, w.Request(t, "PUT", "/v1/jobs/"+c.path, r, "Content-Type", kind), c.status, c.code, c.detail)
			noJobs(t, w)
		})
	}
	kind, body := form(t, "module", wasm+strings.Repeat("x", 3<<20))
	problem(t, w.Request(t, "PUT", "/v1/jobs/hello", bytes.NewReader(body), "Content-Type", kind), 413, "too-large", "1KiB (1024 bytes)")
	exact := wasm + strings.Repeat("x", 1<<10-len(wasm))
	decode[model.Job](t, w.Request(t, "PUT", "/v1/jobs/exact/module", io.MultiReader(strings.NewReader(exact))), http.StatusCreated)
}

// A client that is sending when it is refused gets the answer, and not a connection that is reset.
func TestARefusalReachesAClientThatStillSends(t *testing.T) {
	w := apitest.Open(t)
	kind, body := form(t, "manifest", "limits:\n  memry: 1MiB\n", "module", string(apitest.Module)+strings.Repeat("x", 1<<20))
	for name, expect := range map[string]string{"that was told to go on": "Expect: 100-continue\r\n", "that did not ask": ""} {
		t.Run(name, func(t *testing.T) {
			conn, err := net.Dial("tcp", strings.TrimPrefix(w.URL, "http://"))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := fmt.Fprintf(conn, "PUT /v1/jobs/hello HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %s\r\nContent-Type: %s\r\n%sContent-Length: %d\r\n\r\n",
				w.Token, kind, expect, len(body)); err != nil {
				t.Fatal(err)
			}
			sent := make(chan struct{})
			go func() {
				defer close(sent)
				_, _ = conn.Write(body) // more than net/http reads of a body that nobody wants; it may end before all is taken
			}()
			defer func() { conn.Close(); <-sent }()
			in := bufio.NewReader(conn)
			res, err := http.ReadResponse(in, nil)
			if err == nil && res.StatusCode == http.StatusContinue {
				res, err = http.ReadResponse(in, nil)
			}
			if err != nil {
				t.Fatal(err)
			}
			problem(t, res, 422, "manifest-invalid", "2:3")
			if _, err := in.ReadByte(); err != io.EOF {
				t.Errorf("the connection ends with %v", err)
			}
		})
	}
}

// An upload that is refused before a byte of it is asked for is not asked for by the refusal.
func TestARefusedUploadIsNotAskedFor(t *testing.T) {
	w := apitest.Open(t)
	conn, err := net.Dial("tcp", strings.TrimPrefix(w.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "PUT /v1/jobs/hello/module HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer x\r\nExpect: 100-continue\r\nContent-Length: 1000\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	problem(t, res, 401, "token-denied")
}

func TestAnInterruptedUploadLeavesNothing(t *testing.T) {
	w := apitest.Open(t)
	conn, err := net.Dial("tcp", strings.TrimPrefix(w.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, err = io.WriteString(conn, "PUT /v1/jobs/hello/module HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer "+w.Token+
		"\r\nContent-Length: 1000\r\n\r\n"+string(apitest.Module))
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	problem(t, res, 400, "upload-interrupted", "after 8 bytes", "nothing was changed")
	noJobs(t, w)
}

func TestRequestsAreHeldAgainstTokenScopeAndHost(t *testing.T) {
	w := apitest.Open(t, func(o *api.Options) { o.Hosts = []string{"ripstop.example"} })
	_, reader, err := w.Store.CreateToken(t.Context(), "test", "reader", time.Hour, control.Scope{Entitlement: "default", Verbs: []control.Verb{control.VerbRead}})
	if err != nil {
		t.Fatal(err)
	}
	_, invoker, err := w.Store.CreateToken(t.Context(), "test", "invoker", time.Hour, control.Scope{Entitlement: "default", Verbs: []control.Verb{control.VerbInvoke}})
	if err != nil {
		t.Fatal(err)
	}
	deploy(t, w, "hello")
	for name, c := range map[string]struct {
		method, path, auth, host string
		status                   int
		code                     string
	}{
		"no token":                         {"GET", "/v1/jobs", "none", "", 401, "no-token"},
		"another scheme":                   {"GET", "/v1/jobs", "Basic abc", "", 401, "no-token"},
		"no token on an unknown path":      {"GET", "/v1/nothing", "none", "", 401, "no-token"},
		"no token for metrics":             {"GET", "/metrics", "none", "", 401, "no-token"},
		"a reader may not deploy":          {"PUT", "/v1/jobs/hello/module", "Bearer " + reader, "", 403, "scope"},
		"a reader may not remove":          {"DELETE", "/v1/jobs/hello", "Bearer " + reader, "", 403, "scope"},
		"a reader may not cancel":          {"DELETE", "/v1/jobs/hello/invocations/1", "Bearer " + reader, "", 403, "scope"},
		"an invoker may not list":          {"GET", "/v1/jobs/hello/invocations", "Bearer " + invoker, "", 403, "scope"},
		"a page that nobody answered":      {"GET", "/v1/jobs/hello/invocations?after=0.0.0", "", "", 400, "bad-parameter"},
		"an ID that climbs":                {"DELETE", "/v1/jobs/hello/invocations/..%2f..%2fother", "", "", 404, "invocation-unknown"},
		"a reader may not make tokens":     {"POST", "/v1/tokens", "Bearer " + reader, "", 403, "scope"},
		"a reader may not see the audit":   {"GET", "/v1/audit", "Bearer " + reader, "", 403, "scope"},
		"a name pointed here by a page":    {"GET", "/v1/jobs", "", "evil.example:7070", 421, "wrong-host"},
		"the same for an open path":        {"GET", "/healthz", "none", "evil.example", 421, "wrong-host"},
		"an address that is not this one":  {"GET", "/v1/jobs", "", "192.0.2.1", 421, "wrong-host"},
		"an unknown path":                  {"GET", "/v1/nothing", "", "", 404, "no-such-path"},
		"a method that is not there":       {"POST", "/v1/jobs/hello", "", "", 405, "method-not-allowed"},
		"an unknown job":                   {"GET", "/v1/jobs/nobody", "", "", 404, "job-unknown"},
		"logs of an unknown job":           {"GET", "/v1/jobs/nobody/logs", "", "", 404, "job-unknown"},
		"a tail that is no number":         {"GET", "/v1/jobs/hello/logs?tail=all", "", "", 400, "bad-request"},
		"a tail that is too long":          {"GET", "/v1/jobs/hello/logs?tail=10001", "", "", 400, "bad-parameter"},
		"an audit limit out of its range":  {"GET", "/v1/audit?limit=0", "", "", 400, "bad-parameter"},
		"a parameter that is misspelled":   {"GET", "/v1/jobs/hello/logs?folow=true", "", "", 400, "unknown-parameter"},
		"a query that cannot be read":      {"GET", "/v1/jobs/hello/logs?follow=true;x", "", "", 400, "bad-query"},
		"a parameter where there are none": {"GET", "/v1/jobs?limit=1", "", "", 400, "unknown-parameter"},
		"a secret without a value":         {"PUT", "/v1/jobs/hello/secrets/key", "", "", 400, "empty-secret"},
		"a token that is not there":        {"DELETE", "/v1/tokens/nobody", "", "", 404, "token-unknown"},
		"a token request without a body":   {"POST", "/v1/tokens", "", "", 400, "bad-json"},
		"metrics where there are none":     {"GET", "/metrics", "", "", 404, "no-such-path"},
		"a path that walks up":             {"GET", "/v1/jobs/../../etc", "", "", 404, "no-such-path"},
		"no rollback without an old state": {"POST", "/v1/jobs/hello/rollback", "", "", 409, "version-none"},
	} {
		t.Run(name, func(t *testing.T) {
			header := []string{}
			switch c.auth {
			case "":
			case "none":
				header = append(header, "Authorization", "")
			default:
				header = append(header, "Authorization", c.auth)
			}
			if c.host != "" {
				header = append(header, "Host", c.host)
			}
			problem(t, w.Request(t, c.method, c.path, nil, header...), c.status, c.code)
		})
	}
	for _, host := range []string{"localhost", "LOCALHOST:1", "127.0.0.1", "[::1]:7070", "ripstop.example", "Ripstop.Example.:80"} {
		res := w.Request(t, "GET", "/v1/jobs", nil, "Host", host)
		decode[model.JobList](t, res, http.StatusOK)
	}
	wrong := w.Request(t, "GET", "/v1/jobs", nil, "Authorization", "Bearer wrong")
	if decode[model.Problem](t, wrong, http.StatusUnauthorized); wrong.Header.Get("WWW-Authenticate") == "" {
		t.Error("401 without WWW-Authenticate")
	}
	var denied int
	for _, e := range decode[model.AuditList](t, w.Request(t, "GET", "/v1/audit?limit=1000", nil), http.StatusOK).Entries {
		if e.Kind == "api.denied" {
			denied++
			if strings.Contains(e.Detail, reader) || e.Detail == "" {
				t.Errorf("entry is %+v", e)
			}
		}
	}
	if denied == 0 || denied > 21 {
		t.Errorf("%d refused requests are in the audit log, want some, but no flood", denied)
	}
}

func TestTokensAreShownOnceAndRevoked(t *testing.T) {
	w := apitest.Open(t)
	made := decode[model.CreatedToken](t, w.Request(t, "POST", "/v1/tokens", strings.NewReader(`{"name":"ci","ttl":"1h","verbs":["read"]}`)), http.StatusCreated)
	if made.Secret == "" || made.Token.Expires == nil || len(made.Token.Scope.Verbs) != 1 {
		t.Errorf("made %+v", made)
	}
	as := []string{"Authorization", "Bearer " + made.Secret}
	decode[model.JobList](t, w.Request(t, "GET", "/v1/jobs", nil, as...), http.StatusOK)
	res := w.Request(t, "GET", "/v1/tokens", nil)
	body, _ := io.ReadAll(res.Body)
	res.Body.Close()
	if !bytes.Contains(body, []byte(`"ci"`)) || bytes.Contains(body, []byte(made.Secret)) {
		t.Errorf("tokens are %s", body)
	}
	decode[struct{}](t, w.Request(t, "DELETE", "/v1/tokens/"+made.Token.Id, nil), http.StatusNoContent)
	decode[model.Problem](t, w.Request(t, "GET", "/v1/jobs", nil, as...), http.StatusUnauthorized)
	for _, bad := range []string{`{}`, `{"name":"x","ttl":"soon"}`, `{"name":"x","ttl":"-1h"}`, `{"name":"x","verbs":["fly"]}`} {
		problem(t, w.Request(t, "POST", "/v1/tokens", strings.NewReader(bad)), 422, "bad-token")
	}
	problem(t, w.Request(t, "POST", "/v1/tokens", strings.NewReader(`{"name":"x","color":1}`)), 400, "bad-json", "color")
}

func TestSecretsGoInAndOnlyTheirNamesComeOut(t *testing.T) {
	w := apitest.Open(t)
	deploy(t, w, "hello")
	decode[struct{}](t, w.Request(t, "PUT", "/v1/jobs/hello/secrets/key", strings.NewReader("s3cret\n")), http.StatusNoContent)
	if v, err := w.Store.Secret(t.Context(), "hello", "key"); err != nil || string(v) != "s3cret\n" {
		t.Errorf("stored %q, %v", v, err)
	}
	if l := decode[model.SecretList](t, w.Request(t, "GET", "/v1/jobs/hello/secrets", nil), http.StatusOK); len(l.Secrets) != 1 || l.Secrets[0].Name != "key" {
		t.Errorf("secrets are %+v", l)
	}
	problem(t, w.Request(t, "PUT", "/v1/jobs/hello/secrets/key", bytes.NewReader(make([]byte, 64<<10+1))), 413, "too-large")
	decode[struct{}](t, w.Request(t, "DELETE", "/v1/jobs/hello/secrets/key", nil), http.StatusNoContent)
}

func TestLogsAreFollowedUntilTheClientLeavesOrTheServerStops(t *testing.T) {
	w := apitest.Open(t)
	deploy(t, w, "hello")
	for i := range 5 {
		w.Hub.Report(wire.Report{Kind: wire.ReportLog, Job: "hello", Time: apitest.Epoch, Stream: "stdout", Text: strconv.Itoa(i)})
	}
	res := w.Request(t, "GET", "/v1/jobs/hello/logs?tail=2", nil)
	body, _ := io.ReadAll(res.Body)
	res.Body.Close()
	if lines := strings.Count(string(body), "\n"); lines != 2 || !strings.Contains(string(body), `"text":"4"`) {
		t.Errorf("tail of two is %q", body)
	}
	res = w.Request(t, "GET", "/v1/jobs/hello/logs?tail=0&follow=true", nil)
	defer res.Body.Close()
	if res.Header.Get("Content-Type") != "application/x-ndjson" {
		t.Errorf("content type is %q", res.Header.Get("Content-Type"))
	}
	w.Hub.Report(wire.Report{Kind: wire.ReportLog, Job: "other", Stream: "stdout", Text: "not ours"})
	w.Hub.Report(wire.Report{Kind: wire.ReportLog, Job: "hello", Stream: "stderr", Level: "error", Text: "live"})
	in := bufio.NewScanner(res.Body)
	if !in.Scan() {
		t.Fatal("nothing came")
	}
	var l model.LogLine
	if err := json.Unmarshal(in.Bytes(), &l); err != nil || l.Text != "live" || l.Level != "error" {
		t.Errorf("line is %q, %v", in.Text(), err)
	}
	w.API.Stop()
	if in.Scan() || in.Err() != nil {
		t.Errorf("after the stop: %q, %v", in.Text(), in.Err())
	}
	// The answer ends before its handler has returned; the follower is gone soon after.
	for deadline, _ := t.Deadline(); w.Hub.Followers() > 0; {
		if !deadline.IsZero() && time.Until(deadline) < time.Second {
			t.Fatal("the follower is still there")
		}
	}
}

func TestTracesAreFollowed(t *testing.T) {
	w := apitest.Open(t)
	deploy(t, w, "hello")
	ctx, leave := context.WithCancel(t.Context())
	req, _ := http.NewRequestWithContext(ctx, "GET", w.URL+"/v1/jobs/hello/trace", nil)
	req.Header.Set("Authorization", "Bearer "+w.Token)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	w.Hub.Report(wire.Report{Kind: wire.ReportTrace, Job: "hello", Trace: json.RawMessage(`{"function":"path_open"}`)})
	in := bufio.NewScanner(res.Body)
	if !in.Scan() || !strings.Contains(in.Text(), `"record":{"function":"path_open"}`) {
		t.Errorf("line is %q", in.Text())
	}
	leave()
}

func TestTheServerSaysHowItIs(t *testing.T) {
	var notReady error
	w := apitest.Open(t, func(o *api.Options) {
		o.Ready = func() error { return notReady }
		o.Metrics = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "up 1\n") })
		o.ManifestSchema = []byte(`{"title":"manifest"}`)
		o.Status = func(job string, version uint64) api.JobStatus {
			return api.JobStatus{State: "failed", Reason: fmt.Sprintf("%s %d", job, version)}
		}
	})
	for path, want := range map[string]string{"/healthz": "ok\n", "/readyz": "ready\n", "/metrics": "up 1\n", "/v1/manifest.schema.json": `{"title":"manifest"}`} {
		res := w.Request(t, "GET", path, nil)
		b, _ := io.ReadAll(res.Body)
		res.Body.Close()
		if res.StatusCode != 200 || string(b) != want {
			t.Errorf("%s: %d %q", path, res.StatusCode, b)
		}
	}
	if j := deploy(t, w, "hello"); j.Status != "failed" || j.Reason == nil || *j.Reason != "hello 1" {
		t.Errorf("status is %q, %v", j.Status, j.Reason)
	}
	notReady = errors.New("the worker is starting")
	problem(t, w.Request(t, "GET", "/readyz", nil, "Authorization", ""), 503, "not-ready", "the worker is starting")
}

func TestAChangeNoWorkerHasConfirmedIsStored(t *testing.T) {
	w := apitest.Open(t)
	w.Runner.Unconfirmed = errors.New("the worker is away")
	j := decode[model.Job](t, w.Request(t, "PUT", "/v1/jobs/hello/module", bytes.NewReader(apitest.Module)), http.StatusAccepted)
	if j.Status != "starting" || j.Version != 1 {
		t.Errorf("job is %+v", j)
	}
	decode[struct{}](t, w.Request(t, "DELETE", "/v1/jobs/hello", nil), http.StatusAccepted)
	problem(t, w.Request(t, "GET", "/v1/jobs/hello", nil), http.StatusNotFound, "job-unknown", "hello")
}

func TestOurOwnFailuresAreNotShown(t *testing.T) {
	w := apitest.Open(t)
	w.Runner.Prepared = func(context.Context, wire.Assignment) error { return errors.New("password=hunter2") }
	res := w.Request(t, "PUT", "/v1/jobs/hello/module", bytes.NewReader(apitest.Module))
	body, _ := io.ReadAll(res.Body)
	res.Body.Close()
	if res.StatusCode != 500 || strings.Contains(string(body), "hunter2") || !strings.Contains(string(body), `"internal"`) {
		t.Errorf("%d %s", res.StatusCode, body)
	}
	w.Runner.Prepared = func(context.Context, wire.Assignment) error { panic("a bug") }
	problem(t, w.Request(t, "PUT", "/v1/jobs/hello/module", bytes.NewReader(apitest.Module)), 500, "internal")
}

func TestBadOptionsAreAllReported(t *testing.T) {
	_, err := api.New(api.Options{IngressURL: "nowhere", MaxUpload: -1})
	for _, want := range []string{"control", "hub", "ingress", "upload"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v does not name %s", err, want)
		}
	}
}

func TestTheDescriptionIsServedAndEveryOperationNeedsAVerb(t *testing.T) {
	w := apitest.Open(t)
	res := w.Request(t, "GET", "/v1/openapi.yaml", nil, "Authorization", "") // tools that fetch it have no token
	got, _ := io.ReadAll(res.Body)
	res.Body.Close()
	file, err := os.ReadFile("openapi.yaml")
	if err != nil || !bytes.Equal(got, file) {
		t.Errorf("served %d bytes, the file has %d (%v)", len(got), len(file), err)
	}
	described, operation, name := map[string][]string{}, "", ""
	for line := range strings.Lines(string(file)) {
		line = strings.TrimSpace(line)
		if id, ok := strings.CutPrefix(line, "operationId: "); ok {
			if _, ok := api.OperationVerbs[id]; !ok {
				t.Errorf("operation %s is not in the table of verbs", id)
			}
			operation = id
		}
		if n, ok := strings.CutPrefix(line, "- name: "); ok {
			name = n
		}
		if line == "in: query" {
			described[operation] = append(described[operation], name)
			slices.Sort(described[operation])
		}
	}
	if !maps.EqualFunc(described, api.QueryParameters, slices.Equal) {
		t.Errorf("described are the query parameters %v, known are %v", described, api.QueryParameters)
	}
}

func TestARecorderIsServedToo(t *testing.T) {
	w := apitest.Open(t)
	r := httptest.NewRequest("GET", "http://localhost/healthz", nil)
	rec := httptest.NewRecorder()
	w.API.ServeHTTP(rec, r)
	if rec.Code != 200 {
		t.Errorf("status is %d", rec.Code)
	}
}

func TestFollowersLeaveOnceTheirTokenIsRevoked(t *testing.T) {
	now := clock.NewManual(clock.System.Now()) // uploads are given deadlines by it
	w := apitest.Open(t, func(o *api.Options) { o.Clock = now })
	deploy(t, w, "hello")
	_, reader, err := w.Store.CreateToken(t.Context(), "test", "reader", 0, control.Scope{Verbs: []control.Verb{control.VerbRead}})
	if err != nil {
		t.Fatal(err)
	}
	follow := func(path, token string) *bufio.Scanner {
		t.Helper()
		res := w.Request(t, "GET", path, nil, "Authorization", "Bearer "+token)
		t.Cleanup(func() { _ = res.Body.Close() })
		if res.StatusCode != http.StatusOK {
			t.Fatal(res.Status)
		}
		return bufio.NewScanner(res.Body)
	}
	logs, traces := follow("/v1/jobs/hello/logs?tail=0&follow=true", reader), follow("/v1/jobs/hello/trace", reader)
	stays := follow("/v1/jobs/hello/logs?tail=0&follow=true", w.Token)
	say := func() {
		w.Hub.Report(wire.Report{Kind: wire.ReportLog, Job: "hello", Text: "line"})
		w.Hub.Report(wire.Report{Kind: wire.ReportTrace, Job: "hello"})
	}
	say()
	for _, in := range []*bufio.Scanner{logs, traces, stays} {
		if !in.Scan() {
			t.Fatal("nothing came")
		}
	}
	if err := w.Store.RevokeToken(t.Context(), "test", "reader"); err != nil {
		t.Fatal(err)
	}
	now.Advance(5 * time.Second)
	for name, in := range map[string]*bufio.Scanner{"logs": logs, "traces": traces} {
		if in.Scan() {
			t.Errorf("%s: %q", name, in.Text())
		}
	}
	say()
	if !stays.Scan() {
		t.Error("the other follower left, too")
	}
}
