// Package embedded keeps a broker's records, blobs and buckets in a directory of this machine: the default of a single
// server. Records and buckets are in bbolt files of their own, blobs are plain files.
//
//	lock         held by the one process that has the store open
//	records.db   records
//	buckets.db   buckets
//	blobs/ab/…   blobs, in folders named after the first two digits of their digest; blobs/tmp has those still being put
//
// What is acknowledged has been written and synced, so it survives a crash of the process and a loss of power. One
// process has a store open at a time. A file that is corrupt is refused before anything is written: its pages are checked
// when the store is opened, and every value carries a checksum.
package embedded
