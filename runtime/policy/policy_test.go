package policy

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/ripstop-vm/ripstop/internal/doortest"
	"github.com/ripstop-vm/ripstop/runtime/hostcall"
)

const i32, i64 = hostcall.I32, hostcall.I64

// fakeFS stands for WASI: descriptors have paths, some names are missing, some are directories.
type fakeFS struct {
	fds   map[uint32]string
	links map[string]string // guest path → where the kernel says it leads
	dirs  map[string]bool
	gone  map[string]hostcall.Errno
	calls []string
}

func (f *fakeFS) resolve(c *hostcall.Call) {
	fd := -1
	for i := range c.Func.Args {
		switch c.Func.Args[i].Kind {
		case hostcall.FD:
			c.Value(i).Object = f.fds[c.Uint32(i)]
			fd = i
		case hostcall.Path:
			p := strings.TrimSuffix(c.Value(fd).Object, "/") + "/" + string(c.Text(i))
			p = strings.ReplaceAll(p, "/./", "/")
			if e, ok := f.gone[p]; ok {
				c.Unresolved = e
				continue
			}
			if to, ok := f.links[p]; ok {
				p = to
			}
			c.Value(i).Object, c.Value(i).Dir = p, f.dirs[p]
		}
	}
}

func fakeLibrary() *hostcall.Library {
	resolve := func(c *hostcall.Call) { c.State().(*fakeFS).resolve(c) }
	done := func(c *hostcall.Call) {
		f := c.State().(*fakeFS)
		words := []string{c.Func.Name}
		for i := range c.Func.Args {
			if a := c.Func.Args[i]; a.Kind == hostcall.Path || a.Kind == hostcall.Text {
				words = append(words, string(c.Text(i)))
			}
		}
		f.calls = append(f.calls, strings.Join(words, " "))
		c.Fail(hostcall.Success)
	}
	const m = "wasi_snapshot_preview1"
	const task = "ripstop_task_1"
	e := []hostcall.ValueType{i32}
	return &hostcall.Library{Name: "fake", Funcs: []hostcall.Func{
		{Module: m, Name: "path_open", Params: []hostcall.ValueType{i32, i32, i32, i32, i32, i64, i32}, Results: e, Fails: true, Resolve: resolve, Call: done, Args: []hostcall.Arg{
			{Name: "fd", Kind: hostcall.FD, Param: 0}, {Name: "dirflags", Kind: hostcall.Flags, Param: 1, Names: []string{"SYMLINK_FOLLOW"}},
			{Name: "path", Kind: hostcall.Path, Param: 2, Max: 4096}, {Name: "oflags", Kind: hostcall.Flags, Param: 4, Names: []string{"CREAT", "DIRECTORY", "EXCL", "TRUNC"}},
			{Name: "rights", Kind: hostcall.Flags, Param: 5, Names: []string{"FD_DATASYNC", "FD_READ"}},
			{Name: "opened", Kind: hostcall.FD, Dir: hostcall.Out, Size: 4, Param: 6},
		}},
		{Module: m, Name: "path_rename", Params: []hostcall.ValueType{i32, i32, i32, i32, i32, i32}, Results: e, Fails: true, Resolve: resolve, Call: done, Args: []hostcall.Arg{
			{Name: "fd", Kind: hostcall.FD, Param: 0}, {Name: "old_path", Kind: hostcall.Path, Param: 1},
			{Name: "new_fd", Kind: hostcall.FD, Param: 3}, {Name: "new_path", Kind: hostcall.Path, Param: 4},
		}},
		{Module: m, Name: "fd_seek", Params: []hostcall.ValueType{i32, i64, i32, i32}, Results: e, Fails: true, Resolve: resolve, Call: done, Args: []hostcall.Arg{
			{Name: "fd", Kind: hostcall.FD, Param: 0}, {Name: "offset", Kind: hostcall.Int, Param: 1},
			{Name: "whence", Kind: hostcall.Enum, Param: 2, Names: []string{"SET", "CUR", "END"}},
			{Name: "newoffset", Kind: hostcall.Uint, Dir: hostcall.Out, Size: 8, Param: 3},
		}},
		{Module: m, Name: "sched_yield", Results: e, Fails: true, Call: done},
		{Module: m, Name: "proc_exit", Params: []hostcall.ValueType{i32}, Call: done, Args: []hostcall.Arg{{Name: "code", Kind: hostcall.Uint, Param: 0}}},
		{Module: task, Name: "fetch", Params: []hostcall.ValueType{i32, i32, i32, i32}, Results: e, Fails: true, Call: done, Args: []hostcall.Arg{
			{Name: "method", Kind: hostcall.Text, Param: 0, Max: 32}, {Name: "url", Kind: hostcall.Text, Param: 2, Max: 8192},
		}},
		{Module: task, Name: "kv_put", Params: []hostcall.ValueType{i32, i32, i32, i32, i32, i32}, Results: e, Fails: true, Call: done, Args: []hostcall.Arg{
			{Name: "bucket", Kind: hostcall.Text, Param: 0}, {Name: "key", Kind: hostcall.Text, Param: 2}, {Name: "value", Kind: hostcall.Bytes, Param: 4},
		}},
	}}
}

