package control

import (
	"encoding/json"
	"fmt"

	"github.com/ripstop-vm/ripstop/broker"
	"github.com/ripstop-vm/ripstop/control/keys"
	"github.com/ripstop-vm/ripstop/manifest"
)

// Prefixes of the records.
var (
	jobsPrefix     = keys.Jobs(entitlement)        // + job
	versionsPrefix = keys.Versions(entitlement)    // + job/number
	secretsPrefix  = keys.Secrets(entitlement)     // + job/name
	purgesPrefix   = "purges/" + entitlement + "/" // + ID of a job whose queue is to be forgotten
	firedPrefix    = keys.Schedules(entitlement)   // + ID of a job
)

const (
	routesPrefix = keys.Routes
	tokensPrefix = keys.Tokens
	namesPrefix  = keys.TokenNames
	auditPrefix  = keys.Audit
)

func jobKey(job string) string               { return jobsPrefix + job }
func versionsOf(job string) string           { return versionsPrefix + job + "/" }
func versionKey(job string, n uint64) string { return fmt.Sprintf("%s%020d", versionsOf(job), n) }
func secretsOf(job string) string {
	return keys.SecretsOf(broker.Job{Entitlement: entitlement, Name: job})
}
func secretKey(job, name string) string        { return secretsOf(job) + name }
func scheduleKey(jobID string) string          { return firedPrefix + jobID }
func routeKey(r manifest.Route) string         { return routesPrefix + r.Host + r.Path }
func bucketName(job Job, bucket string) string { return keys.Bucket(entitlement, job.ID, bucket) }

// put makes a write of a document.
func put(key string, doc any) (broker.Write, error) {
	b, err := json.Marshal(doc)
	if err != nil {
		return broker.Write{}, fmt.Errorf("write record %s: %w", key, err)
	}
	return broker.Write{Key: key, Value: b}, nil
}

func remove(key string) broker.Write { return broker.Write{Key: key, Delete: true} }

// decode reads a document, and refuses one that a newer program wrote.
func decode[T any](r broker.Record) (T, error) {
	var head struct {
		Schema int `json:"schema"`
	}
	var doc T
	if err := json.Unmarshal(r.Value, &head); err != nil {
		return doc, fmt.Errorf("read record %s: %w", r.Key, err)
	}
	if head.Schema > schema {
		return doc, fmt.Errorf("read record %s: schema %d: %w", r.Key, head.Schema, broker.ErrNewer)
	}
	if err := json.Unmarshal(r.Value, &doc); err != nil {
		return doc, fmt.Errorf("read record %s: %w", r.Key, err)
	}
	return doc, nil
}
