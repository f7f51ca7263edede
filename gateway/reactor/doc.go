// Package reactor serves HTTP/1.1 without a goroutine for each connection. As many goroutines as guests run at once wait for whatever
// connection has something to read (epoll), read a request, have the handler answer it in place, and write the answer, with one system call
// for each. A handler that is about to wait, or takes long, leaves the loop (package internal/loop), and another goroutine takes its place; that of one that
// computes only if the loop were empty otherwise, since there are as many goroutines as processors.
//
// Only requests that are there whole in one read and have nothing unusual are served like that, and only answers that are short and complete once
// the handler returns are written. Everything else is net/http's: a connection whose request is not plain is handed over for good, with what was
// read of it, and so is one whose answer turns out to be long, or is flushed on the way: the request is read again by net/http, whose
// response writer the handler goes on with. So what this package knows of HTTP is a subset of what net/http knows, and never its own opinion;
// a fuzz target holds it against net/http.
//
// Where there is no epoll, net/http serves everything.
package reactor
