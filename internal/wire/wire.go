// Package wire is what a control process and its workers say to each other.
//
// A worker gets one end of a socket pair and speaks HTTP/2 (h2c) as the client on it. It holds two long requests: GET
// /orders streams Orders to it, POST /reports streams its Reports, each a JSON object a line. Everything else is a
// short request, listed with the paths below. Requests made for a guest carry HeaderJob and HeaderVersion, and the
// control process checks that version's grant once more.
package wire

import (
	"encoding/json"
	"time"
	"unicode/utf8"
)

// Schema is the version of these messages. Readers keep unknown fields and refuse a newer Schema.
const Schema = 1

// Assignment is a version of a job that a worker serves, or is to try.
type Assignment struct {
	Schema      int             `json:"schema"`
	Job         string          `json:"job"`
	ID          string          `json:"id"` // of the job
	Entitlement string          `json:"entitlement"`
	Version     uint64          `json:"version"`
	Module      string          `json:"module"`   // digest of the bytes, lower-case hex
	Manifest    json.RawMessage `json:"manifest"` // canonical JSON of a manifest.Manifest
}

// The kinds of Order.
const (
	OrderAssign  = "assign"  // serve Assignment from now on, in place of any older version of the job
	OrderRemove  = "remove"  // stop serving Job
	OrderSynced  = "synced"  // all that was assigned at Revision has been said; jobs not named are to be removed
	OrderPrepare = "prepare" // get Assignment ready to serve (compile, start a sandbox), answer with ReportPrepared and keep it for a later assign
	OrderDiscard = "discard" // forget what ID prepared
	OrderFollow  = "follow"  // send traces (What "trace") of Job until unfollow
	OrderIgnore  = "ignore"  // end of follow
	OrderInvoke  = "invoke"  // run the queued invocation of Job that PathWork + ID gives
	OrderCancel  = "cancel"  // end what invoke ID began: nobody waits for it any more
	OrderDrain   = "drain"   // finish what runs, take nothing new, then exit
)

// Order goes from a control process to a worker.
type Order struct {
	Kind       string      `json:"kind"`
	ID         string      `json:"id,omitempty"` // of a prepare or follow
	Revision   uint64      `json:"revision,omitempty"`
	Assignment *Assignment `json:"assignment,omitempty"`
	Job        string      `json:"job,omitempty"`
	What       string      `json:"what,omitempty"`
}

// The kinds of Report.
const (
	ReportReady    = "ready"    // the worker runs and has read all orders up to synced; PID
	ReportPrepared = "prepared" // ID: Problem is nil when it worked
	ReportStarted  = "started"  // Version of Job is served now (Problem is nil), or could not be started
	ReportApplied  = "applied"  // orders up to Revision have taken effect on ingress
	ReportLog      = "log"      // a line of a guest
	ReportTrace    = "trace"    // a host call or event of a guest, while followed
	ReportAudit    = "audit"    // a host call that policy refused
	ReportRunning  = "running"  // Job entered a guest (Count goes up), so that a dead worker can be blamed on it
	ReportIdle     = "idle"     // Job left a guest
)

// Report goes from a worker to its control process.
type Report struct {
	Kind       string          `json:"kind"`
	Time       time.Time       `json:"time,omitzero"`
	ID         string          `json:"id,omitempty"`
	PID        int             `json:"pid,omitempty"`
	Revision   uint64          `json:"revision,omitempty"`
	Job        string          `json:"job,omitempty"`
	Version    uint64          `json:"version,omitempty"`
	Invocation string          `json:"invocation,omitempty"`
	Stream     string          `json:"stream,omitempty"` // of a log: "stdout", "stderr", "log" (the log call), "system" (ours)
	Level      string          `json:"level,omitempty"`  // of a log: debug, info, warn, error
	Text       string          `json:"text,omitempty"`
	Raw        []byte          `json:"raw,omitempty"` // of a log, in place of Text: see Pack
	Problem    *Problem        `json:"problem,omitempty"`
	Trace      json.RawMessage `json:"trace,omitempty"`    // a trace.Record
	Function   string          `json:"function,omitempty"` // of an audit: what was called
	// Omitted is how many reports like an audit (of its Job and Level) or like a trace (of its Job) were left out before it. Without a Text, or
	// a Trace, it says nothing else.
	Omitted uint64 `json:"omitted,omitempty"`
}

