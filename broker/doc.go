// Package broker is the source of truth: the contracts through which everything else keeps its state.
//
//   - Records are documents with revisions, changed by commits that happen whole or not at all.
//   - Leases are names that are held while they are renewed.
//   - Blobs are bytes named by their digest.
//   - Queue hands invocations to workers, each until a lease ends, and keeps one result of each.
//   - Buckets are guests' key-value data under byte quotas.
//
// What is atomic: a commit of records; a lease of one name; a step of one job's queue; an item of one bucket. Nothing that is
// promised here spans two names, two jobs or two buckets, so that a backend may keep them apart.
//
// Each contract has a suite in package brokertest that every backend passes; a backend lives in a folder of its own and
// alone imports its client. embedded is for one machine; model is for simulations; faulty wraps any of them.
//
// The package decides nothing and runs nothing: what the records mean is said by package control.
package broker
