// Package trace shows what a guest does: every host call with its decoded arguments, outcome and duration, and the events
// between them, as text that reads like strace's or as JSON.
//
// A Tracer is an interposer. It captures a call into a fixed-size entry of its Sink without allocating, and what is shown
// is made from that later: at once by NewWriter and NewFunc, when somebody asks by a Ring. Put it first among a sandbox's
// interposers, so that it sees the outcome after everyone else has had a say.
//
// Guest text is shortened and, as text, escaped for terminals. Secret arguments are shown by length only, and so are
// buffers the call filled without saying how far (random_get).
package trace
