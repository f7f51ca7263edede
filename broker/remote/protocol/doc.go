// Package protocol is what a remote broker's client and server say to each other over HTTP/2.
//
// Each method of broker's contracts is a path, POSTed to: the request's body is a Call (for Blobs.Put, the bytes themselves), and the
// answer's is frames: a length in four bytes, big-endian, and a Reply. The last Reply says so and carries the error, if there is one; a body
// that ends without it was cut off, and what became of the call is not known.
//
// Messages are written as Protocol Buffers are, by field number, from one description for both directions. Keys are bytes, not text. A
// reader skips the fields that it does not know, and a field keeps its number and its meaning for ever: that is how versions that differ
// a little work together. A message is never stored or handed on, so nothing that was skipped is lost; what is stored, or comes back to
// whom it is from, are bytes inside it, which are kept as they are (documents, payloads, marks, the tokens of leases). Schema is raised when
// that does not do, and a server refuses calls of a newer one.
//
// Whoever is at the other end may be hostile: lengths, numbers of elements and depths are bounded, and nothing is allocated because a length
// claims that it will be needed.
package protocol
