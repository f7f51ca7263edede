// Package wall is the second wall around guests: what the operating system keeps the worker process from, should a guest
// break through the engine's.
//
// Enter confines the calling process for good, all of its threads, and each part of the wall that it could put up, or
// could not, is a Measure:
//
//   - no_new_privs, and no capability: nothing it runs, and no file, gives it more rights than its user has.
//   - seccomp: an allow-list of system calls. No new socket, no connecting, no program to execute, no process to make,
//     trace, read, signal or limit, no mounts, no io_uring, no bpf.
//   - Landlock: files are opened only beneath the directories given, whatever the user may read otherwise.
//   - not dumpable: other processes of its user can neither trace it nor read its memory, and it leaves no core.
//   - descriptors that it inherited by chance are closed.
//
// All of it narrows only. Landlock cannot be widened while jobs come and go, so the directories are those that the operator
// let the server grant at all (its volumes), not those of the jobs of the moment; which of them a job sees is the first wall's
// business. What a process needs beyond them it opens before Enter and keeps: /proc/self/pagemap is one such file.
//
// The wall does not hide names and sizes: a confined process can still ask whether a path exists. Kernel bugs and
// speculative reads are not held off by it. Where the kernel lacks a part the rest is put up, and the Measure says what is open.
package wall
