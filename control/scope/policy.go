package scope

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/ripstop-vm/ripstop/broker"
	"github.com/ripstop-vm/ripstop/broker/remote/server"
	"github.com/ripstop-vm/ripstop/control/keys"
	"github.com/ripstop-vm/ripstop/internal/clock"
	"github.com/ripstop-vm/ripstop/internal/identity"
)

var _ server.Policy = (*Policy)(nil)

// Policy is Allowed with the assignments that the records have. It remembers what hosts were assigned while Run hears of changes, and else
// reads it each time.
type Policy struct {
	records broker.Records
	quota   int64
	log     *slog.Logger

	mu     sync.Mutex
	grants map[string]Grant // by host; nil while nobody hears of changes
	turn   uint64           // grows with each change: what was read before one is not remembered
}

// New makes a policy. quota bounds what hosts may let a bucket grow to, in bytes; 0 means broker.DefaultQuota. log may be nil.
func New(records broker.Records, quota int64, log *slog.Logger) *Policy {
	if quota == 0 {
		quota = broker.DefaultQuota
	}
	if log == nil {
		log = slog.Default()
	}
	return &Policy{records: records, quota: quota, log: log}
}

// Quota implements server.Policy.
func (p *Policy) Quota(who identity.Identity) int64 {
	if who.Role == identity.Control {
		return 0
	}
	return p.quota
}

// Allow implements server.Policy.
func (p *Policy) Allow(ctx context.Context, who identity.Identity, all ...server.Access) error {
	var g Grant
	read := false
	for _, a := range all {
		if !read && NeedsGrant(who, a) {
			var err error
			if g, err = p.grant(ctx, who.ID); err != nil {
				return fmt.Errorf("what %s was assigned: %w", who, err)
			}
			read = true
		}
		if !Allowed(who, g, a) {
			what := a.Name
			if a.Job != (broker.Job{}) {
				what = a.Job.String()
			}
			return fmt.Errorf("%w: %s may not %s the %s %.200q", broker.ErrAccess, who, verb(a), a.Kind, what)
		}
	}
	return nil
}

func verb(a server.Access) string {
	if a.Write {
		return "change"
	}
	return "see"
}

// grant answers what a host was assigned.
func (p *Policy) grant(ctx context.Context, host string) (Grant, error) {
	p.mu.Lock()
	g, ok := p.grants[host]
	turn := p.turn
	p.mu.Unlock()
	if ok {
		return g, nil
	}
	list, _, err := p.records.List(ctx, broker.Range{Prefix: keys.AssignmentsOf(host)})
	if err != nil {
		return Grant{}, err
	}
	g, bad := GrantOf(host, list)
	if bad != nil {
		p.log.Error("an assignment grants nothing", "err", bad)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.grants != nil && p.turn == turn {
		if len(p.grants) >= maxGrants {
			clear(p.grants)
		}
		p.grants[host] = g
	}
	return g, nil
}

// maxGrants bounds how many hosts' assignments are remembered.
const maxGrants = 1 << 14

// retry is how long Run waits before it asks again, when the broker does not answer.
const retry = time.Second

// Run hears of changed assignments until ctx ends.
func (p *Policy) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		if err := p.follow(ctx); err != nil && ctx.Err() == nil {
			p.log.Warn("watching assignments failed", "err", err)
		}
		p.forget(nil)
		t := clock.System.NewTimer(retry)
		select {
		case <-t.C():
		case <-ctx.Done():
		}
		t.Stop()
	}
	return nil
}

// forget replaces what is remembered.
func (p *Policy) forget(grants map[string]Grant) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.grants = grants
	p.turn++
}

func (p *Policy) follow(ctx context.Context) error {
	_, at, err := p.records.List(ctx, broker.Range{Prefix: keys.Assignments, Limit: 1})
	if err != nil {
		return err
	}
	// What is read from now on is of at or later, and what changes it is heard of.
	p.forget(map[string]Grant{})
	for e, err := range p.records.Watch(ctx, keys.Assignments, at) {
		if err != nil {
			return err
		}
		p.mu.Lock()
		p.turn++
		for _, c := range e.Changes {
			if host, ok := keys.HostOfAssignment(c.Key); ok {
				delete(p.grants, host)
			}
		}
		p.mu.Unlock()
	}
	return nil
}
