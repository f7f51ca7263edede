package policy

import (
	"encoding/json"
	"fmt"
	"time"
)

// Capabilities are the whole grant of a job: what is not named here is refused.
type Capabilities struct {
	Files   []File            `json:"files,omitempty"`
	Env     map[string]string `json:"env,omitempty"`
	Fetch   []Fetch           `json:"fetch,omitempty"`
	KV      []string          `json:"kv,omitempty"`      // buckets
	Invoke  []string          `json:"invoke,omitempty"`  // jobs
	Enqueue []string          `json:"enqueue,omitempty"` // jobs
	Secrets []string          `json:"secrets,omitempty"` // names
	Clock   Clock             `json:"clock,omitzero"`
	Random  Random            `json:"random,omitzero"`
}

// File grants a directory or a file.
type File struct {
	Guest  string   `json:"guest"`            // absolute path in the guest
	Source string   `json:"source"`           // on a server: a volume's name, with an optional path below it; for `ripstop run`: a path
	Access string   `json:"access,omitempty"` // "ro" (default) or "rw"
	Except []string `json:"except,omitempty"` // guest paths below Guest that stay out of reach
}

// ReadOnly reports whether nothing below the grant may be changed.
func (f File) ReadOnly() bool { return f.Access != "rw" }

// Fetch grants outbound requests. In YAML also written as one string: https://api.example.com, http://10.0.0.7:8080,
// https://*.example.com. A host that is or resolves to a private, loopback, link-local, CGNAT or NAT64 address is
// refused unless Private is set or the address itself is named.
type Fetch struct {
	Scheme  string `json:"scheme"`            // http or https
	Host    string `json:"host"`              // exact, an IP address, or *.suffix
	Port    int    `json:"port,omitempty"`    // 0: the scheme's own
	Private bool   `json:"private,omitempty"` // addresses that are not public are allowed, too
}

// Clock is what the guest reads as real time. The zero value is the system's.
type Clock struct {
	Offset time.Duration `json:"offset,omitempty"` // added to real time; in text forms as Go writes it, "-1h30m"
	Frozen time.Time     `json:"frozen,omitzero"`  // time stands still here
}

// clockJSON is Clock's JSON form: the offset is text, as in the manifest.
type clockJSON struct {
	Offset string    `json:"offset,omitempty"`
	Frozen time.Time `json:"frozen,omitzero"`
}

// MarshalJSON writes the offset as text ("1h30m0s").
func (c Clock) MarshalJSON() ([]byte, error) {
	j := clockJSON{Frozen: c.Frozen}
	if c.Offset != 0 {
		j.Offset = c.Offset.String()
	}
	return json.Marshal(j)
}

// UnmarshalJSON reads what MarshalJSON writes.
func (c *Clock) UnmarshalJSON(b []byte) error {
	var j clockJSON
	if err := json.Unmarshal(b, &j); err != nil {
		return err
	}
	c.Frozen, c.Offset = j.Frozen, 0
	if j.Offset == "" {
		return nil
	}
	d, err := time.ParseDuration(j.Offset)
	if err != nil {
		return fmt.Errorf("clock offset %q is no duration such as 1h30m or -15s", j.Offset)
	}
	c.Offset = d
	return nil
}

// Random is where the guest's randomness comes from. The zero value is the system's.
type Random struct {
	Seed *uint64 `json:"seed,omitempty"` // a repeatable sequence; never use it for keys
}

// Rule decides on host calls, on top of the capabilities. The first rule that matches decides.
type Rule struct {
	On    OneOrMany         `json:"on"`              // function names ("path_open", "fetch", "ripstop_task_1.fetch"), or "*"
	When  string            `json:"when,omitempty"`  // CEL, yields bool; empty: always
	Do    string            `json:"do"`              // "deny", "allow", "stop" or "set"
	Set   map[string]string `json:"set,omitempty"`   // argument → CEL, for "set"
	Errno string            `json:"errno,omitempty"` // of "deny"; default EACCES
	Mode  string            `json:"mode,omitempty"`  // "enforce" (default) or "observe": log what would have happened
}

// OneOrMany is a list that may be written as one string.
type OneOrMany []string

// UnmarshalJSON reads both forms. A list is what is written.
func (o *OneOrMany) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] == '"' {
		*o = OneOrMany{""}
		return json.Unmarshal(b, &(*o)[0])
	}
	return json.Unmarshal(b, (*[]string)(o))
}
