package server

import (
	"context"

	"github.com/ripstop-vm/ripstop/broker"
	"github.com/ripstop-vm/ripstop/internal/identity"
)

// Kind is what a call wants to get at.
type Kind string

// The kinds, and what Name is of each.
const (
	KindRecord  Kind = "record"  // a key. Conditions of commits are reading, as their failing tells what is there
	KindRecords Kind = "records" // a prefix: all records whose keys begin with it
	KindLease   Kind = "lease"   // a name
	KindBlob    Kind = "blob"    // a digest
	KindBlobs   Kind = "blobs"   // none: all there are, and putting some
	KindWork    Kind = "work"    // a job: leasing its invocations and ending them
	KindQueue   Kind = "queue"   // a job: all else about its queue
	KindBucket  Kind = "bucket"  // a bucket: its items
	KindBuckets Kind = "buckets" // none or a bucket: listing names, dropping one
)

// Access is something that a call wants.
type Access struct {
	Kind  Kind
	Write bool
	Name  string
	Job   broker.Job // for KindWork and KindQueue, in place of Name
}

// Policy decides who may do what.
type Policy interface {
	// Allow answers nil if who may have all of it. It fails with broker.ErrAccess if not, and must not tell then whether what was asked for
	// exists; or in another way, if it cannot say.
	Allow(ctx context.Context, who identity.Identity, all ...Access) error
	// Quota bounds what who may let a bucket grow to, in bytes; 0: no bound.
	Quota(who identity.Identity) int64
}

// Everything allows everybody everything: for control processes among themselves, and for tests.
type Everything struct{}

// Allow implements Policy.
func (Everything) Allow(context.Context, identity.Identity, ...Access) error { return nil }

// Quota implements Policy.
func (Everything) Quota(identity.Identity) int64 { return 0 }