type world struct {
	*doortest.Guest
	fs       *fakeFS
	denied   []string
	observed []string
}

func judged(t testing.TB, rules ...Rule) *world {
	t.Helper()
	lib := fakeLibrary()
	table, err := hostcall.NewTable(lib)
	if err != nil {
		t.Fatal(err)
	}
	p, err := Compile(rules, table)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{fs: &fakeFS{fds: map[uint32]string{3: "/data", 4: "/data/sub"}, links: map[string]string{}, dirs: map[string]bool{}, gone: map[string]hostcall.Errno{}}}
	p = p.With(Options{OnDenied: func(_ *hostcall.Call, rule string, observed bool) {
		if observed {
			w.observed = append(w.observed, rule)
		} else {
			w.denied = append(w.denied, rule)
		}
	}})
	w.Guest = doortest.NewIn(t, table, []hostcall.Binding{{Library: lib, State: w.fs}}, p)
	return w
}

func (w *world) open(fd int, path string, oflags int) hostcall.Errno {
	e, err := w.Call("path_open", fd, 0, path, oflags, uint64(2), w.Put(make([]byte, 4)))
	if err != nil {
		w.T.Errorf("path_open ended the guest: %v", err)
	}
	return e
}

func (w *world) rename(fd int, old string, newFD int, to string) hostcall.Errno {
	e, err := w.Call("path_rename", fd, old, newFD, to)
	if err != nil {
		w.T.Errorf("path_rename ended the guest: %v", err)
	}
	return e
}

func TestPathRulesJudgeTheObjectAndNotTheWords(t *testing.T) {
	for _, when := range []string{
		`call.path.startsWith("/data/private/")`,                                  // direct
		`call.paths.exists(p, p.startsWith("/data/private/"))`,                    // interpreted
		`call.path.matches("^/data/private/")`,                                    // a regular expression
		`call.fd.path == "/x" || call.path.split("/")[2] == "private"`,            // extension functions
		`"CREAT" in call.oflags_names || call.path.startsWith("/data/private/")`,  // bits
		`call.path.startsWith("/data/private/") && call.function == "path_open"`,  //
		`!(call.path in ["/data/a", "/data/z"]) && call.path_name != "notes.txt"`, //
	} {
		w := judged(t, Rule{On: OneOrMany{"path_open"}, When: when, Do: "deny", Errno: "EPERM"})
		w.fs.links["/data/z/link"] = "/data/private/key"
		for _, path := range []string{"private/key", "./private/key", "z/link"} {
			if e := w.open(3, path, 0); e != hostcall.EPERM {
				t.Errorf("%s: open of %s = %s, want EPERM", when, path, e)
			}
		}
		if e := w.open(3, "a", 0); e != hostcall.Success {
			t.Errorf("%s: open of a = %s", when, e)
		}
		if len(w.denied) != 3 || w.denied[0] != "policy[0]: deny" {
			t.Errorf("%s: denied %q", when, w.denied)
		}
	}
}

