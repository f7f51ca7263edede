package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestBrokerLists(t *testing.T) {
	for _, list := range [][]string{nil, {"embedded"}} {
		if o, err := parseBroker(list); o != nil || err != nil {
			t.Errorf("%q is %+v, %v", list, o, err)
		}
	}
	o, err := parseBroker([]string{"redis://u:p@a?db=2&prefix=x", "queue=redis+sentinel://b/m", "blobs=unix:///c"})
	if err != nil || o.URL != "redis://u:p@a?db=2&prefix=x" || o.Queue != "redis+sentinel://b/m" || o.Blobs != "unix:///c" || o.Records != "" {
		t.Errorf("a list is %+v, %v", o, err)
	}
	all := []string{"records=redis://a", "leases=redis://a", "blobs=redis://b", "queue=redis://c", "buckets=redis://c"}
	if o, err := parseBroker(all); err != nil || o.Records != "redis://a" || o.Buckets != "redis://c" {
		t.Errorf("a list of all is %+v, %v", o, err)
	}
	for _, c := range []struct {
		want string
		list []string
	}{
		{"no scheme", []string{""}},
		{"no scheme", []string{"redis"}},
		{"unknown scheme \"http\"; it begins with redis://", []string{"http://a"}},
		{"no contract \"jobs\"", []string{"jobs=redis://a"}},
		{"no contract \"\"", []string{"=redis://a"}},
		{"stands alone", []string{"redis://a", "embedded"}},
		{"stands alone", []string{"records=embedded"}},
		{"two URLs", []string{"redis://a", "redis://b"}},
		{"queue is given twice", []string{"redis://a", "queue=redis://b", "queue=redis://c"}},
		{"where to keep leases, blobs", []string{"records=redis://a", "queue=redis://a", "buckets=redis://a"}},
		{"where to keep buckets", all[:4]},
		{"no scheme", []string{"redis://a", "queue="}},
	} {
		if o, err := parseBroker(c.list); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q is %+v, %v; want %q", c.list, o, err, c.want)
		}
	}
	if _, err := parseBroker([]string{"redis://user:secret@h?x=1"}); err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("the error is %v", err)
	}
}

func TestTheEnvironmentNamesABroker(t *testing.T) {
	t.Setenv("RIPSTOP_BROKER", "redis://a queue=redis://b")
	f := brokerFlags{durability: "second", replicas: 2}
	if c, err := f.config(); err != nil || c.redis == nil || c.redis.URL != "redis://a" || c.redis.Queue != "redis://b" || c.redis.Require != "second" || c.redis.Replicas != 2 {
		t.Errorf("the configuration is %+v, %v", c, err)
	}
	f = brokerFlags{urls: []string{"embedded"}, durability: "always"}
	if c, err := f.config(); err != nil || c.redis != nil {
		t.Errorf("a flag goes before it: %+v, %v", c, err)
	}
	t.Setenv("RIPSTOP_BROKER", "nowhere")
	if _, err := (&brokerFlags{durability: "always"}).config(); err == nil || !strings.HasPrefix(err.Error(), "RIPSTOP_BROKER: ") {
		t.Errorf("the error is %v", err)
	}
}

func FuzzParseBroker(f *testing.F) {
	for _, s := range []string{"", "embedded", "redis://h queue=unix:///x", "records=redis+cluster://a,b blobs=rediss://u:p@h?ca=x", "=", "queue=embedded"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		list := strings.Fields(s)
		o, err := parseBroker(list)
		switch {
		case err != nil && o != nil:
			t.Errorf("%q is %+v and %v", s, o, err)
		case err == nil && o == nil && len(list) > 0 && s != "embedded" && list[0] != "embedded":
			t.Errorf("%q is the embedded broker", s)
		case err == nil && o != nil && o.URL == "" && (o.Records == "" || o.Leases == "" || o.Blobs == "" || o.Queue == "" || o.Buckets == ""):
			t.Errorf("%q leaves a contract out: %+v", s, o)
		}
	})
}

func TestAMarkIsReadAsItWasWritten(t *testing.T) {
	dir := t.TempDir()
	if m, err := readMark(dir); err != nil || m != (brokerMark{}) {
		t.Errorf("an empty folder has the mark %+v, %v", m, err)
	}
	want := brokerMark{Schema: 1, Incarnation: "ABC", Server: "s"}
	if err := want.write(dir); err != nil {
		t.Fatal(err)
	}
	if m, err := readMark(dir); err != nil || m != want {
		t.Errorf("the mark is %+v, %v", m, err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("the folder has %v, %v", entries, err)
	}
	for text, words := range map[string]string{"": "damaged", "{": "damaged", `{"schema":1}`: "damaged", `{"schema":2,"incarnation":"a","server":"b"}`: "newer"} {
		if err := os.WriteFile(filepath.Join(dir, markFile), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if m, err := readMark(dir); err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("%q is %+v, %v; want %q", text, m, err, words)
		}
	}
}
