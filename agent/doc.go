// Package agent runs the tasks of a host: it follows orders, keeps a task for each job's version with sandboxes made
// ahead, and serves requests with them.
//
// It lives in a worker process that holds no credential and dials nothing. All it needs of the world it asks over one
// Link to its control process (package agent/supervisor is the other end). What to run where is decided elsewhere;
// guests are hostile, and a guest's failure never ends more than its own invocation.
package agent
