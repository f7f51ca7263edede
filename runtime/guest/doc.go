// Package guest is how a request reaches a guest and how its answer comes back.
//
// There are two kinds. A command is any WASI program: it answers one request as CGI (RFC 3875), environment and standard
// input in, standard output out, in a sandbox of its own, which has run up to the first call that needs the request. A task exports a handler for the task ABI (sdk/ABI.md): the
// request is written into its memory, it is called once, and the sandbox may serve again.
//
// A Program is a compiled module with everything that its sandboxes share; a Sandbox is ready for one request. What the
// world offers to guests (fetches, keys and values, other jobs, logs) comes in through Services; what a guest may use of
// it is decided here, in the host functions, against the job's grants. Pools, deadlines and error pages belong to the
// caller.
//
// Guests are hostile, and so is what they return: no pointer, encoding or output of theirs may panic, block or grow the
// host. Goroutines that serve a guest's long calls never touch its memory, and end with the invocation.
package guest
