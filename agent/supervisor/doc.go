// Package supervisor is the control process's side of its worker: it starts the process that runs guests, starts it
// again when it dies, tells it what to serve, and does for it what only the control process may: read modules, keys and
// secrets, and make outbound requests.
//
// The worker may have fallen to a guest. What it sends is bounded in size and number, it can name only jobs it was
// given, and each request is held against the grant of the version it is made for once more.
package supervisor