func TestAMissingObjectIsAnsweredWithItsOwnErrno(t *testing.T) {
	w := judged(t, Rule{On: OneOrMany{"path_open"}, When: `call.path.startsWith("/data/private/")`, Do: "deny"})
	w.fs.gone["/data/none/x"] = hostcall.ENOENT
	if e := w.open(3, "none/x", 0); e != hostcall.ENOENT {
		t.Errorf("got %s, want ENOENT", e)
	}
	if len(w.denied) != 0 || len(w.fs.calls) != 0 {
		t.Errorf("denied %q, calls %q", w.denied, w.fs.calls)
	}
}

func TestRenamesAndLinksDoNotLeadAroundPathRules(t *testing.T) {
	private := Rule{On: OneOrMany{"path_open"}, When: `call.path.startsWith("/data/private/") && "FD_READ" in call.rights_names`, Do: "deny"}
	create := Rule{On: OneOrMany{"path_open"}, When: `"CREAT" in call.oflags_names && call.path.endsWith(".exe")`, Do: "deny", Errno: "EROFS"}
	w := judged(t, private, create)
	w.fs.dirs["/data/dir"] = true
	for _, c := range []struct {
		from, to string
		want     hostcall.Errno
	}{
		{"private/key", "public", hostcall.EACCES},
		{"public", "private/key", hostcall.EACCES},
		{"a", "b.exe", hostcall.EROFS},
		{"a", "b", hostcall.Success},
		{"dir", "dir2", hostcall.EPERM},
	} {
		if e := w.rename(3, c.from, 3, c.to); e != c.want {
			t.Errorf("rename %s to %s = %s, want %s", c.from, c.to, e, c.want)
		}
	}
	if got := w.denied[len(w.denied)-1]; got != ruleDirectory {
		t.Errorf("the directory was refused by %q", got)
	}

	w = judged(t, private, Rule{On: OneOrMany{"path_rename"}, Do: "allow"})
	w.fs.dirs["/data/dir"] = true
	if e := w.rename(3, "dir", 3, "dir2"); e != hostcall.Success {
		t.Errorf("an expressly allowed rename of a directory = %s", e)
	}
	w = judged(t, private, Rule{On: OneOrMany{"path_*"}, Do: "allow"})
	w.fs.dirs["/data/dir"] = true
	if e := w.rename(3, "dir", 3, "dir2"); e != hostcall.EPERM {
		t.Errorf("a rename of a directory that a pattern happens to allow = %s", e)
	}
	w = judged(t, Rule{On: OneOrMany{"path_open"}, When: `"CREAT" in call.oflags_names`, Do: "deny"})
	w.fs.dirs["/data/dir"] = true
	if e := w.rename(3, "dir", 3, "dir2"); e != hostcall.Success {
		t.Errorf("a rename under a policy that judges no paths = %s", e)
	}
}

func TestTheFirstMatchingRuleDecides(t *testing.T) {
	w := judged(t,
		Rule{On: OneOrMany{"*"}, When: `call.function == "sched_yield"`, Do: "allow"},
		Rule{On: OneOrMany{"fd_*"}, When: `call.whence_name == "END"`, Do: "deny", Errno: "ESPIPE"},
		Rule{On: OneOrMany{"wasi_snapshot_preview1.*"}, When: `call.function != "proc_exit"`, Do: "deny", Mode: "observe"},
		Rule{On: OneOrMany{"proc_exit"}, When: "call.code > 100", Do: "stop"},
		Rule{On: OneOrMany{"sched_yield"}, Do: "deny"},
	)
	if e, _ := w.Call("sched_yield"); e != hostcall.Success {
		t.Errorf("sched_yield = %s", e)
	}
	out := w.Put(make([]byte, 8))
	if e, _ := w.Call("fd_seek", 3, 0, 2, out); e != hostcall.ESPIPE {
		t.Errorf("fd_seek END = %s", e)
	}
	if e, _ := w.Call("fd_seek", 3, 0, 0, out); e != hostcall.Success {
		t.Errorf("fd_seek SET = %s", e)
	}
	if len(w.observed) != 1 || w.observed[0] != "policy[2]: deny" {
		t.Errorf("observed %q", w.observed)
	}
	_, err := w.Call("proc_exit", 101)
	var stop *hostcall.StopError
	if !errors.As(err, &stop) || stop.Rule != "policy[3]: stop" {
		t.Errorf("proc_exit ended with %v", err)
	}
	if _, err := w.Call("proc_exit", 3); err != nil {
		t.Errorf("proc_exit(3) ended with %v", err)
	}
}

