package manifest

import (
	"bytes"
	"encoding/json"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/ripstop-vm/ripstop/runtime/policy"
	"github.com/ripstop-vm/ripstop/runtime/processor"
)

// described is what the schema says of a key beyond its type. "[]" stands for any entry of a list.
var described = map[string]map[string]any{
	"":                       {"description": "What a Ripstop job is, what it may use and what it may do."},
	"name":                   {"description": "The job's name, a DNS label.", "pattern": labelPattern},
	"module":                 {"description": "Path of the .wasm file for `ripstop deploy`, relative to the manifest. Not stored."},
	"kind":                   {"description": "How the module is given requests; read off the module if left out.", "enum": []string{"command", "task"}},
	"isolation":              {"description": "A fresh sandbox for each request, or one that keeps its state while it succeeds.", "enum": []string{"request", "task"}, "default": "request"},
	"engine":                 {"description": "What executes the guest, with the same results, traps and fuel; wasmtime takes a server that was built with it.", "enum": []string{"wazero", "wasmtime"}, "default": "wazero"},
	"request":                {"description": "How a command gets its request: CGI in its environment, or SCGI on its standard input.", "enum": []string{"environment", "stdin"}, "default": "environment"},
	"args":                   {"description": "Arguments of a command, after its name.", "maxItems": MaxArgs},
	"routes":                 {"description": "Where the job answers; /NAME/ if left out.", "maxItems": MaxRoutes},
	"routes[].host":          {"description": "Exact host name, lower case; any if left out."},
	"routes[].path":          {"description": "\"/a/\" is everything below, \"/a\" that path alone.", "pattern": "^/", "maxLength": MaxRoutePath},
	"weight":                 {"description": "Share of the processor, compared with other jobs that compute.", "minimum": processor.MinWeight, "maximum": processor.MaxWeight, "default": DefaultWeight},
	"limits":                 {"description": "Bounds of a sandbox, of an invocation and of the job."},
	"capabilities":           {"description": "All that the guest may use: nothing is granted unless named."},
	"capabilities.files":     {"description": "Directories and files.", "maxItems": policy.MaxFiles},
	"capabilities.env":       {"description": "The guest's whole environment.", "maxProperties": policy.MaxEnv},
	"capabilities.fetch":     {"description": "Servers that may be fetched from, each as scheme://host[:port] or in parts.", "maxItems": policy.MaxFetch},
	"capabilities.kv":        {"description": "Buckets.", "maxItems": policy.MaxNames},
	"capabilities.invoke":    {"description": "Jobs that may be invoked.", "maxItems": policy.MaxNames},
	"capabilities.enqueue":   {"description": "Jobs that invocations may be enqueued for.", "maxItems": policy.MaxNames},
	"capabilities.secrets":   {"description": "Secrets that may be read, by name.", "maxItems": policy.MaxNames},
	"capabilities.clock":     {"description": "What the guest reads as real time; the system's if left out."},
	"capabilities.random":    {"description": "Where the guest's randomness comes from; the system's if left out."},
	"policy":                 {"description": "Rules on host calls; the first that matches decides.", "maxItems": policy.MaxRules},
	"policy[].on":            {"description": "Host functions by name or pattern: path_open, path_*, *."},
	"policy[].when":          {"description": "CEL over the call's arguments, yields bool; always if left out.", "maxLength": policy.MaxExpression},
	"policy[].do":            {"enum": []string{"deny", "allow", "stop", "set"}},
	"policy[].set":           {"description": "Arguments and the CEL that gives what they become, for do: set."},
	"policy[].errno":         {"description": "What deny answers.", "default": "EACCES"},
	"policy[].mode":          {"description": "observe logs what would have happened and changes nothing.", "enum": []string{"enforce", "observe"}, "default": "enforce"},
	"config":                 {"description": "What the guest may read by name.", "maxProperties": MaxConfig},
	"capabilities.files[]":   {"required": []string{"guest", "source"}},
	"capabilities.fetch[]":   {"required": []string{"scheme", "host"}},
	"policy[]":               {"required": []string{"on", "do"}},
	"routes[]":               {"required": []string{"path"}},
	"limits.memory":          {"description": "Of one sandbox."},
	"limits.time":            {"description": "Of one invocation, wall clock."},
	"limits.start":           {"description": "Of a sandbox's start, wall clock."},
	"limits.request":         {"description": "Body of a request."},
	"limits.response":        {"description": "Of a response, headers included."},
	"limits.files":           {"description": "Descriptors open at once."},
	"limits.log":             {"description": "Log output of one invocation; the rest is dropped and counted."},
	"limits.concurrency":     {"description": "Invocations at once."},
	"limits.queue":           {"description": "Invocations waiting for a slot; -1: none may wait."},
	"limits.hostcalls":       {"description": "Host calls of one invocation."},
	"limits.cpu":             {"description": "Time at the processor of one invocation; no bound if left out."},
	"limits.fuel":            {"description": "Work of one invocation, about one for each instruction; no bound if left out."},
	"queue":                  {"description": "How queued invocations are kept and run."},
	"queue.concurrency":      {"description": "Queued invocations at once; one less than limits.concurrency if left out."},
	"queue.attempts":         {"description": "Of an invocation that fails."},
	"queue.backoff":          {"description": "The wait between attempts, which doubles."},
	"queue.backoff.first":    {"description": "After the first attempt."},
	"queue.backoff.max":      {"description": "At most."},
	"queue.ttl":              {"description": "How long a result is kept."},
	"queue.length":           {"description": "Unfinished invocations, dead letters included."},
	"queue.ordered":          {"description": "One after another, in the order in which they came."},
	"schedule":               {"description": "When invocations of the job are enqueued by themselves.", "maxItems": MaxSchedules},
	"schedule[]":             {"required": []string{"cron"}},
	"schedule[].name":        {"description": "Tells it from others; made from the time and the request if left out.", "pattern": labelPattern, "maxLength": MaxScheduleName},
	"schedule[].cron":        {"description": "Minute, hour, day of the month, month, day of the week.", "pattern": "^[ \\t]*([0-9A-Za-z*,/-]+[ \\t]+){4}[0-9A-Za-z*,/-]+[ \\t]*$"},
	"schedule[].zone":        {"description": "A time zone, such as Europe/Vienna.", "default": "UTC"},
	"schedule[].missed":      {"description": "What becomes of firings that nobody was there for.", "enum": []string{MissedRunOnce, MissedSkip}, "default": MissedRunOnce},
	"schedule[].overlap":     {"description": "What becomes of a firing while the invocation before has not ended.", "enum": []string{OverlapSkip, OverlapWait, OverlapAllow}, "default": OverlapSkip},
	"schedule[].method":      {"default": "POST"},
	"schedule[].path":        {"description": "Path and query, as the guest sees them.", "pattern": "^/", "default": "/"},
	"schedule[].headers":     {"description": "Of the request.", "maxProperties": MaxScheduleHeaders},
	"schedule[].body":        {"description": "Of the request."},
	"capabilities.kv[]":      {"pattern": "^[a-z0-9][a-z0-9._-]{0,62}$"},
	"capabilities.invoke[]":  {"pattern": labelPattern},
	"capabilities.enqueue[]": {"pattern": labelPattern},
	"capabilities.secrets[]": {"pattern": "^[A-Za-z][A-Za-z0-9._-]{0,127}$"},

	"capabilities.files[].guest":    {"description": "Absolute path in the guest.", "pattern": "^/"},
	"capabilities.files[].source":   {"description": "On a server a volume's name with an optional path below it; for `ripstop run` a path.", "minLength": 1},
	"capabilities.files[].access":   {"enum": []string{"ro", "rw"}, "default": "ro"},
	"capabilities.files[].except":   {"description": "Guest paths below guest that stay out of reach.", "maxItems": policy.MaxExcept},
	"capabilities.files[].except[]": {"pattern": "^/"},
	"capabilities.fetch[].scheme":   {"enum": []string{"http", "https"}},
	"capabilities.fetch[].host":     {"description": "A host name, an IP address or *.suffix."},
	"capabilities.fetch[].port":     {"description": "The scheme's own if left out.", "minimum": 0, "maximum": 65535},
	"capabilities.fetch[].private":  {"description": "Addresses that are not public may be reached, too."},
	"capabilities.clock.offset":     {"description": "Added to real time."},
	"capabilities.clock.frozen":     {"description": "Time stands still here."},
	"capabilities.random.seed":      {"description": "A repeatable sequence; never use it for keys."},
}

