// Package keys builds the names of all that a cluster keeps in its broker: records, leases and buckets. Who may see what is decided by
// prefixes (package scope), so no other package puts one together.
//
// Entitlements, jobs and hosts are names without '/', so that '/' ends them, and no name below one prefix is below another.
package keys

import (
	"fmt"
	"strings"

	"github.com/ripstop-vm/ripstop/broker"
	"github.com/ripstop-vm/ripstop/internal/identity"
)

// Prefixes of records.
const (
	Routes      = "routes/"      // + host (or nothing), path
	Tokens      = "tokens/"      // + SHA-256 of the secret
	TokenNames  = "token-names/" // + name: the key of its token
	Audit       = "audit/"       // + ID
	JoinTokens  = "join-tokens/" // + SHA-256 of the secret
	Revoked     = "revoked/"     // + identity
	Assignments = "assignments/" // + host/entitlement/job
	Statuses    = "status/"      // + host
	Readiness   = "readiness/"   // + entitlement/job/host: what gateways choose from
	Authority   = "authority"    // the cluster's certificate authority
)

// Jobs begins the records of an entitlement's jobs: + job.
func Jobs(entitlement string) string { return "jobs/" + entitlement + "/" }

// Versions begins those of their versions: + job/number.
func Versions(entitlement string) string { return "versions/" + entitlement + "/" }

// Secrets begins those of their secrets: + job/name.
func Secrets(entitlement string) string { return "secrets/" + entitlement + "/" }

// Schedules begins the records of what their schedules have fired: + ID of the job.
func Schedules(entitlement string) string { return "schedules/" + entitlement + "/" }

// SecretsOf begins the records of a job's secrets: + name.
func SecretsOf(j broker.Job) string { return Secrets(j.Entitlement) + j.Name + "/" }

// JoinToken is the record of a token that somebody may join with.
func JoinToken(sum string) string { return JoinTokens + sum }

// RevokedIdentity is the record that says that an identity's certificates are not in force.
func RevokedIdentity(i identity.Identity) string { return Revoked + i.String() }

// AssignmentsOf begins the records of what a host is to run: + entitlement/job.
func AssignmentsOf(host string) string { return Assignments + host + "/" }

// Assignment is the record that a host is to run a job.
func Assignment(host string, j broker.Job) string { return AssignmentsOf(host) + j.String() }

// HostOfAssignment answers whom the key of an assignment concerns.
func HostOfAssignment(key string) (host string, ok bool) {
	rest, ok := strings.CutPrefix(key, Assignments)
	host, _, found := strings.Cut(rest, "/")
	return host, ok && found
}

// Status is the record that a host writes about itself.
func Status(host string) string { return Statuses + host }

// HostLease is the name that a host holds while it is alive. It may hold others, which begin with HostLeases.
func HostLease(host string) string { return "host/" + host }

// HostLeases begins the other names that a host may hold.
func HostLeases(host string) string { return "host/" + host + "/" }

// Bucket is the bucket of a job, by its ID: a job that is removed and deployed anew has others.
func Bucket(entitlement, jobID, name string) string { return Buckets(entitlement, jobID) + name }

// Buckets begins the names of a job's buckets.
func Buckets(entitlement, jobID string) string { return fmt.Sprintf("%s/%s/", entitlement, jobID) }
