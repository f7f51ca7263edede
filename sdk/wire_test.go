package sdk

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"os"
	"reflect"
	"strings"
	"testing"
)

// vectors is testdata/vectors.json, which the host's side is held against, too.
type vectors struct {
	Wants    []wantsVector `json:"wants"`
	Requests []struct {
		Name       string      `json:"name"`
		Bytes      string      `json:"bytes"`
		Method     string      `json:"method"`
		Scheme     string      `json:"scheme"`
		Host       string      `json:"host"`
		Target     string      `json:"target"`
		Prefix     string      `json:"prefix"`
		Protocol   string      `json:"protocol"`
		Remote     string      `json:"remote"`
		Invocation string      `json:"invocation"`
		TimeLeft   uint64      `json:"time_left"`
		Length     uint64      `json:"length"`
		Header     http.Header `json:"header"`
		Body       byte        `json:"body"`
		Inline     string      `json:"inline"`
		FD         uint32      `json:"fd"`
	} `json:"requests"`
	Responses []struct {
		Name   string      `json:"name"`
		Bytes  string      `json:"bytes"`
		Status int         `json:"status"`
		Header http.Header `json:"header"`
		Body   string      `json:"body"`
	} `json:"responses"`
	Refused []struct {
		Name  string `json:"name"`
		Bytes string `json:"bytes"`
	} `json:"refused_responses"`
	Answers []struct {
		Name    string `json:"name"`
		Bytes   string `json:"bytes"`
		Errno   uint32 `json:"errno"`
		Fields  string `json:"fields"`
		Payload string `json:"payload"`
	} `json:"answers"`
	Enqueued []struct {
		Name  string `json:"name"`
		Bytes string `json:"bytes"`
		ID    string `json:"id"`
		Known bool   `json:"known"`
	} `json:"enqueued"`
}

type wantsVector struct {
	Value    uint32 `json:"value"`
	Returned bool   `json:"returned"`
}

func readVectors(t *testing.T) vectors {
	t.Helper()
	b, err := os.ReadFile("testdata/vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	var v vectors
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestVectorsAreReadAndWritten(t *testing.T) {
	v := readVectors(t)
	for _, c := range v.Requests {
		want := request{
			method: c.Method, scheme: c.Scheme, host: c.Host, target: c.Target, prefix: c.Prefix, protocol: c.Protocol, remote: c.Remote,
			invocation: c.Invocation, timeLeft: c.TimeLeft, length: c.Length, header: c.Header, body: c.Body, fd: c.FD,
		}
		if c.Body == bodyInline {
			want.inline = c.Inline
		}
		for _, more := range []string{"", "ff00"} {
			got, err := decodeRequest(unhex(t, c.Bytes+more))
			if err != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("%s: %+v %v, want %+v", c.Name, got, err, want)
			}
		}
		for b := unhex(t, c.Bytes); len(b) > 0; {
			b = b[:len(b)-1]
			if _, err := decodeRequest(b); err == nil {
				t.Errorf("%s: %d bytes of it were read as a request", c.Name, len(b))
			}
		}
	}
	for _, c := range v.Responses {
		if got := hex.EncodeToString(appendString(appendHead(nil, c.Status, c.Header), c.Body)); got != c.Bytes {
			t.Errorf("%s: %s, want %s", c.Name, got, c.Bytes)
		}
	}
	for _, c := range v.Answers {
		r := bytes.NewReader(unhex(t, c.Bytes))
		fields, err := readAnswer(r)
		if c.Errno != 0 {
			if !errors.Is(err, Errno(c.Errno)) {
				t.Errorf("%s: %v, want %v", c.Name, err, Errno(c.Errno))
			}
			continue
		}
		payload, _ := io.ReadAll(r)
		if err != nil || hex.EncodeToString(fields) != c.Fields || hex.EncodeToString(payload) != c.Payload {
			t.Errorf("%s: %x %x %v", c.Name, fields, payload, err)
		}
	}
	for _, c := range v.Enqueued {
		b := unhex(t, c.Bytes)
		for _, more := range []string{"", "ff"} { // a later host may say more
			if got, err := decodeQueued(append(b, more...)); err != nil || got != (Queued{ID: c.ID, Known: c.Known}) {
				t.Errorf("%s: %+v %v", c.Name, got, err)
			}
		}
		for len(b) > 0 {
			b = b[:len(b)-1]
			if got, err := decodeQueued(b); err == nil {
				t.Errorf("%s: %d bytes of it were read as %+v", c.Name, len(b), got)
			}
		}
	}
	if len(v.Requests) < 3 || len(v.Responses) < 2 || len(v.Answers) < 3 || len(v.Enqueued) < 2 {
		t.Error("vectors are missing")
	}
}

func FuzzRequest(f *testing.F) {
	for _, target := range []string{"/", "/a?b=c", "/a?", "/a b", "//host/a", "/a%2fb", "/a#b", "*", "/ä", "/a?b#c", "/a;b", "/a?b\x00", ""} {
		f.Add(message(request{method: "GET", target: target, header: http.Header{"X-A": {"1", "2"}, "x_b": {""}}}))
	}
	f.Add([]byte{})
	f.Add(bytes.Repeat([]byte{0}, 61))
	f.Add(bytes.Repeat([]byte{0xff}, 61))
	f.Fuzz(func(t *testing.T, b []byte) {
		q, err := decodeRequest(b)
		if err != nil {
			return
		}
		r := q.http(t.Context(), fakeHost{})
		want, err := url.ParseRequestURI(q.target)
		if err == nil && q.prefix == "" && strings.HasPrefix(want.Path, "/") && *r.URL != *want {
			t.Errorf("the target %q became %+v, want %+v", q.target, *r.URL, *want)
		}
	})
}

func FuzzAnswer(f *testing.F) {
	f.Add([]byte{4, 0, 0, 0, 44, 0, 0, 0})
	f.Add([]byte{12, 0, 0, 0, 0, 0, 0, 0, 200, 0, 0, 0, 0, 0, 0, 0})
	f.Add([]byte{255, 255, 63, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		fields, err := readAnswer(bytes.NewReader(b))
		if err != nil {
			return
		}
		_, _ = decodeVersion(fields)
		if q, err := decodeQueued(fields); err == nil && len(q.ID)+8 > len(fields) {
			t.Fatalf("%+v from %d bytes", q, len(fields))
		}
		if status, h, err := decodeHead(fields); err == nil {
			again, h2, err := decodeHead(appendHead(nil, status, h))
			if err != nil || again != status || !reflect.DeepEqual(h, h2) {
				t.Fatalf("%d %v became %d %v %v", status, h, again, h2, err)
			}
		}
		if items, err := decodeItems(fields); err == nil && len(items)*20 > len(b) {
			t.Fatalf("%d items from %d bytes", len(items), len(b))
		}
	})
}
