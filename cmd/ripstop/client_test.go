package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/ripstop-vm/ripstop/api"
	"github.com/ripstop-vm/ripstop/api/apitest"
	"github.com/ripstop-vm/ripstop/api/client"
	"github.com/ripstop-vm/ripstop/api/model"
	"github.com/ripstop-vm/ripstop/broker/redis"
	"github.com/ripstop-vm/ripstop/internal/clock"
	"github.com/ripstop-vm/ripstop/internal/wire"
	"github.com/ripstop-vm/ripstop/runtime"
	"github.com/ripstop-vm/ripstop/runtime/guest"
	"github.com/ripstop-vm/ripstop/runtime/hostcall"
	"github.com/spf13/cobra"
)

var update = flag.Bool("update", false, "rewrite golden files")

// golden compares text with testdata/NAME.txt.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name+".txt")
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs (go test -update rewrites it)\ngot:\n%s\nwant:\n%s", path, got, want)
	}
}

var uuid = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f-]{27}`)

// maskIDs makes IDs, which differ in each run, the same.
func maskIDs(s string) string {
	return uuid.ReplaceAllString(s, "00000000-0000-7000-8000-000000000000")
}

// server starts an API whose token the commands find in its data directory.
func server(t *testing.T, change ...func(*api.Options)) *apitest.World {
	t.Helper()
	w := apitest.Open(t, change...)
	t.Setenv("RIPSTOP_SERVER", w.URL)
	t.Setenv("RIPSTOP_DATA", w.Dir)
	t.Setenv("RIPSTOP_TOKEN", "")
	return w
}

// moduleFile writes a module where the test can deploy it from.
func moduleFile(t *testing.T, dir, name string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, apitest.Module, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func writeText(t *testing.T, path, text string) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// ok runs a command that has to work.
func ok(t *testing.T, stdin string, args ...string) (stdout, stderr string) {
	t.Helper()
	code, stdout, stderr := ripstop(t, stdin, args...)
	if code != 0 {
		t.Fatalf("ripstop %s: exit %d: %s", strings.Join(args, " "), code, stderr)
	}
	return stdout, stderr
}

// fails runs a command that must not work, and checks its code and words.
func fails(t *testing.T, code int, says string, args ...string) {
	t.Helper()
	got, stdout, stderr := ripstop(t, "", args...)
	if got != code || !strings.Contains(stderr, says) || stdout != "" {
		t.Errorf("ripstop %s: exit %d, stdout %q, stderr %q; want exit %d and %q", strings.Join(args, " "), got, stdout, stderr, code, says)
	}
}

func TestAJobGoesThroughItsLife(t *testing.T) {
	server(t)
	wasm := moduleFile(t, t.TempDir(), "Hello_World.wasm")
	stdout, stderr := ok(t, "", "deploy", wasm)
	if stdout != "http://127.0.0.1:8080/hello-world/\n" || stderr != "hello-world version 1 (task, 8 B) is live\n" {
		t.Errorf("deploy says %q and %q", stdout, stderr)
	}
	ok(t, "", "deploy", "-q", "--name", "hello", wasm)
	stdout, stderr = ok(t, "", "deploy", "-q", "--name", "hello", wasm)
	if stdout != "http://127.0.0.1:8080/hello/\n" || stderr != "" {
		t.Errorf("deploy -q says %q and %q", stdout, stderr)
	}
	stdout, _ = ok(t, "", "ps")
	golden(t, "ps", stdout)
	stdout, _ = ok(t, "", "ps", "hello")
	golden(t, "ps-versions", stdout)
	stdout, _ = ok(t, "", "rollback", "hello")
	if stdout != "hello is at version 1\n" {
		t.Errorf("rollback says %q", stdout)
	}
	fails(t, exitFailed, "earliest", "rollback", "hello")
	stdout, _ = ok(t, "", "rollback", "hello", "2", "--json")
	var j model.Job
	if err := json.Unmarshal([]byte(stdout), &j); err != nil || j.Version != 2 {
		t.Errorf("rollback --json says %q, %v", stdout, err)
	}
	ok(t, "s3cret\n", "secret", "set", "hello", "key")
	stdout, _ = ok(t, "", "secret", "list", "hello")
	if stdout != "key\n" {
		t.Errorf("secrets are %q", stdout)
	}
	ok(t, "", "secret", "rm", "hello", "key")
	ok(t, "", "rm", "hello", "hello-world")
	fails(t, exitFailed, "hello", "rm", "hello")
	stdout, _ = ok(t, "", "audit")
	golden(t, "audit", maskIDs(stdout))
	stdout, _ = ok(t, "", "ps", "--json")
	if stdout != "{\n  \"jobs\": []\n}\n" {
		t.Errorf("ps --json says %q", stdout)
	}
}

func TestACommandGoesOnAfterANameThatIsNotThere(t *testing.T) {
	w := server(t)
	wasm := moduleFile(t, t.TempDir(), "a.wasm")
	for _, name := range []string{"a", "c"} {
		ok(t, "", "deploy", "-q", "--name", name, wasm)
	}
	code, stdout, stderr := ripstop(t, "", "rm", "a", "b", "c", "d")
	said := strings.Split(strings.TrimSuffix(stderr, "\n"), "\n")
	if code != exitFailed || stdout != "" || len(said) != 5 || !strings.HasPrefix(stderr, "removed a\nremoved c\nripstop: 2 of 4 failed:\n") ||
		!strings.HasPrefix(said[3], `  b: there is no job "b"`) || !strings.HasPrefix(said[4], `  d: there is no job "d"`) {
		t.Errorf("exit %d, stdout %q, stderr %q", code, stdout, stderr)
	}
	fails(t, exitFailed, `ripstop: there is no job "a"`, "rm", "a")

	code, _, stderr = ripstop(t, "", "dead-letters", "drop", "a", "x", "y", "--json")
	var d errorDocument
	if err := json.Unmarshal([]byte(stderr), &d); err != nil || code != exitFailed || d.Code != "failed" || len(d.Failures) != 2 ||
		d.Failures[1].Name != "y" || d.Failures[1].Code != "job-unknown" || d.Failures[1].Status != 404 {
		t.Errorf("exit %d, %+v, %v: %s", code, d, err, stderr)
	}

	// Where all would fail alike, that is said once.
	code, _, stderr = ripstop(t, "", "rm", "a", "b", "--server", "http://127.0.0.1:1", "--token", w.Token)
	if code != exitFailed || strings.Count(stderr, "start it with") != 1 || strings.Contains(stderr, "failed:") {
		t.Errorf("exit %d: %q", code, stderr)
	}
}

func TestWhatIsQueuedIsListedAndCancelledFromTheCommandLine(t *testing.T) {
	server(t)
	ok(t, "", "deploy", "-q", moduleFile(t, t.TempDir(), "a.wasm")) // nobody runs what is queued for it
	var ids []string
	for range 3 {
		stdout, _ := ok(t, "", "invoke", "a", "--async", "--priority", "2", "--delay", "1h", "--order", "mail")
		ids = append(ids, strings.TrimSpace(stdout))
	}
	stdout, stderr := ok(t, "", "queue", "list", "a")
	golden(t, "queue-list", maskIDs(stdout))
	if stderr != "" {
		t.Errorf("it says %q", stderr)
	}
	stdout, stderr = ok(t, "", "queue", "list", "a", "--limit", "2", "--json")
	var l model.InvocationList
	if err := json.Unmarshal([]byte(stdout), &l); err != nil || len(l.Invocations) != 2 || l.Next == nil || stderr != "" {
		t.Errorf("queue list --json says %q and %q, %v", stdout, stderr, err)
	}
	if _, stderr = ok(t, "", "queue", "list", "a", "-n", "1"); stderr != "these are the first 1; --limit 0 lists all\n" {
		t.Errorf("it says %q", stderr)
	}
	if stdout, _ = ok(t, "", "queue", "list", "a", "-n", "0"); strings.Count(stdout, "\n") != 4 {
		t.Errorf("all are %s", stdout)
	}

	code, stdout, stderr := ripstop(t, "", "queue", "cancel", "a", ids[0], "nothing", ids[1])
	if code != exitFailed || stdout != ids[0]+" is cancelled\n"+ids[1]+" is cancelled\n" || !strings.Contains(stderr, "1 of 3 failed:\n  nothing: job a has no invocation") {
		t.Errorf("queue cancel: exit %d, %q, %q", code, stdout, stderr)
	}
	if stdout, _ = ok(t, "", "queue", "cancel", "a", ids[2], "--json"); stdout != "{\n  \"cancel\": [\n    \""+ids[2]+"\"\n  ]\n}\n" {
		t.Errorf("queue cancel --json says %q", stdout)
	}
	fails(t, exitFailed, "is dead (cancelled) already", "queue", "cancel", "a", ids[2])
	fails(t, exitFailed, "cancelled", "result", "--wait", "a", ids[0])
	if stdout, _ = ok(t, "", "queue", "list", "a", "--json"); stdout != "{\n  \"invocations\": []\n}\n" {
		t.Errorf("queue list --json says %q", stdout)
	}
	fails(t, exitUsage, "below 0", "queue", "list", "a", "-n", "-1")
	fails(t, exitUsage, "takes JOB; no argument", "queue")
	fails(t, exitUsage, "takes JOB; 2 arguments", "queue", "lst", "a")
	fails(t, exitFailed, `no job "list"`, "queue", "--", "list")
}

func TestTheQueueSaysWhatAScheduleLeftOut(t *testing.T) {
	w := server(t)
	dir := t.TempDir()
	moduleFile(t, dir, "a.wasm")
	writeText(t, filepath.Join(dir, "ripstop.yaml"), "name: a\nmodule: a.wasm\nschedule:\n- {name: hourly, cron: 0 * * * *, missed: skip}\n- {name: yearly, cron: 0 0 1 1 *}\n")
	ok(t, "", "deploy", "-q", dir)
	w.Clock.Advance(3 * time.Hour) // nobody is there at 4, 5 and 6 o'clock
	done := make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	go func() { defer close(done); w.Store.RunSchedules(ctx) }()
	defer func() { cancel(); <-done }()
	for end := clock.System.Now().Add(10 * time.Second); ; {
		out, _ := ok(t, "", "queue", "a")
		if strings.Contains(out, "LEFT OUT\n") && strings.Contains(out, "3, last 2026-01-02 06:00 UTC (missed)\n") && strings.Count(out, "last 20") == 1 {
			break
		}
		if clock.System.Now().After(end) {
			t.Fatalf("queue says\n%s", out)
		}
		<-clock.System.NewTimer(10 * time.Millisecond).C()
	}
	if out, _ := ok(t, "", "queue", "a", "--json"); !strings.Contains(out, `"leftOut": {
        "count": 3,
        "last": "2026-01-02T06:00:00Z",
        "reason": "missed"
      }`) {
		t.Errorf("queue --json says %s", out)
	}
}

func TestWhatFollowsALostConnectionIsNamed(t *testing.T) {
	done, err := each(t.Context(), []string{"a", "b", "c", "d"}, func(name string) error {
		if name == "c" {
			return &client.UnreachableError{Server: "http://x", Err: errors.New("gone")}
		}
		return nil
	})
	if len(done) != 2 || err == nil || !strings.HasPrefix(err.Error(), "2 of 4 failed:\n  c: ") || !strings.HasSuffix(err.Error(), "\n  d: not tried") {
		t.Errorf("%v, %v", done, err)
	}
}

func TestErrorsAreDocumentsUnderJSON(t *testing.T) {
	w := server(t)
	for name, c := range map[string]struct {
		args   []string
		code   int
		status int
		want   string // its code
		says   string
	}{
		"a problem of the server": {[]string{"rollback", "nobody", "--json"}, exitFailed, 404, "job-unknown", "there is no job"},
		"a wrong token":           {[]string{"ps", "--json", "--token", "x"}, exitFailed, 401, "token-denied", "RIPSTOP_TOKEN"},
		"a usage error":           {[]string{"logs", "--json"}, exitUsage, 0, "usage", "takes JOB"},
		"an unknown flag":         {[]string{"ps", "--loud", "--json"}, exitUsage, 0, "usage", "--loud"},
		"no server":               {[]string{"ps", "--json", "--server", "http://127.0.0.1:1", "--token", w.Token}, exitFailed, 0, "unreachable", "start it with"},
	} {
		t.Run(name, func(t *testing.T) {
			code, stdout, stderr := ripstop(t, "", c.args...)
			var d errorDocument
			if err := json.Unmarshal([]byte(stderr), &d); err != nil || strings.Count(stderr, "\n") != 1 {
				t.Fatalf("stderr %q: %v", stderr, err)
			}
			if code != c.code || stdout != "" || d.Status != c.status || d.Code != c.want || !strings.Contains(d.Detail, c.says) {
				t.Errorf("exit %d, stdout %q, %+v", code, stdout, d)
			}
		})
	}
}

// lines are texts with a line each.
func lines[T ~string](list []T) (s string) {
	for _, one := range list {
		s += string(one) + "\n"
	}
	return s
}

func TestShellsCompleteJobNamesAndValuesOfFlags(t *testing.T) {
	w := server(t)
	wasm := moduleFile(t, t.TempDir(), "hello.wasm")
	ok(t, "", "deploy", "-q", wasm)
	ok(t, "", "deploy", "-q", "--name", "other", wasm)
	ok(t, "", "deploy", "-q", wasm)
	ok(t, "s3cret", "secret", "set", "hello", "api-key")
	ok(t, "", "token", "create", "ci")
	var ids []string
	for range 2 {
		stdout, _ := ok(t, "", "invoke", "hello", "--async", "--delay", "1h")
		ids = append(ids, strings.TrimSpace(stdout))
	}
	const about = "\twaiting since 2026-01-02 03:04:05Z\n"
	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"a job":                  {[]string{"logs", ""}, "hello\nother\n:36\n"},
		"a job that is optional": {[]string{"ps", ""}, "hello\nother\n:36\n"},
		"many jobs":              {[]string{"rm", "hello", ""}, "other\n:36\n"},
		"a name to deploy":       {[]string{"deploy", "--name", ""}, "hello\nother\n:36\n"},
		"a flag":                 {[]string{"audit", "--job", ""}, "hello\nother\n:36\n"},
		"an engine":              {[]string{"run", "--engine", ""}, lines(runtime.Engines()) + ":36\n"},
		"a format of traces":     {[]string{"run", "--trace-format", ""}, "text\njson\n:36\n"},
		"a durability":           {[]string{"serve", "--durability="}, lines(redis.Levels()) + ":36\n"},
		"a place of modules":     {[]string{"serve", "--blobs", ""}, "broker\nfile\n:36\n"},
		"a level of logs":        {[]string{"serve", "--log-level", ""}, "debug\ninfo\nwarn\nerror\n:36\n"},
		"a method":               {[]string{"invoke", "-X", ""}, "GET\nPOST\nPUT\nPATCH\nDELETE\nHEAD\nOPTIONS\n:36\n"},
		"a verb":                 {[]string{"token", "create", "ci", "--allow", ""}, "read\ndeploy\ninvoke\nbackup\nadmin\n:38\n"},
		"another verb":           {[]string{"token", "create", "ci", "--allow", "read,invoke,"}, "read,invoke,deploy\nread,invoke,backup\nread,invoke,admin\n:38\n"},
		"an older version":       {[]string{"rollback", "hello", ""}, "1\t2026-01-02 03:04:05Z\n:36\n"},
		"one version":            {[]string{"rollback", "hello", "1", ""}, ":4\n"},
		"a secret":               {[]string{"secret", "rm", "hello", ""}, "api-key\n:36\n"},
		"a secret that changes":  {[]string{"secret", "set", "hello", ""}, "api-key\n:36\n"},
		"a token":                {[]string{"token", "revoke", ""}, "bootstrap\nci\n:36\n"},
		"what is queued":         {[]string{"queue", "cancel", "hello", ""}, ids[0] + about + ids[1] + about + ":36\n"},
		"what else is queued":    {[]string{"queue", "cancel", "hello", ids[0], ""}, ids[1] + about + ":36\n"},
		"an awaited result":      {[]string{"result", "hello", ""}, ids[0] + about + ids[1] + about + ":36\n"},
		"no dead letter":         {[]string{"dead-letters", "requeue", "hello", ""}, ":36\n"},
		"not a path":             {[]string{"invoke", "hello", ""}, ":4\n"},
		"of no job":              {[]string{"rollback", "nobody", ""}, ":5\n"},
		"not without a server":   {[]string{"logs", "--server", "http://127.0.0.1:1", "--token", w.Token, ""}, ":5\n"},
		"not with a wrong token": {[]string{"logs", "--token", "x", ""}, ":5\n"},
	} {
		t.Run(name, func(t *testing.T) {
			if stdout, _ := ok(t, "", append([]string{"__complete"}, c.args...)...); stdout != c.want {
				t.Errorf("completes %q, want %q", stdout, c.want)
			}
		})
	}
}

func TestChangesSayThatTheyWereMade(t *testing.T) {
	server(t)
	says := func(want string, args ...string) {
		t.Helper()
		if stdout, stderr := ok(t, "s3cret", args...); stdout != "" || stderr != want+"\n" {
			t.Errorf("%v says %q and %q", args, stdout, stderr)
		}
	}
	says("no secrets of hello; there is no job hello", "secret", "list", "hello")
	says("set secret key of hello; there is no job hello yet", "secret", "set", "hello", "key")
	ok(t, "", "deploy", "-q", moduleFile(t, t.TempDir(), "hello.wasm"))
	says("set secret key of hello", "secret", "set", "hello", "key")
	says("removed secret key of hello", "secret", "rm", "hello", "key")
	says("no secrets of hello", "secret", "list", "hello")
	ok(t, "", "token", "create", "ci")
	says("revoked ci", "token", "revoke", "ci")
	if _, stderr := ok(t, "", "audit", "--job", "nobody"); stderr != "no entries about a job nobody\n" {
		t.Errorf("audit says %q", stderr)
	}
}

func TestChangesAreToldAsJSON(t *testing.T) {
	server(t)
	wasm := moduleFile(t, t.TempDir(), "hello.wasm")
	says := func(want string, args ...string) {
		t.Helper()
		stdout, stderr := ok(t, "s3cret", append(args, "--json")...)
		var compact bytes.Buffer
		if err := json.Compact(&compact, []byte(stdout)); err != nil || compact.String() != want || stderr != "" {
			t.Errorf("%v says %q and %q, want %s", args, stdout, stderr, want)
		}
	}
	says(`{"job_missing":true,"set":["key"]}`, "secret", "set", "hello", "key")
	for _, name := range []string{"hello", "a", "c"} {
		ok(t, "", "deploy", "-q", "--name", name, wasm)
	}
	says(`{"set":["key"]}`, "secret", "set", "hello", "key")
	says(`{"rm":["key"]}`, "secret", "rm", "hello", "key")
	ok(t, "", "token", "create", "ci")
	says(`{"revoke":["ci"]}`, "token", "revoke", "ci")
	says(`{"rm":["hello"]}`, "rm", "hello")
	// Of several, those that were removed are told on stdout, and what became of the others on stderr.
	code, stdout, stderr := ripstop(t, "", "rm", "a", "b", "c", "--json")
	var d errorDocument
	if err := json.Unmarshal([]byte(stderr), &d); err != nil || code != exitFailed || len(d.Failures) != 1 || d.Failures[0].Name != "b" ||
		d.Failures[0].Code != "job-unknown" || stdout != "{\n  \"rm\": [\n    \"a\",\n    \"c\"\n  ]\n}\n" {
		t.Errorf("exit %d, %q and %q, %v", code, stdout, stderr, err)
	}
	for _, args := range [][]string{{"rm", "a"}, {"secret", "rm", "a", "key"}, {"token", "revoke", "ci"}} {
		code, stdout, stderr := ripstop(t, "", append(args, "--json")...)
		var d errorDocument
		if err := json.Unmarshal([]byte(stderr), &d); err != nil || code != exitFailed || d.Status != 404 || stdout != "" {
			t.Errorf("%v: exit %d, %q and %q, %v", args, code, stdout, stderr, err)
		}
	}
}

func TestSecretsAreReadFromStdinOrAFileByteForByteButForOneNewline(t *testing.T) {
	w := server(t)
	file := writeText(t, filepath.Join(t.TempDir(), "key"), "from file\n\n")
	for name, c := range map[string]struct {
		stdin string
		args  []string
		want  string
	}{
		"stdin":       {"from stdin\r\n", nil, "from stdin"},
		"a file":      {"", []string{"--file", file}, "from file\n"},
		"newline":     {"kept\n", []string{"--keep-newline"}, "kept\n"},
		"a flag":      {"", []string{"--value", "from flag"}, "from flag"},
		"binary data": {"\x00\xff", nil, "\x00\xff"},
	} {
		t.Run(name, func(t *testing.T) {
			ok(t, c.stdin, append([]string{"secret", "set", "hello", "key"}, c.args...)...)
			if got, err := w.Store.Secret(t.Context(), "hello", "key"); err != nil || string(got) != c.want {
				t.Errorf("stored %q, %v; want %q", got, err, c.want)
			}
		})
	}
	fails(t, exitUsage, "empty", "secret", "set", "hello", "key")
	fails(t, exitUsage, "not both", "secret", "set", "hello", "key", "--value", "x", "--file", file)
	fails(t, exitUsage, "no such file", "secret", "set", "hello", "key", "--file", file+"x")
}

func TestDeployFindsTheManifest(t *testing.T) {
	server(t)
	dir := t.TempDir()
	moduleFile(t, dir, "guest.wasm")
	manifest := writeText(t, filepath.Join(dir, "ripstop.yaml"), "name: book\nmodule: guest.wasm\nroutes: [{path: /book/}]\n")
	ok(t, "", "deploy", "-q", dir) // a manifest alone needs a job that has a module
	for name, c := range map[string]struct {
		args []string
		url  string
	}{
		"in a directory":      {[]string{dir}, "/book/"},
		"by its own name":     {[]string{manifest}, "/book/"},
		"beside its module":   {[]string{filepath.Join(dir, "guest.wasm")}, "/book/"},
		"given for a module":  {[]string{moduleFile(t, t.TempDir(), "other.wasm"), "--manifest", manifest}, "/book/"},
		"not beside another":  {[]string{moduleFile(t, dir, "another.wasm")}, "/another/"},
		"JSON, without files": {[]string{writeText(t, filepath.Join(dir, "m.json"), `{"name":"book","routes":[{"path":"/json/"}]}`)}, "/json/"},
	} {
		t.Run(name, func(t *testing.T) {
			stdout, _ := ok(t, "", append([]string{"deploy", "-q"}, c.args...)...)
			if stdout != "http://127.0.0.1:8080"+c.url+"\n" {
				t.Errorf("deployed at %q, want %s", stdout, c.url)
			}
		})
	}
	t.Chdir(dir)
	ok(t, "", "deploy")
	ok(t, "", "rm", "book")
	ok(t, "", "deploy", "--name", "renamed")
	stdout, _ := ok(t, "", "ps")
	if !strings.Contains(stdout, "renamed") {
		t.Errorf("jobs are %s", stdout)
	}
}

func TestWhatCannotBeDeployedIsSaidBeforeAnUpload(t *testing.T) {
	t.Setenv("RIPSTOP_TOKEN", "unused")
	t.Setenv("RIPSTOP_SERVER", "http://127.0.0.1:1") // nobody is asked
	dir := t.TempDir()
	empty := t.TempDir()
	wrong := writeText(t, filepath.Join(dir, "wrong.yaml"), "name: a\nlimits:\n  memry: 1MiB\n")
	gone := writeText(t, filepath.Join(dir, "gone.yaml"), "name: a\nmodule: gone.wasm\n")
	nameless := writeText(t, filepath.Join(dir, "nameless.yaml"), "limits: {}\n")
	fails(t, exitUsage, "no such file", "deploy", filepath.Join(dir, "nothing.wasm"))
	fails(t, exitUsage, "has no ripstop.yaml", "deploy", empty)
	fails(t, exitUsage, "wrong.yaml:3:3", "deploy", wrong)
	fails(t, exitUsage, "build it first (the manifest "+gone+" names it), or name the one there is: ripstop deploy --manifest "+gone+" FILE.wasm", "deploy", gone)
	fails(t, exitUsage, "--name", "deploy", nameless)
	fails(t, exitUsage, "both manifests", "deploy", nameless, "--manifest", wrong)
	fails(t, exitUsage, "job name", "deploy", moduleFile(t, dir, "a.wasm"), "--name", "Not A Label")
}

func TestAllMistakesOfAManifestAreToldAtOnceWithTheirPlace(t *testing.T) {
	server(t, func(o *api.Options) {
		table, err := hostcall.NewTable(guest.Libraries()...)
		if err != nil {
			t.Fatal(err)
		}
		o.Table = table
	})
	dir := t.TempDir()
	wasm := moduleFile(t, dir, "a.wasm")
	rules := "policy:\n  - {on: fd_write, do: deny, errno: ENOPE}\n"
	both := writeText(t, filepath.Join(dir, "both.yaml"), "name: a\nlimits: {memry: 1MiB}\n"+rules)
	fails(t, exitUsage, both+":2:10: limits.memry", "deploy", wasm, "--manifest", both)
	fails(t, exitUsage, both+":4:", "deploy", wasm, "--manifest", both)
	// Of rules alone the server is the judge.
	alone := writeText(t, filepath.Join(dir, "alone.yaml"), "name: a\n"+rules)
	fails(t, exitFailed, alone+":3:", "deploy", wasm, "--manifest", alone)
	fails(t, exitFailed, alone+": policy[0].errno", "deploy", wasm, "--manifest", alone, "--name", "b")
}

func TestRefusalsSayWhatToDo(t *testing.T) {
	w := server(t)
	dir := t.TempDir()
	script := writeText(t, filepath.Join(dir, "not.wasm"), "#!/bin/sh")
	fails(t, exitFailed, script+": ", "deploy", script)
	fails(t, exitFailed, "no WebAssembly module", "deploy", script)
	fails(t, exitFailed, "is --token, RIPSTOP_TOKEN or --data that of this server?", "ps", "--token", "wrong")
	fails(t, exitUsage, "ripstop serve", "ps", "--data", dir)
	fails(t, exitUsage, "ripstop serve", "token", "--data", dir)
	fails(t, exitUsage, "another machine", "ps", "--server", "http://192.0.2.1:7070")
	fails(t, exitUsage, "is no URL", "ps", "--server", "ftp://127.0.0.1")
	fails(t, exitUsage, "not between", "logs", "hello", "--tail", "-1")
	fails(t, exitUsage, "not between", "audit", "--limit", "0")
	fails(t, exitUsage, "neither a duration", "audit", "--since", "yesterday")
	fails(t, exitUsage, "no number", "rollback", "hello", "first")
	fails(t, exitUsage, "no duration", "token", "create", "ci", "--ttl", "soon")
	fails(t, exitUsage, "neither a duration", "audit", "--since", "5x")
	fails(t, exitUsage, "ripstop rm takes JOB...; no argument was given", "rm")
	fails(t, exitUsage, "ripstop rollback takes JOB [VERSION]; 3 arguments were given", "rollback", "a", "1", "2")
	fails(t, exitUsage, "ripstop version takes no arguments; one argument was given", "version", "x")
	fails(t, exitUsage, "body is given with -d", "invoke", "hello", "--data", `{"x":1}`)
	fails(t, exitUsage, "--attempts 0 is below 1", "invoke", "hello", "--async", "--attempts", "0")
	ingress := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/problem+json")
		w.WriteHeader(http.StatusNotFound)
		_, _ = io.WriteString(w, `{"code":"no-route","detail":"no job answers at this host and path"}`)
	}))
	defer ingress.Close()
	fails(t, exitFailed, "the address of ingress?", "ps", "--server", ingress.URL, "--token", w.Token)
	stopped := httptest.NewServer(http.NotFoundHandler())
	fails(t, exitFailed, "no Ripstop API", "ps", "--server", stopped.URL, "--token", w.Token)
	stopped.Close()
	fails(t, exitFailed, "start it with `ripstop serve`", "ps", "--server", stopped.URL, "--token", w.Token)
}

func TestTokensAreMadeListedAndRevoked(t *testing.T) {
	w := server(t)
	stdout, _ := ok(t, "", "token")
	if stdout != w.Token+"\n" {
		t.Errorf("token prints %q", stdout)
	}
	secret, _ := ok(t, "", "token", "create", "ci", "--allow", "read", "--ttl", "0")
	secret = strings.TrimSpace(secret)
	ok(t, "", "ps", "--token", secret)
	fails(t, exitFailed, "does not allow \"deploy\"; ask for one that does (ripstop token create NAME --allow deploy)", "rm", "hello", "--token", secret)
	stdout, _ = ok(t, "", "token", "list")
	golden(t, "token-list", maskIDs(stdout))
	ok(t, "", "token", "create", "week", "--ttl", "7d")
	ok(t, "", "token", "revoke", "ci")
	fails(t, exitFailed, "token", "ps", "--token", secret)
}

func TestLogsAndTracesAreReadable(t *testing.T) {
	w := server(t)
	ok(t, "", "deploy", "-q", moduleFile(t, t.TempDir(), "hello.wasm"))
	line := func(stream, level, text string) {
		w.Hub.Report(wire.Report{Kind: wire.ReportLog, Job: "hello", Version: 1, Invocation: "0199b6a4-0000-7000-8000-0123456789ab",
			Time: apitest.Epoch.Add(1500 * time.Microsecond), Stream: stream, Level: level, Text: text})
	}
	line("stdout", "", "hello, world")
	line("stderr", "", "\x1b[2J\x1b]0;gotcha\x07 red\r")
	line("log", "info", "two\n\tlines\n2026-01-02 03:04:05.001Z 456789ab system/error not really")
	w.Hub.Report(wire.Report{Kind: wire.ReportLog, Job: "hello", Time: apitest.Epoch, Stream: "system", Level: "error", Text: "guest trapped: unreachable"})
	stdout, _ := ok(t, "", "logs", "hello")
	golden(t, "logs", stdout)
	stdout, _ = ok(t, "", "logs", "hello", "--json", "--tail", "1")
	golden(t, "logs-json", stdout)
}

func TestLogsOfOneInvocation(t *testing.T) {
	w := server(t)
	ok(t, "", "deploy", "-q", moduleFile(t, t.TempDir(), "hello.wasm"))
	const one, other = "0199b6a4-0000-7000-8000-0123456789ab", "0199b6a4-0000-7000-8000-0123456789ff"
	line := func(id, text string) {
		w.Hub.Report(wire.Report{Kind: wire.ReportLog, Job: "hello", Version: 1, Invocation: id, Time: apitest.Epoch, Stream: "stdout", Text: text})
	}
	line(one, "sought")
	for range 150 { // more than are shown if nothing is said
		line(other, "another's")
	}
	for _, id := range []string{one, "456789ab"} {
		stdout, stderr := ok(t, "", "logs", "hello", "--invocation", id)
		if strings.Count(stdout, "\n") != 1 || !strings.HasSuffix(stdout, "sought\n") || stderr != "" {
			t.Errorf("of %s: %q, %q", id, stdout, stderr)
		}
	}
	stdout, stderr := ok(t, "", "logs", "hello", "--invocation", one, "-n", "5")
	if stdout != "" || stderr != "no lines of an invocation "+one+" among the last 5 of hello\n" {
		t.Errorf("it says %q and %q", stdout, stderr)
	}
	if _, stderr = ok(t, "", "logs", "hello", "--invocation", "none"); stderr != "no lines of an invocation none among those that are kept of hello\n" {
		t.Errorf("it says %q", stderr)
	}
}

func TestFollowedTracesEndWithTheServer(t *testing.T) {
	w := server(t)
	ok(t, "", "deploy", "-q", moduleFile(t, t.TempDir(), "hello.wasm"))
	w.Hub.Arrived = make(chan struct{}, 2)
	record := `{"time":"2026-01-02T03:04:05Z","kind":"call","took_ns":12000,"module":"wasi_snapshot_preview1","function":"path_open",` +
		`"args":[{"name":"path","kind":"path","text":"etc/passwd","size":10}],"errno":"EACCES","rule":"policy[0]: deny","denied":true}`
	go func() {
		for range 2 {
			<-w.Hub.Arrived
			w.Hub.Report(wire.Report{Kind: wire.ReportTrace, Job: "hello", Version: 1, Invocation: "0199b6a4-0000-7000-8000-0123456789ab",
				Time: apitest.Epoch, Trace: json.RawMessage(record)})
			w.Hub.End()
		}
	}()
	stdout, stderr := ok(t, "", "trace", "hello")
	golden(t, "trace", stdout)
	if !strings.HasPrefix(stderr, "the server ended this: ") {
		t.Errorf("it says %q", stderr)
	}
	stdout, _ = ok(t, "", "trace", "--json", "hello")
	if !strings.Contains(stdout, `"record":{"time"`) || strings.Count(stdout, "\n") != 1 {
		t.Errorf("trace --json says %q", stdout)
	}
}

func TestTheTraceOfOneInvocation(t *testing.T) {
	w := server(t)
	ok(t, "", "deploy", "-q", moduleFile(t, t.TempDir(), "hello.wasm"))
	const one, other = "0199b6a4-0000-7000-8000-0123456789ab", "0199b6a4-0000-7000-8000-0123456789ff"
	w.Hub.Arrived = make(chan struct{}, 4)
	go func() {
		for range 4 {
			<-w.Hub.Arrived
			for _, id := range []string{other, one, "", other} {
				w.Hub.Report(wire.Report{Kind: wire.ReportTrace, Job: "hello", Version: 1, Invocation: id, Time: apitest.Epoch,
					Trace: json.RawMessage(`{"time":"2026-01-02T03:04:05Z","kind":"call","took_ns":1,"function":"of_` + id + `"}`)})
			}
			w.Hub.End()
		}
	}()
	for _, args := range [][]string{{"--invocation", one}, {"--invocation", "456789ab"}, {"--json", "--invocation", one}} {
		stdout, stderr := ok(t, "", append([]string{"trace", "hello"}, args...)...)
		if strings.Count(stdout, "\n") != 1 || !strings.Contains(stdout, "of_"+one) || strings.Contains(stderr, "no calls") {
			t.Errorf("%v: %q, %q", args, stdout, stderr)
		}
	}
	if stdout, stderr := ok(t, "", "trace", "hello", "--invocation", "none"); stdout != "" || !strings.HasSuffix(stderr, "no calls of an invocation none were seen of hello\n") {
		t.Errorf("it says %q and %q", stdout, stderr)
	}
}

func TestATraceSaysWhereCallsAreMissing(t *testing.T) {
	w := server(t)
	ok(t, "", "deploy", "-q", moduleFile(t, t.TempDir(), "hello.wasm"))
	w.Hub.Arrived = make(chan struct{}, 2)
	go func() {
		for range 2 {
			<-w.Hub.Arrived
			w.Hub.Report(wire.Report{Kind: wire.ReportTrace, Job: "hello", Version: 1, Time: apitest.Epoch, Omitted: 705})
			w.Hub.End()
		}
	}()
	// Whichever invocation is asked for, they may be of it.
	if stdout, _ := ok(t, "", "trace", "hello", "--invocation", "456789ab"); !strings.HasSuffix(stdout, " --- 705 calls are missing here ---\n") || strings.Count(stdout, "\n") != 1 {
		t.Errorf("trace says %q", stdout)
	}
	if stdout, _ := ok(t, "", "trace", "--json", "hello", "--invocation", "456789ab"); !strings.Contains(stdout, `"missing":705`) || !strings.Contains(stdout, `"record":{}`) {
		t.Errorf("trace --json says %q", stdout)
	}
}

func TestCtrlCEndsAFollowCleanly(t *testing.T) {
	w := server(t)
	ok(t, "", "deploy", "-q", moduleFile(t, t.TempDir(), "hello.wasm"))
	w.Hub.Arrived = make(chan struct{}, 1)
	ctx, interrupt := context.WithCancel(t.Context())
	go func() {
		<-w.Hub.Arrived
		interrupt()
	}()
	var out, errs bytes.Buffer
	if code := execute(ctx, newRoot(), []string{"logs", "-f", "hello"}, nil, &out, &errs); code != exitInterrupted || errs.Len() > 0 {
		t.Errorf("exit %d, stderr %q", code, errs.String())
	}
}

func TestInvokeSpeaksToTheJobLikeCurl(t *testing.T) {
	job := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" {
			t.Error("the API's token was sent to a job")
		}
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("X-Seen", r.Header.Get("X-Test"))
		w.Header()["Date"] = nil
		if strings.HasSuffix(r.URL.Path, "/missing") {
			w.WriteHeader(http.StatusNotFound)
		}
		_, _ = io.WriteString(w, r.Method+" "+r.Host+" "+r.URL.RequestURI()+" "+string(body))
	}))
	defer job.Close()
	server(t, func(o *api.Options) { o.IngressURL = job.URL })
	ok(t, "", "deploy", "-q", moduleFile(t, t.TempDir(), "hello.wasm"))
	host := strings.TrimPrefix(job.URL, "http://")
	file := writeText(t, filepath.Join(t.TempDir(), "body"), "from file")
	for name, c := range map[string]struct {
		stdin string
		args  []string
		want  string
	}{
		"the job itself":   {"", []string{"hello"}, "GET " + host + " /hello/ "},
		"a path and query": {"", []string{"hello", "/a%2Fb/c?x=1&y=%20"}, "GET " + host + " /hello/a%2Fb/c?x=1&y=%20 "},
		"a query alone":    {"", []string{"hello", "?x=1"}, "GET " + host + " /hello/?x=1 "},
		"a body":           {"", []string{"hello", "-d", "text"}, "POST " + host + " /hello/ text"},
		"a body of a file": {"", []string{"hello", "-X", "PUT", "-d", "@" + file}, "PUT " + host + " /hello/ from file"},
		"a body of stdin":  {"in", []string{"hello", "-d", "@-"}, "POST " + host + " /hello/ in"},
		"another host":     {"", []string{"hello", "-H", "Host: a.example"}, "GET a.example /hello/ "},
	} {
		t.Run(name, func(t *testing.T) {
			if stdout, _ := ok(t, c.stdin, append([]string{"invoke"}, c.args...)...); stdout != c.want {
				t.Errorf("answered %q, want %q", stdout, c.want)
			}
		})
	}
	stdout, _ := ok(t, "", "invoke", "hello", "-i", "-H", "X-Test: 1")
	if !strings.HasPrefix(stdout, "HTTP/1.1 200 OK\n") || !strings.Contains(stdout, "X-Seen: 1\n") {
		t.Errorf("-i prints %q", stdout)
	}
	stdout, _ = ok(t, "", "invoke", "hello", "missing", "--json")
	var r invoked
	if err := json.Unmarshal([]byte(stdout), &r); err != nil || r.Status != 404 || !strings.HasPrefix(r.Body, "GET ") {
		t.Errorf("--json prints %q, %v", stdout, err)
	}
	if code, _, _ := ripstop(t, "", "invoke", "hello", "missing", "--fail"); code != exitFailed {
		t.Errorf("--fail exits with %d", code)
	}
	fails(t, exitUsage, "Name: value", "invoke", "hello", "-H", "nothing")
	fails(t, exitFailed, "nobody", "invoke", "nobody")
}

func TestGuestTextOnATerminalIsEscapedWithoutCuttingCharacters(t *testing.T) {
	text := strings.Repeat("a", 32<<10-1) + "世界 \x1b[31m" + strings.Repeat("ö", 20_000) + "\xe4"
	for name, in := range map[string]io.Reader{"whole": strings.NewReader(text), "by the byte": oneByte{strings.NewReader(text)}} {
		var out bytes.Buffer
		if err := copyEscaped(&out, in); err != nil {
			t.Fatal(err)
		}
		if want := escapeText(text); out.String() != want {
			t.Errorf("%s: %d bytes differ from the %d wanted", name, out.Len(), len(want))
		}
	}
	if err := copyEscaped(io.Discard, io.MultiReader(strings.NewReader("a"), broken{})); err == nil {
		t.Error("a broken response is no error")
	}
}

// oneByte reads a byte at a time.
type oneByte struct{ r io.Reader }

func (o oneByte) Read(p []byte) (int, error) { return o.r.Read(p[:min(1, len(p))]) }

// broken fails.
type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, errors.New("connection reset") }

func TestEveryVerbHasExamplesAndAShortText(t *testing.T) {
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		if c.Hidden || c.Name() == "help" || c.Name() == "completion" {
			return
		}
		if c.Short == "" || c.Example == "" {
			t.Errorf("%s has no short text or no examples", c.CommandPath())
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(newRoot())
}
