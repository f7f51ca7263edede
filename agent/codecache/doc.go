// Package codecache keeps the compiled code of modules on a host, sealed.
//
// A directory has three parts: code, which is laid out as the engine wants it and which a worker may read; seals, one for each
// module; and work, in which compilers write. A seal says which file of code belongs to a module, what its bytes are, and which
// program and engine made it, and is authenticated under a key of this host alone (HMAC with SHA-256). The process that owns the
// cache is the only one that has the key and writes to code and seals. What has no seal, or is not what its seal says, is
// not there: it is compiled again.
//
// Compiling is not its business, and neither is loading code.
package codecache
