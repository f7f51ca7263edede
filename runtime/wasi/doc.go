// Package wasi is WASI preview 1 (module wasi_snapshot_preview1): all 46 functions, for any engine.
//
// Library is shared by all sandboxes; a System is what one sandbox sees of the world: its arguments, environment,
// standard streams, files and sockets. The zero Options grant nothing but clocks and randomness.
//
// Rights and their inheritance follow the specification. Files are confined by the kernel: on Linux each path is
// resolved by openat2 beneath its descriptor's directory, elsewhere by os.Root; what was resolved is what is judged,
// and the handle judged is the one used. Devices, FIFOs and sockets found in directories are refused.
//
// Guests are hostile: no arguments of theirs may panic, block past the call's context or grow the host. A call moves at
// most MaxTransfer bytes and then gives a short count.
package wasi