const (
	labelPattern    = "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"
	sizePattern     = "^[0-9]+ ?(B|KiB|MiB|GiB|TiB)?$"
	durationPattern = "^[-+]?([0-9]+d|([0-9]+d)?([0-9]+(\\.[0-9]*)?(ns|us|µs|ms|s|m|h))+)$"
)

// Schema is the JSON Schema (draft 2020-12) of a manifest as YAML or JSON, for editors. Parse is stricter: it also checks
// what a schema cannot say. manifest/schema.json is the same.
func Schema() []byte {
	root := schemaOf(reflect.TypeFor[Manifest](), "")
	root["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	root["title"] = "Ripstop manifest"
	spans := spans()
	for _, key := range slices.Sorted(maps.Keys(spans)) {
		s, l := root, spans[key]
		for name := range strings.SplitSeq(key, ".") {
			s = s["properties"].(map[string]any)[name].(map[string]any)
		}
		if s["type"] == "integer" {
			s["maximum"] = l.hi
			s["minimum"] = min(l.low, max(l.also, -1))
			if l.also == 0 {
				s["minimum"] = l.low
			}
		}
		switch {
		case l.fill == 0: // no bound
		case s["type"] == "integer":
			s["default"] = l.fill
		default:
			s["default"] = l.text(l.fill)
		}
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(root); err != nil {
		panic("manifest: the schema cannot be written: " + err.Error()) // it is made of texts and numbers of ours
	}
	return b.Bytes()
}

func schemaOf(t reflect.Type, key string) map[string]any {
	s := map[string]any{}
	switch t {
	case sizeType:
		s["anyOf"] = []any{map[string]any{"type": "integer", "minimum": 0}, map[string]any{"type": "string", "pattern": sizePattern}}
	case durationType, goDuration:
		s["type"], s["pattern"] = "string", durationPattern
	case timeType:
		s["type"], s["format"] = "string", "date-time"
	case manyType:
		name := map[string]any{"type": "string", "minLength": 1}
		s["anyOf"] = []any{name, map[string]any{"type": "array", "items": name, "minItems": 1}}
	default:
		switch t.Kind() {
		case reflect.Struct:
			s["type"], s["additionalProperties"] = "object", false
			props := map[string]any{}
			for i, name := range fields(t) {
				props[name] = schemaOf(t.Field(i).Type, join2(key, name))
			}
			s["properties"] = props
		case reflect.Slice:
			s["type"], s["items"] = "array", schemaOf(t.Elem(), key+"[]")
		case reflect.Map:
			// Numbers and truth values are read as the text they are written with.
			s["type"], s["additionalProperties"] = "object", map[string]any{"type": []string{"string", "number", "boolean"}}
		case reflect.Pointer:
			return schemaOf(t.Elem(), key)
		case reflect.String:
			s["type"] = "string"
		case reflect.Bool:
			s["type"] = "boolean"
		case reflect.Uint64:
			s["type"], s["minimum"] = "integer", 0
		default:
			s["type"] = "integer"
		}
	}
	for k, v := range described[key] {
		s[k] = v
	}
	if t == fetchType {
		short := map[string]any{"type": "string", "pattern": "^https?://[^/]+$"}
		return map[string]any{"anyOf": []any{short, s}}
	}
	if l, ok := spans()[key]; ok {
		s["description"] = s["description"].(string) + " From " + l.text(l.low) + " to " + l.text(l.hi) + "."
	}
	return s
}

// spans are the ranges of all bounded fields, by key.
func spans() map[string]span {
	all := map[string]span{}
	for _, l := range limits {
		all["limits."+l.key] = l.span
	}
	for _, l := range queueLimits {
		all["queue."+l.key] = l.span
	}
	return all
}
