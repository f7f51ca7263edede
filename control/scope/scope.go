// Package scope decides what the holder of a certificate may do with the broker: a pure function of who it is, what it was assigned, and
// what it wants. What no rule names is refused.
//
//   - A control process may do everything.
//   - A host sees its own assignments, and what they name: modules, secrets, buckets, and work of the jobs' queues. It writes its own status,
//     and holds leases of its own name.
//   - A gateway sees routes and readiness.
package scope

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/ripstop-vm/ripstop/broker"
	"github.com/ripstop-vm/ripstop/broker/remote/server"
	"github.com/ripstop-vm/ripstop/control/keys"
	"github.com/ripstop-vm/ripstop/internal/identity"
)

// schema is the version of Assignment.
const schema = 1

// Assignment is the record that a host is to run a job, as far as it says what the host may see. Whoever writes it may add to it.
type Assignment struct {
	Schema      int           `json:"schema"`
	Entitlement string        `json:"entitlement"`
	Job         string        `json:"job"`
	ID          string        `json:"id"` // of the job
	Version     uint64        `json:"version"`
	Module      broker.Digest `json:"module"`
}

// Grant is what a host was assigned.
type Grant struct {
	Jobs    map[broker.Job]string // with the job's ID
	Modules map[broker.Digest]bool
}

// GrantOf reads a host's assignments. A record that cannot be read, or stands under another key than its own, grants nothing, and is told.
func GrantOf(host string, records []broker.Record) (Grant, error) {
	g := Grant{Jobs: map[broker.Job]string{}, Modules: map[broker.Digest]bool{}}
	var bad error
	for _, r := range records {
		var a Assignment
		err := json.Unmarshal(r.Value, &a)
		j := broker.Job{Entitlement: a.Entitlement, Name: a.Job}
		switch {
		case err != nil:
			bad = fmt.Errorf("assignment %s: %w: %w", r.Key, broker.ErrCorrupt, err)
			continue
		case a.Schema > schema:
			bad = fmt.Errorf("assignment %s: schema %d: %w", r.Key, a.Schema, broker.ErrNewer)
			continue
		case j.Check() != nil || r.Key != keys.Assignment(host, j) || a.ID == "" || strings.Contains(a.ID, "/"):
			bad = fmt.Errorf("assignment %s: %w: it is one of %s", r.Key, broker.ErrCorrupt, j)
			continue
		}
		g.Jobs[j] = a.ID
		if d, err := broker.ParseDigest(string(a.Module)); err == nil {
			g.Modules[d] = true
		}
	}
	return g, bad
}

// NeedsGrant says whether Allowed depends on what a host was assigned.
func NeedsGrant(who identity.Identity, a server.Access) bool {
	if who.Role != identity.Host {
		return false
	}
	switch a.Kind {
	case server.KindBlob, server.KindWork, server.KindBucket:
		return true
	case server.KindRecord, server.KindRecords:
		return !a.Write && strings.HasPrefix(a.Name, "secrets/")
	}
	return false
}

// Allowed says whether who may have what it wants. g is what it was assigned, if it is a host.
func Allowed(who identity.Identity, g Grant, a server.Access) bool {
	switch who.Role {
	case identity.Control:
		return true
	case identity.Host:
		return hostMay(who.ID, g, a)
	case identity.Gateway:
		return gatewayMay(a)
	}
	return false
}

func hostMay(id string, g Grant, a server.Access) bool {
	switch a.Kind {
	case server.KindRecord:
		if a.Name == keys.Status(id) {
			return true
		}
		return !a.Write && hostReads(id, g, a.Name)
	case server.KindRecords:
		// A prefix that is its own status' key is also one of the status of hosts whose names go on from there.
		return !a.Write && hostReads(id, g, a.Name)
	case server.KindLease:
		return a.Name == keys.HostLease(id) || strings.HasPrefix(a.Name, keys.HostLeases(id))
	case server.KindBlob:
		return !a.Write && g.Modules[broker.Digest(a.Name)]
	case server.KindWork:
		_, ok := g.Jobs[a.Job]
		return ok
	case server.KindBucket:
		for j, jobID := range g.Jobs {
			if strings.HasPrefix(a.Name, keys.Buckets(j.Entitlement, jobID)) {
				return true
			}
		}
	}
	return false
}

// hostReads says whether a host may read a key, or all keys that begin with a prefix: it is below something that it may see all of.
func hostReads(id string, g Grant, name string) bool {
	if strings.HasPrefix(name, keys.AssignmentsOf(id)) {
		return true
	}
	for j := range g.Jobs {
		if strings.HasPrefix(name, keys.SecretsOf(j)) {
			return true
		}
	}
	return false
}

func gatewayMay(a server.Access) bool {
	if a.Write || a.Kind != server.KindRecord && a.Kind != server.KindRecords {
		return false
	}
	return strings.HasPrefix(a.Name, keys.Routes) || strings.HasPrefix(a.Name, keys.Readiness)
}