// Pack has the text of a log sent as its bytes, in base64, if much of it would have to be escaped, or it is no UTF-8: as a JSON string control characters
// take six times their length, and who reads them as long; and of what is no UTF-8 nobody could tell whether it was a secret.
func (r *Report) Pack() {
	if r.Kind != ReportLog {
		return
	}
	escapes := 0
	for _, c := range []byte(r.Text) {
		if c < ' ' && c != '\t' && c != '\n' && c != '\r' {
			escapes++
		}
	}
	if escapes > len(r.Text)/16+1 || !utf8.ValidString(r.Text) {
		r.Text, r.Raw = "", []byte(r.Text)
	}
}

// Unpack ends what Pack did. The text may be no UTF-8 then.
func (r *Report) Unpack() {
	if r.Kind == ReportLog && r.Raw != nil {
		r.Text, r.Raw = string(r.Raw), nil
	}
}

// CutQuote ends a quoted text of an audit's report that is only the begin of what a guest gave. What stands before it may be a part of
// a secret.
const CutQuote = `…"`

// Problem says why something was refused, for people and programs (RFC 9457 members are made from it).
type Problem struct {
	Code   string `json:"code"`   // "module-invalid", "start-failed", …; the last part of the problem's type
	Status int    `json:"status"` // HTTP status to answer with
	Title  string `json:"title"`
	Detail string `json:"detail"`
}

func (p *Problem) Error() string { return p.Detail }

// Paths of the short requests, and the headers of those made for a guest.
const (
	PathOrders  = "/orders"
	PathReports = "/reports"
	PathModule  = "/modules/"        // + digest: GET gives the bytes
	PathCode    = "/code/"           // + engine + "/" + digest: GET gives the Code, once it is there; it may be compiled first. HeaderProgram
	PathFetch   = "/fetch"           // POST: the request to make, in wire form: HeaderMethod and HeaderURL, other headers after PrefixFetch, body as it is
	PathKV      = "/kv/"             // + bucket: GET ?key=, GET ?prefix=&after=&limit=, PUT ?key= (HeaderIf), DELETE ?key= (HeaderIf)
	PathEnqueue = "/enqueue/"        // + job: POST a request (package envelope) ?key=&order=&callback=&priority=&delay=&deadline=, the last two in nanoseconds: queues it and gives an Enqueued
	PathWork    = "/work/"           // + ID of an invoke: GET gives its request (package envelope), with HeaderInvocation and HeaderAttempt; POST takes what came of it, with HeaderOutcome
	PathSecrets = "/secrets"         // GET ?name= gives one secret's bytes
	PathMetrics = "/otlp/v1/metrics" // POST: metric families of Prometheus, delimited protobuf messages

	PrefixFetch = "X-F-" // of the headers of a fetch and its answer, apart from the link's own

	HeaderJob        = "Ripstop-Job"
	HeaderVersion    = "Ripstop-Version"
	HeaderInvocation = "Ripstop-Invocation"
	HeaderAttempt    = "Ripstop-Attempt"     // of an invocation: 1 for the first
	HeaderOutcome    = "Ripstop-Outcome"     // one of the Outcomes
	HeaderSchedule   = "Ripstop-Schedule"    // name of the schedule that enqueued an invocation
	HeaderScheduled  = "Ripstop-Scheduled"   // when it was to (RFC 3339)
	HeaderRetryAfter = "Ripstop-Retry-After" // seconds that a failed attempt asks for before another
	HeaderMethod     = "Ripstop-Method"
	HeaderURL        = "Ripstop-Url"
	HeaderIf         = "Ripstop-If" // the version a key must have; 0: it must not exist; absent: any
	HeaderRevision   = "Ripstop-Revision"
	HeaderProgram    = "Ripstop-Program" // digest of the program's file, which both ends have to share
	HeaderError      = "Ripstop-Error"   // an errno's name, when the answer is one
)

// What may come of an attempt of a queued invocation, and what the body says then.
const (
	OutcomeDone      = "done"      // the response (package envelope)
	OutcomeFailed    = "failed"    // why; another attempt may do better
	OutcomeHopeless  = "hopeless"  // why; no other attempt would do better
	OutcomeUnstarted = "unstarted" // why; the guest has seen nothing of it
)

// Code says where the compiled code of a module lies beneath the directory of code, and what it is.
type Code struct {
	Path   string `json:"path"`
	SHA256 []byte `json:"sha256"` // base64
}

// Enqueued says what became of a request that was to be queued.
type Enqueued struct {
	ID    string `json:"id"` // of the invocation
	Known bool   `json:"known,omitempty"`
}

// Listed is a key in the answer to a list of a bucket. Keys are bytes, which JSON strings are not.
type Listed struct {
	Key     []byte `json:"key"` // base64
	Version uint64 `json:"version"`
	Size    uint64 `json:"size"`
}
