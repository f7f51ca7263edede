// Package gateway answers ingress: it matches a request's host and path to a job, names the invocation, and has an
// Agent serve it.
//
// It decides nothing about tasks and runs no guest. Clients are hostile: what they send is bounded before a job sees
// it, and what an error page says is nothing but the problem and the invocation's id.
package gateway