func TestDenyEndsTheGuestWhereAFunctionCannotFail(t *testing.T) {
	w := judged(t, Rule{On: OneOrMany{"proc_exit"}, Do: "deny"})
	_, err := w.Call("proc_exit", 1)
	var stop *hostcall.StopError
	if !errors.As(err, &stop) {
		t.Errorf("got %v", err)
	}
}

func TestFetchRulesSeeTheURLAsTheGrantsDo(t *testing.T) {
	w := judged(t,
		Rule{On: OneOrMany{"fetch"}, When: `call.host.endsWith(".internal") || call.port == 22`, Do: "deny"},
		Rule{On: OneOrMany{"fetch"}, When: `call.method == "DELETE" && call.scheme == "http" && call.url_path == "/x"`, Do: "deny", Errno: "EPERM"},
	)
	for url, want := range map[string]hostcall.Errno{
		"https://db.INTERNAL./": hostcall.EACCES, "http://a.example:22": hostcall.EACCES, "http://a.example/x": hostcall.EPERM,
		"https://a.example/x": hostcall.Success, "http://%zz/": hostcall.EACCES, "http://a\xff/": hostcall.EACCES,
	} {
		if e, _ := w.Call("fetch", "DELETE", url); e != want {
			t.Errorf("%s = %s, want %s", url, e, want)
		}
	}
}

func TestSetRewritesArguments(t *testing.T) {
	w := judged(t,
		Rule{On: OneOrMany{"path_open"}, When: `call.path.startsWith("/data/private/")`, Do: "set", Set: map[string]string{"path": `"/data/public/" + call.name`, "oflags": "0"}},
		Rule{On: OneOrMany{"kv_put"}, Do: "set", Set: map[string]string{"key": `call.bucket + "/" + call.key`}},
		Rule{On: OneOrMany{"fd_seek"}, Do: "set", Set: map[string]string{"whence": `call.whence - 1`, "fd": "call.fd"}},
	)
	if e := w.open(3, "private/key", 1); e != hostcall.Success {
		t.Fatalf("open = %s", e)
	}
	if e, _ := w.Call("kv_put", "b", "k", "v"); e != hostcall.Success {
		t.Fatalf("kv_put = %s", e)
	}
	if got := strings.Join(w.fs.calls, "; "); got != "path_open public/key; kv_put b b/k" {
		t.Errorf("calls: %s", got)
	}
	// /data/public is not below /data/sub: the rewritten path cannot be reached from there.
	w.fs.links["/data/sub/x"] = "/data/private/x"
	if e := w.open(4, "x", 0); e != hostcall.EACCES {
		t.Errorf("open from a subdirectory = %s", e)
	}
	if e, _ := w.Call("fd_seek", 3, 0, 0, w.Put(make([]byte, 8))); e != hostcall.EACCES {
		t.Errorf("a flag set to a negative number = %s", e)
	}
}

func TestAnEvaluationThatFailsOrCostsTooMuchDenies(t *testing.T) {
	for _, when := range []string{
		`1 / (call.port - call.port) == 1`,
		`call.url.split("/")[7] == "x"`,
		`call.url.split("").exists(a, call.url.split("").exists(b, a == "Z" && b == "Z"))`,
	} {
		lib := fakeLibrary()
		table, _ := hostcall.NewTable(lib)
		if _, err := Compile([]Rule{{On: OneOrMany{"fetch"}, When: when, Do: "allow"}}, table); err != nil {
			if !strings.Contains(err.Error(), "costs up to") {
				t.Errorf("%s: %v", when, err)
			}
			continue
		}
		w := judged(t, Rule{On: OneOrMany{"fetch"}, When: when, Do: "allow"})
		if e, _ := w.Call("fetch", "GET", "http://a.example/"+strings.Repeat("y", 3000)); e != hostcall.EACCES {
			t.Errorf("%s: %s", when, e)
		}
		if len(w.denied) != 1 || w.denied[0] != "policy[0]: deny, as it could not be evaluated" {
			t.Errorf("%s: denied %q", when, w.denied)
		}
	}
}

