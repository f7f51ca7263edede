// Package embedded is all of a broker's contracts in a directory of this machine: the default of a single server. Records,
// buckets and the queue are in bbolt files of their own, blobs are plain files. Leases are in memory, as all who could hold
// one are in this process; only their epochs go on.
//
//	lock         held by the one process that has the store open
//	records.db   records
//	buckets.db   buckets
//	queue.db     queued invocations with their results, and the epochs of leases
//	blobs/ab/…   blobs, in folders named after the first two digits of their digest; blobs/tmp has those still being put
//
// What is acknowledged has been written and synced, so it survives a crash of the process and a loss of power. One
// process has a store open at a time. A file that is corrupt is refused before anything is written: its pages are checked
// when the store is opened, and every value carries a checksum.
package embedded
