package guest

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"flag"
	"net/http"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/ripstop-vm/ripstop/runtime/hostcall"
)

var update = flag.Bool("update", false, "rewrite the bytes of the test vectors")

const vectorFile = "../../sdk/testdata/vectors.json"

type vectors struct {
	Wants     []wantsVector    `json:"wants"`
	Requests  []requestVector  `json:"requests"`
	Responses []responseVector `json:"responses"`
	Refused   []refusedVector  `json:"refused_responses"`
	Answers   []answerVector   `json:"answers"`
	Enqueued  []enqueuedVector `json:"enqueued"`
}

type enqueuedVector struct {
	Name  string `json:"name"`
	Bytes string `json:"bytes"` // the fields of an answer to enqueue
	ID    string `json:"id"`
	Known bool   `json:"known"`
}

type wantsVector struct {
	Name     string `json:"name"`
	Value    uint32 `json:"value"`
	Returned bool   `json:"returned"`
}

type requestVector struct {
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
}

type responseVector struct {
	Name   string      `json:"name"`
	Bytes  string      `json:"bytes"`
	Status int         `json:"status"`
	Header http.Header `json:"header"`
	Body   string      `json:"body"`
}

type refusedVector struct {
	Name  string `json:"name"`
	Bytes string `json:"bytes"`
}

type answerVector struct {
	Name    string `json:"name"`
	Bytes   string `json:"bytes"`
	Errno   uint32 `json:"errno"`
	Fields  string `json:"fields"`
	Payload string `json:"payload"`
}

func readVectors(t *testing.T) vectors {
	t.Helper()
	b, err := os.ReadFile(vectorFile)
	if err != nil {
		t.Fatal(err)
	}
	var v vectors
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

func TestVectorsAreWrittenAndRead(t *testing.T) {
	v := readVectors(t)
	for i := range v.Requests {
		c := &v.Requests[i]
		q := taskRequest{
			method: c.Method, scheme: c.Scheme, host: c.Host, target: c.Target, prefix: c.Prefix, protocol: c.Protocol, remote: c.Remote,
			invocation: c.Invocation, timeLeft: c.TimeLeft, length: c.Length, header: c.Header, body: c.Body, inline: []byte(c.Inline), fd: c.FD,
		}
		got := hex.EncodeToString(q.append(nil))
		if *update {
			c.Bytes = got
		} else if got != c.Bytes {
			t.Errorf("%s: %s, want %s", c.Name, got, c.Bytes)
		}
	}
	for i := range v.Responses {
		c := &v.Responses[i]
		if *update {
			c.Bytes = hex.EncodeToString(appendString(appendHeader(appendUint32(nil, uint32(c.Status)), c.Header), c.Body))
		}
		raw, err := hex.DecodeString(c.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		status, h, body, err := decodeResponse(raw)
		if err != nil || status != c.Status || !reflect.DeepEqual(h, c.Header) || string(body) != c.Body {
			t.Errorf("%s: %d %v %q %v", c.Name, status, h, body, err)
		}
		for len(raw) > 0 {
			raw = raw[:len(raw)-1]
			if _, _, _, err := decodeResponse(raw); err == nil {
				t.Errorf("%s: %d bytes of it were read as a response", c.Name, len(raw))
			}
		}
	}
	for _, c := range v.Refused {
		raw, err := hex.DecodeString(c.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		if status, h, _, err := decodeResponse(raw); err == nil {
			t.Errorf("%s was read: %d %v", c.Name, status, h)
		}
	}
	for i := range v.Answers {
		c := &v.Answers[i]
		fields, err := hex.DecodeString(c.Fields)
		if err != nil {
			t.Fatal(err)
		}
		payload, err := hex.DecodeString(c.Payload)
		if err != nil {
			t.Fatal(err)
		}
		l := longCall{stream: newStream(nil)}
		var failure error
		if c.Errno != 0 {
			failure = hostcall.Errno(c.Errno)
		}
		l.answer(failure, fields, payload)
		out := make([]byte, 1<<10)
		n, err := l.stream.Read(out)
		got := hex.EncodeToString(out[:n])
		if *update {
			c.Bytes = got
		} else if err != nil || got != c.Bytes {
			t.Errorf("%s: %s %v, want %s", c.Name, got, err, c.Bytes)
		}
		if n, err := l.stream.Read(out); n != 0 || err != nil {
			t.Errorf("%s: no end: %d %v", c.Name, n, err)
		}
	}
	for i := range v.Enqueued {
		c := &v.Enqueued[i]
		got := hex.EncodeToString(Enqueued{ID: c.ID, Known: c.Known}.append(nil))
		if *update {
			c.Bytes = got
		} else if got != c.Bytes {
			t.Errorf("%s: %s, want %s", c.Name, got, c.Bytes)
		}
	}
	if *update {
		out, err := json.MarshalIndent(v, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(vectorFile, append(out, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func TestHeadersThatAreTooMuchAreRefused(t *testing.T) {
	many := http.Header{}
	for i := range MaxHeaders + 1 {
		many.Add("X-A", strings.Repeat("a", i%3))
	}
	for name, h := range map[string]http.Header{"too many": many, "too long": {"X-A": {strings.Repeat("a", MaxHeaderBytes)}}} {
		if _, err := decodeFields(appendHeader(nil, h)); err == nil {
			t.Errorf("%s: it was read", name)
		}
	}
	many.Del("X-A")
	for range MaxHeaders {
		many.Add("X-A", "a")
	}
	if h, err := decodeFields(appendHeader(nil, many)); err != nil || len(h["X-A"]) != MaxHeaders {
		t.Error(err)
	}
}

func FuzzResponse(f *testing.F) {
	f.Add(appendString(appendHeader(appendUint32(nil, 200), http.Header{"A": {"b", "c"}}), "body"))
	f.Add([]byte{200, 0, 0, 0, 255, 255, 255, 255})
	f.Add([]byte{200, 0, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255})
	f.Fuzz(func(t *testing.T, b []byte) {
		status, h, body, err := decodeResponse(b)
		if err != nil {
			return
		}
		again := appendString(appendHeader(appendUint32(nil, uint32(status)), h), body)
		status2, h2, body2, err := decodeResponse(again)
		if err != nil || status != status2 || !reflect.DeepEqual(h, h2) || !bytes.Equal(body, body2) {
			t.Fatalf("%d %v %q became %d %v %q %v", status, h, body, status2, h2, body2, err)
		}
		_, _ = decodeFields(b)
	})
}