func TestMistakesInRulesAreFoundBeforeAnythingRuns(t *testing.T) {
	table, err := hostcall.NewTable(fakeLibrary())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		rule   Rule
		field  string
		offset int
		msg    string
	}{
		{Rule{On: OneOrMany{"path_opne"}, Do: "deny"}, "on", -1, "did you mean path_open?"},
		{Rule{On: OneOrMany{"fetch", "nope"}, Do: "deny"}, "on[1]", -1, "there is no host function"},
		{Rule{Do: "deny"}, "on", -1, "is missing"},
		{Rule{On: OneOrMany{"*"}}, "do", -1, "is missing"},
		{Rule{On: OneOrMany{"*"}, Do: "refuse"}, "do", -1, "none of"},
		{Rule{On: OneOrMany{"*"}, Do: "deny", Mode: "audit"}, "mode", -1, "neither"},
		{Rule{On: OneOrMany{"*"}, Do: "allow", Mode: "observe"}, "mode", -1, "do nothing"},
		{Rule{On: OneOrMany{"*"}, Do: "deny", Errno: "EACESS"}, "errno", -1, "did you mean EACCES?"},
		{Rule{On: OneOrMany{"*"}, Do: "deny", Errno: "SUCCESS"}, "errno", -1, "was not"},
		{Rule{On: OneOrMany{"*"}, Do: "stop", Errno: "EPERM"}, "errno", -1, "only deny"},
		{Rule{On: OneOrMany{"fetch"}, Do: "deny", When: "call.port == 22 &&\n call.hots == \"a\""}, "when", 20, "did you mean call.host?"},
		{Rule{On: OneOrMany{"path_*"}, Do: "deny", When: `call.path == "/"`}, "when", 0, "path_rename has no call.path"},
		{Rule{On: OneOrMany{"fetch"}, Do: "deny", When: `call.port == "22"`}, "when", 10, "no matching overload"},
		{Rule{On: OneOrMany{"fetch"}, Do: "deny", When: `call.port`}, "when", -1, "a bool is wanted"},
		{Rule{On: OneOrMany{"fetch"}, Do: "deny", When: `call.port ==`}, "when", 12, "mismatched input"},
		{Rule{On: OneOrMany{"fetch"}, Do: "deny", When: `call["port"] == 1`}, "when", 0, "fetch has no call"},
		{Rule{On: OneOrMany{"fetch"}, Do: "deny", When: `host == "a"`}, "when", 0, "undeclared reference"},
		{Rule{On: OneOrMany{"fetch"}, Do: "deny", When: `call.url.matches("(")`}, "when", -1, "missing closing"},
		{Rule{On: OneOrMany{"fetch"}, Do: "deny", When: strings.Repeat("!", MaxExpression+1)}, "when", -1, "at most"},
		{Rule{On: OneOrMany{"fetch"}, Do: "set"}, "set", -1, "is missing"},
		{Rule{On: OneOrMany{"fetch"}, Do: "deny", Set: map[string]string{"url": `"x"`}}, "set", -1, "do is"},
		{Rule{On: OneOrMany{"fetch"}, Do: "set", Set: map[string]string{"ulr": `"x"`}}, "set.ulr", -1, "did you mean url?"},
		{Rule{On: OneOrMany{"fetch"}, Do: "set", Set: map[string]string{"url": `22`}}, "set.url", -1, "where string is wanted"},
		{Rule{On: OneOrMany{"kv_put"}, Do: "set", Set: map[string]string{"value": `"x"`}}, "set.value", -1, "cannot be set"},
		{Rule{On: OneOrMany{"path_open"}, Do: "set", Set: map[string]string{"opened": `1`}}, "set.opened", -1, "cannot be set"},
	} {
		_, err := Compile([]Rule{{On: OneOrMany{"*"}, Do: "allow"}, c.rule}, table)
		var e *Error
		if !errors.As(err, &e) {
			t.Errorf("%+v: %v", c.rule, err)
			continue
		}
		if e.Rule != 1 || e.Field != c.field || e.Offset != c.offset || !strings.Contains(e.Msg, c.msg) {
			t.Errorf("%+v:\n got rule %d, field %q, offset %d: %s\nwant field %q, offset %d: …%s…", c.rule, e.Rule, e.Field, e.Offset, e.Msg, c.field, c.offset, c.msg)
		}
	}
	if _, err := Compile(make([]Rule, MaxRules+1), table); err == nil {
		t.Error("too many rules were taken")
	}
}

