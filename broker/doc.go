// Package broker is the source of truth: the contracts through which everything else keeps its state.
//
// Records are documents with revisions, changed by commits that happen whole or not at all. Blobs are bytes named by
// their digest. Buckets are guests' key-value data under byte quotas. Each contract has a suite in package brokertest
// that every backend passes; a backend lives in a folder of its own and alone imports its client.
//
// The package decides nothing and runs nothing: what the records mean is said by package control.
package broker
