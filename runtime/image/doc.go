// Package image holds images of sandboxes, and brings sandboxes back to them.
//
// An Image is the state of a sandbox between two calls, as data: linear memory, mutable globals, and where a Go guest
// keeps its random state. It is immutable, named by its digest, and can be a file (Image.WriteTo, Parse). A Space hands out
// Memories: linear memory that begins as an image and returns to it, byte for byte, by the fastest way this kernel has.
// It counts the address space and the mappings that they take, which the garbage collector cannot see.
//
// On Linux an image's bytes are a sealed memfd, which every Memory of it maps privately: a page costs nothing until a
// guest writes to it. Only the parts of memory that hold something are in the memfd; the rest is anonymous. Elsewhere
// memory is plain and copied whole.
//
// Memory that a guest has grown by returns, too: to zeros, which the next growth finds. With PAGEMAP_SCAN its pages stay.
//
// What an image does not hold: the guest's stack (images are taken between calls), tables and segments (they must be as
// instantiation leaves them), globals that hold references or vectors, and the host's side of a sandbox. Package runtime
// refuses sandboxes where that matters. Who owns what: the caller closes Images, Memories and Spaces, in the order
// Memories first; an Image may be closed while Memories of it live.
package image