func TestAMistakeInOnePartOfARuleHidesNoneInAnother(t *testing.T) {
	table, err := hostcall.NewTable(fakeLibrary())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		rule Rule
		want []string // field, offset and the begin of the message
	}{
		{Rule{On: OneOrMany{"path_opne"}, Do: "deny", When: `call.pth == "/"`},
			[]string{`on -1 there is no host function "path_opne": did you mean path_open?`, "when 0 path_open has no call.pth: did you mean call.path?"}},
		{Rule{On: OneOrMany{"path_opne"}, Do: "deny", When: `call.path == 1`},
			[]string{`on -1 there is no host function "path_opne"`, "when 10 found no matching overload"}},
		{Rule{On: OneOrMany{"path_opne"}, Do: "deny", When: `call.path == "/"`},
			[]string{`on -1 there is no host function "path_opne"`}},
		{Rule{On: OneOrMany{"path_open", "fecth"}, Do: "deny", When: `call.hots == "a"`},
			[]string{`on[1] -1 there is no host function "fecth": did you mean fetch?`, "when 0 path_open has no call.hots"}},
		{Rule{On: OneOrMany{"path_open", "fecth"}, Do: "deny", When: `call.path == "/"`},
			[]string{`on[1] -1 there is no host function "fecth": did you mean fetch?`, "when 0 fetch has no call.path"}},
		{Rule{On: OneOrMany{"zebra"}, Do: "deny", When: `call.host == "a" || call.pathhs == []`},
			[]string{`on -1 there is no host function "zebra"`, "when 20 no host function has call.pathhs: did you mean call.paths?"}},
		{Rule{On: OneOrMany{"zebra"}, Do: "set", Set: map[string]string{"url": "call.qqqqqqqq"}},
			[]string{`on -1 there is no host function "zebra"`, "set.url 0 no host function has call.qqqqqqqq"}},
		{Rule{Do: "deny", When: `call.path ==`}, []string{"on -1 is missing", "when 12 "}},
		{Rule{On: OneOrMany{"fetch"}, Do: "dney", When: `call.hots == "a"`},
			[]string{`do -1 "dney" is none of`, "when 0 fetch has no call.hots"}},
		{Rule{On: OneOrMany{"fetch"}, Do: "deny", Mode: "watch", Errno: "EACESS", When: `[1].all(call, call > 0)`},
			[]string{"mode -1 ", "errno -1 ", "when -1 call is the host call"}},
	} {
		_, err := Compile([]Rule{c.rule}, table)
		var got []string
		if many, ok := err.(interface{ Unwrap() []error }); ok {
			for _, err := range many.Unwrap() {
				if e, ok := errors.AsType[*Error](err); ok {
					if !strings.HasPrefix(e.Error(), "policy[0]."+e.Field) {
						t.Errorf("no place as in a manifest: %s", e)
					}
					got = append(got, fmt.Sprintf("%s %d %s", e.Field, e.Offset, e.Msg))
				}
			}
		}
		if !slices.EqualFunc(got, c.want, strings.HasPrefix) {
			t.Errorf("%+v:\n got %s\nwant %s", c.rule, strings.Join(got, "\n     "), strings.Join(c.want, "\n     "))
		}
	}
}
