package wall

import (
	"log/slog"
	"strings"
)

// Options says what a process keeps. The zero value keeps its standard descriptors and no file.
type Options struct {
	// Read and Write are directories whose files may be read, or also written, made, renamed and removed. One that is not there
	// is left out. A directory that is replaced by another of its name later is not covered.
	Read, Write []string
	// Descriptors that were inherited and stay open, besides the standard ones.
	Descriptors []int
}

// Measure is one part of the wall.
type Measure struct {
	Name   string `json:"name"`
	Holds  bool   `json:"holds"`
	Detail string `json:"detail,omitempty"` // how it holds, or why it does not
	Cost   string `json:"cost,omitempty"`   // what its absence leaves open
}

// Log writes one line that names the measures that do not hold, with what that costs; none if all do.
func Log(log *slog.Logger, measures []Measure) {
	var missing, open []string
	for _, m := range measures {
		if !m.Holds {
			missing = append(missing, m.Name+" ("+m.Detail+")")
			open = append(open, m.Cost)
		}
	}
	if len(missing) > 0 {
		log.Warn("the wall around the worker has gaps", "missing", strings.Join(missing, "; "), "open", strings.Join(open, "; "))
	}
}

// The measures' names, and what their absence costs.
const (
	noNewPrivs   = "no_new_privs"
	capabilities = "capabilities"
	seccompName  = "seccomp"
	landlockName = "landlock"
	hidden       = "hidden memory"
	descriptors  = "descriptors"
	limits       = "limits"
)

var costs = map[string]string{
	noNewPrivs:   "a worker that was taken over can gain rights from set-user-ID programs",
	capabilities: "a worker of a privileged user that was taken over keeps its privileges",
	seccompName:  "a worker that was taken over can connect out, start programs and trace processes of its user",
	landlockName: "a worker that was taken over can open every file that its user can, the server's token and keys among them",
	hidden:       "processes of the same user can read the memory of the server and its worker",
	descriptors:  "a worker may hold files that it inherited by chance",
	limits:       "a worker that crashes may leave its memory in a core file",
}

// measure is a part that holds if err is nil.
func measure(name, detail string, err error) Measure {
	if err != nil {
		return Measure{Name: name, Detail: err.Error(), Cost: costs[name]}
	}
	return Measure{Name: name, Holds: true, Detail: detail}
}
