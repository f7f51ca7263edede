package supervisor

import (
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"

	"github.com/ripstop-vm/ripstop/internal/wire"
	"github.com/ripstop-vm/ripstop/runtime/policy"
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
