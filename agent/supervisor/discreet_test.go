package supervisor

import (
	"encoding/base64"
	"encoding/json"
	"net/url"
	"strconv"
	"strings"
	"testing"

	"github.com/ripstop-vm/ripstop/internal/wire"
	"github.com/ripstop-vm/ripstop/runtime/policy"
	"github.com/ripstop-vm/ripstop/runtime/trace"
)

func TestSecretsThatGuestsHaveReadAreTakenOutOfWhatTheyTell(t *testing.T) {
	const value = `sk-"0123456789<abcdef>`
	w, m, h := linked(t, policy.Capabilities{Secrets: []string{"KEY", "PEM", "PIN"}})
	m.secrets = map[string]string{"KEY": value + "\n", "PEM": "-----BEGIN X-----\nbGluZSBvbmU\nbGluZSB0d28\n-----END X-----\n", "PIN": "1234"}
	told := func(text string) string {
		t.Helper()
		w.report(t.Context(), wire.Report{Kind: wire.ReportLog, Job: "j", Text: text})
		back, _, stop := w.super.hub.Logs("j", 1)
		stop()
		return back[0].Text
	}
	if got := told("early " + value); got != "early "+value {
		t.Fatalf("before anybody read it: %q", got)
	}
	for _, name := range []string{"KEY", "PEM", "PIN", "KEY"} {
		if rec := ask(h, "GET", "/secrets?name="+name, "j", "2", ""); rec.Code != 200 {
			t.Fatal(rec.Code)
		}
	}
	escaped, _ := json.Marshal(value)
	for name, c := range map[string]struct{ text, want string }{
		"as it is":                 {"key " + value + "!", "key [secret KEY]!"},
		"twice":                    {value + value, "[secret KEY][secret KEY]"},
		"in JSON":                  {"k=" + string(escaped), `k="[secret KEY]"`},
		"in base64":                {"Basic " + base64.StdEncoding.EncodeToString([]byte(value)), "Basic [secret KEY]"},
		"one line of many":         {"read bGluZSB0d28", "read [secret PEM]"},
		"its begin where it ends":  {"key " + value[:10], "key [secret KEY]"},
		"its end where it begins":  {value[10:] + " was it", "[secret KEY] was it"},
		"too little to be told":    {"key " + value[:5], "key " + value[:5]},
		"one that is too short":    {"1234 apples", "1234 apples"},
		"text that is none of all": {"nothing", "nothing"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := told(c.text); got != c.want {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
	w.report(t.Context(), wire.Report{Kind: wire.ReportAudit, Job: "j", Level: "warn", Text: `fetch url: "http://x/` + value + `": not granted`})
	if got := m.audit[len(m.audit)-1].Detail; got != `fetch url: "http://x/[secret KEY]": not granted` {
		t.Errorf("audited as %q", got)
	}
	w.report(t.Context(), wire.Report{Kind: wire.ReportAudit, Job: "j", Level: "warn", Text: `fetch method: "GET" url: "http://x/?key=` + string(escaped[1:8]) + `…" headers: "` + strings.Repeat("x", 8) + `": not granted`})
	if got := m.audit[len(m.audit)-1].Detail; got != `fetch method: "GET" url: "http://x/?key=…" headers: "xxxxxxxx": not granted` {
		t.Errorf("what was cut is audited as %q", got)
	}
	w.report(t.Context(), wire.Report{Kind: wire.ReportAudit, Job: "j", Level: "warn", Text: strings.Repeat("x", maxDetail-5) + value})
	if got := m.audit[len(m.audit)-1].Detail; len(got) > maxDetail || strings.Contains(got, "sk") {
		t.Errorf("a long one is audited as %q", got)
	}
	p := &preparation{worker: w, done: make(chan struct{})}
	w.super.prepared["p"] = p
	w.report(t.Context(), wire.Report{Kind: wire.ReportPrepared, Job: "j", ID: "p", Problem: &wire.Problem{Status: 422, Detail: strings.Repeat("x", 8<<10-5) + value}})
	if got := p.result.Detail; len(got) != 8<<10 || strings.Contains(got, "sk") {
		t.Errorf("a long problem ends with %q", got[len(got)-20:])
	}
	live, stop := w.super.hub.Traces("j")
	defer stop()
	w.report(t.Context(), wire.Report{Kind: wire.ReportTrace, Job: "j", Trace: json.RawMessage(`{"took_ns":18446744073709551615,"args":[{"text":` + string(escaped) + `}]}`)})
	if got := string((<-live).Trace); strings.Contains(got, "0123") || !strings.Contains(got, "[secret KEY]") || !strings.Contains(got, "18446744073709551615") {
		t.Errorf("traced as %s", got)
	}
	if rec := ask(h, "GET", "/secrets?name="+"sk-%220123456789%3Cabcdef%3E", "j", "2", ""); rec.Code == 200 {
		t.Fatal("it was granted")
	}
	if got := m.audit[len(m.audit)-1].Detail; strings.Contains(got, "0123456789") {
		t.Errorf("the parent audited it as %q", got)
	}
}

func TestRedactionKeepsNoMoreValuesThanABound(t *testing.T) {
	var d discreet
	for i := range keptSecrets + 10 {
		d.note("j", "n", strings.Repeat("x", leastRedacted)+string(rune('a'+i%26))+strings.Repeat("y", i))
	}
	if n := len(d.of("j").values); n > keptSecrets {
		t.Errorf("%d values", n)
	}
}

func TestWhatACutLeavesShowsNoPartOfASecret(t *testing.T) {
	const key, lines = "k1-0123456789abcdef", "-----BEGIN X-----\nbGluZSBvbmU\nbGluZSB0d28\n-----END X-----"
	inBase64 := base64.StdEncoding.EncodeToString([]byte(key))
	var d discreet
	d.note("j", "KEY", key)
	d.note("j", "PEM", lines)
	d.note("j", "ONE", "oneoneone")
	d.note("j", "MORE", "oneoneone-and-more")
	d.note("j", "LONG", strings.Repeat("long", 2<<10))
	for name, c := range map[string]struct{ text, want string }{
		"nothing of one":                   {"a text that says little", "a text that says"},
		"one letter of one":                {"Authorization: k", "Authoriza"},
		"too little to be known":           {"Authorization: " + key[:7], "Authorization: "},
		"as little, in base64":             {"Authorization: " + inBase64[:7], "Authorization: "},
		"enough to be known":               {"Authorization: " + key[:8], "Authorization: [secret KEY]"},
		"as much, in base64":               {"Authorization: " + inBase64[:20], "Authorization: [secret KEY]"},
		"a whole one, and then some":       {"key " + key + " was the key", "key [secret KEY] was "},
		"a whole one at the end":           {"key " + key, "key [secret KEY]"},
		"a line, and a part of the next":   {"x " + lines[:22], "x [secret PEM]"},
		"a part of a line":                 {"x bGluZSB0d", "x [secret PEM]"},
		"a part that begins as another":    {"x oneoneone-an", "x [secret MORE]"},
		"one that is known and no more":    {"x oneoneone...........", "x [secret ONE]...."},
		"one that is longer than the text": {"x " + strings.Repeat("long", 30), "x [secret LONG]"},
		"characters of several bytes":      {"äöüäöü", "äö"},
		"next to nothing":                  {"abc", ""},
	} {
		t.Run(name, func(t *testing.T) {
			b, _ := json.Marshal(map[string]any{"args": []any{map[string]any{"text": c.text, "size": 1000, "cut": true}}})
			var got struct{ Args []trace.Value }
			if err := json.Unmarshal(d.record("j", b), &got); err != nil {
				t.Fatal(err)
			}
			if got.Args[0].Text != c.want || !got.Args[0].Cut || got.Args[0].Size != 1000 {
				t.Errorf("%q became %+v, want %q", c.text, got.Args[0], c.want)
			}
		})
	}
}

// However much of a secret is before the cut, and wherever it is, none of it is left.
func TestACutAnywhereShowsNoPartOfASecret(t *testing.T) {
	const key = `QRSTUVWXYZ"<QRST>` // its letters are nowhere else, in capitals
	var d discreet
	d.note("j", "key", key)
	for _, form := range []string{key, url.QueryEscape(key), strings.Trim(strconv.Quote(key), `"`)} {
		text := strings.Repeat("a", 20) + form + strings.Repeat("a", 20)
		for n := range len(text) + 1 {
			b, _ := json.Marshal(trace.Record{Args: []trace.Value{{Text: text[:n], Cut: true}}})
			var got trace.Record
			if err := json.Unmarshal(d.record("j", b), &got); err != nil {
				t.Fatal(err)
			}
			if strings.ContainsAny(got.Args[0].Text, "QRSTUVWXYZ") {
				t.Errorf("of %q it shows %q", text[:n], got.Args[0].Text)
			}
		}
	}
}
