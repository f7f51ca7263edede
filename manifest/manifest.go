// Package manifest reads ripstop.yaml: what a job is, what it may use and what it may do.
//
// Reading is strict: an unknown key, a wrong type or a bad value is an Error with its line and column, and all of them
// are reported at once. The JSON form of a Manifest is canonical: it is what versions store and what its JSON Schema
// describes. Rules and grants are checked by package policy when a manifest is read.
package manifest

import "github.com/ripstop-vm/ripstop/runtime/policy"

// Manifest describes a job. Fill sets the defaults; a stored manifest has them all.
type Manifest struct {
	Name         string              `json:"name,omitempty"`        // the job's; a DNS label (RFC 1123), at most 63 bytes
	Module       string              `json:"module,omitempty"`      // path of the .wasm file for `ripstop deploy`, relative to the manifest; not stored
	Kind         string              `json:"kind,omitempty"`        // "command" or "task"; empty: read off the module
	Isolation    string              `json:"isolation,omitempty"`   // "request" (default): a fresh sandbox each time; "task": one that keeps its state
	Engine       string              `json:"engine,omitempty"`      // what executes it: "wazero" (default) or "wasmtime"
	Request      string              `json:"request,omitempty"`     // how a command gets it: "environment" (the default) or "stdin"; no task has it
	Args         []string            `json:"args,omitempty"`        // of a command, after its name
	Routes       []Route             `json:"routes,omitempty"`      // default: path /NAME/
	Weight       int                 `json:"weight,omitempty"`      // share of the processor, compared with other jobs [100, 1 to 1000]
	Limits       Limits              `json:"limits,omitzero"`       // bounds of one sandbox, one invocation and the job
	Capabilities policy.Capabilities `json:"capabilities,omitzero"` // nothing is granted unless named
	Policy       []policy.Rule       `json:"policy,omitempty"`      // rules on top, in order
	Config       map[string]string   `json:"config,omitempty"`      // what the guest may read by name
	Queue        Queue               `json:"queue,omitzero"`        // how queued invocations are kept and run
	Schedule     []Schedule          `json:"schedule,omitempty"`    // when invocations are enqueued by themselves
}

// Route is where a job answers.
type Route struct {
	Host string `json:"host,omitempty"` // exact host name, lower case; empty: any
	Path string `json:"path"`           // "/a/": everything below; "/a": that path alone. The prefix is passed on as SCRIPT_NAME
}

// Limits bound a job. A zero field means the default in brackets.
type Limits struct {
	Memory      Size     `json:"memory,omitempty"`      // of one sandbox [256MiB, at most 4GiB]
	Time        Duration `json:"time,omitempty"`        // of one invocation, wall [10s, at most 1h]
	Start       Duration `json:"start,omitempty"`       // of a sandbox's start, wall [10s, at most 5m]
	Request     Size     `json:"request,omitempty"`     // body of a request [10MiB]
	Response    Size     `json:"response,omitempty"`    // of a response, headers included [10MiB]
	Files       int      `json:"files,omitempty"`       // descriptors open at once [128]
	Log         Size     `json:"log,omitempty"`         // log output of one invocation; the rest is dropped and counted [64KiB]
	Concurrency int      `json:"concurrency,omitempty"` // invocations at once [16]
	Queue       int      `json:"queue,omitempty"`       // invocations waiting for a slot [64]; -1: none may wait
	HostCalls   int      `json:"hostcalls,omitempty"`   // host calls of one invocation [1000000]
	CPU         Duration `json:"cpu,omitempty"`         // time at the processor of one invocation [no bound but time]
	Fuel        int      `json:"fuel,omitempty"`        // of one invocation, about one for each instruction (package translate) [no bound]
}
