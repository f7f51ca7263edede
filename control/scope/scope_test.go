package scope

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/ripstop-vm/ripstop/broker"
	"github.com/ripstop-vm/ripstop/broker/remote/server"
	"github.com/ripstop-vm/ripstop/control/keys"
	"github.com/ripstop-vm/ripstop/internal/identity"
)

var (
	hostA   = identity.Identity{Role: identity.Host, ID: "a"}
	gateway = identity.Identity{Role: identity.Gateway, ID: "g"}
	control = identity.Identity{Role: identity.Control, ID: "c"}
	mine    = broker.Job{Entitlement: "default", Name: "mine"}
	others  = broker.Job{Entitlement: "default", Name: "others"}
)

func digest(c string) broker.Digest { return broker.Digest(strings.Repeat(c, 64)) }

func grant() Grant {
	return Grant{Jobs: map[broker.Job]string{mine: "id1"}, Modules: map[broker.Digest]bool{digest("1"): true}}
}

func TestScopes(t *testing.T) {
	read := func(k server.Kind, name string) server.Access { return server.Access{Kind: k, Name: name} }
	write := func(k server.Kind, name string) server.Access { return server.Access{Kind: k, Name: name, Write: true} }
	onJob := func(k server.Kind, j broker.Job, w bool) server.Access {
		return server.Access{Kind: k, Job: j, Write: w}
	}
	for _, c := range []struct {
		who identity.Identity
		a   server.Access
		may bool
	}{
		{hostA, read(server.KindRecord, "assignments/a/default/mine"), true},
		{hostA, write(server.KindRecord, "assignments/a/default/mine"), false},
		{hostA, read(server.KindRecord, "assignments/b/default/mine"), false},
		{hostA, read(server.KindRecords, "assignments/a/"), true},
		{hostA, read(server.KindRecords, "assignments/a/default/"), true},
		{hostA, read(server.KindRecords, "assignments/a"), false}, // also those of a host "ab"
		{hostA, read(server.KindRecords, "assignments/"), false},
		{hostA, read(server.KindRecords, ""), false},
		{hostA, write(server.KindRecord, "status/a"), true},
		{hostA, read(server.KindRecord, "status/a"), true},
		{hostA, read(server.KindRecords, "status/a"), false},
		{hostA, write(server.KindRecord, "status/ab"), false},
		{hostA, write(server.KindRecord, "status/b"), false},
		{hostA, read(server.KindRecord, "secrets/default/mine/s"), true},
		{hostA, write(server.KindRecord, "secrets/default/mine/s"), false},
		{hostA, read(server.KindRecord, "secrets/default/mine2/s"), false},
		{hostA, read(server.KindRecord, "secrets/default/others/s"), false},
		{hostA, read(server.KindRecords, "secrets/default/mine/"), true},
		{hostA, read(server.KindRecords, "secrets/default/mine"), false},
		{hostA, read(server.KindRecord, "tokens/x"), false},
		{hostA, read(server.KindRecord, "authority"), false},
		{hostA, read(server.KindRecord, "revoked/host/a"), false},
		{hostA, write(server.KindRecord, "join-tokens/x"), false},
		{hostA, read(server.KindRecord, "jobs/default/mine"), false},
		{hostA, read(server.KindRecords, "routes/"), false},
		{hostA, write(server.KindLease, "host/a"), true},
		{hostA, write(server.KindLease, "host/a/x"), true},
		{hostA, write(server.KindLease, "host/ab"), false},
		{hostA, read(server.KindLease, "host/b"), false},
		{hostA, write(server.KindLease, "leader"), false},
		{hostA, read(server.KindBlob, string(digest("1"))), true},
		{hostA, read(server.KindBlob, string(digest("2"))), false},
		{hostA, write(server.KindBlob, string(digest("1"))), false},
		{hostA, read(server.KindBlobs, ""), false},
		{hostA, write(server.KindBlobs, ""), false},
		{hostA, onJob(server.KindWork, mine, true), true},
		{hostA, onJob(server.KindWork, others, true), false},
		{hostA, onJob(server.KindWork, broker.Job{Entitlement: "team", Name: "mine"}, true), false},
		{hostA, onJob(server.KindQueue, mine, false), false},
		{hostA, onJob(server.KindQueue, mine, true), false},
		{hostA, write(server.KindBucket, "default/id1/kv"), true},
		{hostA, read(server.KindBucket, "default/id1/kv"), true},
		{hostA, read(server.KindBucket, "default/id12/kv"), false},
		{hostA, read(server.KindBucket, "default/mine/kv"), false},
		{hostA, read(server.KindBuckets, "default/id1/"), false},
		{hostA, write(server.KindBuckets, "default/id1/kv"), false},

		{gateway, read(server.KindRecords, "routes/"), true},
		{gateway, read(server.KindRecord, "routes/example.com/"), true},
		{gateway, read(server.KindRecords, "readiness/default/mine/"), true},
		{gateway, read(server.KindRecords, "readiness"), false},
		{gateway, read(server.KindRecords, ""), false},
		{gateway, write(server.KindRecord, "routes/x"), false},
		{gateway, write(server.KindRecord, "status/g"), false},
		{gateway, read(server.KindRecord, "assignments/g/default/mine"), false},
		{gateway, write(server.KindLease, "host/g"), false},
		{gateway, read(server.KindBlob, string(digest("1"))), false},
		{gateway, onJob(server.KindWork, mine, true), false},
		{gateway, read(server.KindBucket, "default/id1/kv"), false},

		{control, write(server.KindRecord, "authority"), true},
		{identity.Identity{Role: "root", ID: "a"}, read(server.KindRecords, "routes/"), false},
		{identity.Identity{}, read(server.KindRecords, "routes/"), false},
		{hostA, server.Access{Kind: "new", Name: "assignments/a/"}, false},
	} {
		if got := Allowed(c.who, grant(), c.a); got != c.may {
			t.Errorf("%s and %+v: %t", c.who, c.a, got)
		}
		if c.may && !NeedsGrant(c.who, c.a) && !Allowed(c.who, Grant{}, c.a) {
			t.Errorf("%s and %+v depend on what was assigned, which is not looked up", c.who, c.a)
		}
	}
}

// The world of this test says of each name who may see it, by having been made so. Whatever is allowed, whole or by a prefix, must touch
// nothing that is somebody else's.
func TestNothingOutOfScopeIsAllowed(t *testing.T) {
	hosts := []string{"a", "ab", "a.b", "a-b", "b", "default"}
	jobs := []string{"j", "jj", "j.k", "a", "default"}
	rapid.Check(t, func(t *rapid.T) {
		owner := map[server.Kind]map[string]map[string]bool{}
		own := func(k server.Kind, name string, who ...string) {
			if owner[k] == nil {
				owner[k] = map[string]map[string]bool{}
			}
			if owner[k][name] == nil {
				owner[k][name] = map[string]bool{}
			}
			for _, w := range who {
				owner[k][name][w] = true
			}
		}
		grants := map[string]Grant{}
		for _, h := range hosts {
			var records []broker.Record
			own(server.KindRecord, keys.Status(h), h)
			own(server.KindLease, keys.HostLease(h), h)
			own(server.KindLease, keys.HostLeases(h)+"x", h)
			own(server.KindRecord, keys.RevokedIdentity(identity.Identity{Role: identity.Host, ID: h}))
			for i, name := range jobs {
				j := broker.Job{Entitlement: "default", Name: name}
				id := fmt.Sprint("id", strings.Repeat("1", i))
				names := map[server.Kind]string{server.KindRecord: keys.SecretsOf(j) + "s", server.KindBlob: string(digest(fmt.Sprint(i))), server.KindWork: j.String(), server.KindBucket: keys.Bucket("default", id, "kv")}
				for k, n := range names {
					own(k, n)
				}
				own(server.KindQueue, j.String())
				own(server.KindRecord, "jobs/default/"+name)
				if !rapid.Bool().Draw(t, "assigned") {
					continue
				}
				for k, n := range names {
					own(k, n, h)
				}
				own(server.KindRecord, keys.Assignment(h, j), h)
				value, _ := json.Marshal(Assignment{schema, j.Entitlement, j.Name, id, 1, digest(fmt.Sprint(i))})
				records = append(records, broker.Record{Key: keys.Assignment(h, j), Value: value})
			}
			g, err := GrantOf(h, records)
			if err != nil {
				t.Fatal(err)
			}
			grants[h] = g
		}
		for _, name := range []string{"authority", "tokens/x", "token-names/a", "audit/1", "join-tokens/x", "routes/x", "readiness/default/j/a"} {
			own(server.KindRecord, name)
		}
		for range 50 {
			h := rapid.SampledFrom(hosts).Draw(t, "host")
			k := rapid.SampledFrom(slices.Sorted(maps.Keys(owner))).Draw(t, "kind")
			name := rapid.SampledFrom(slices.Sorted(maps.Keys(owner[k]))).Draw(t, "name")
			a := server.Access{Kind: k, Name: name, Write: rapid.Bool().Draw(t, "write")}
			touched := []string{name}
			if ent, job, ok := strings.Cut(name, "/"); ok && (k == server.KindWork || k == server.KindQueue) {
				a.Name, a.Job = "", broker.Job{Entitlement: ent, Name: job}
			}
			if k == server.KindRecord && rapid.Bool().Draw(t, "by prefix") {
				a.Kind, a.Name = server.KindRecords, name[:rapid.IntRange(0, len(name)).Draw(t, "cut")]
				touched = nil
				for other := range owner[k] {
					if strings.HasPrefix(other, a.Name) {
						touched = append(touched, other)
					}
				}
			}
			may := Allowed(identity.Identity{Role: identity.Host, ID: h}, grants[h], a)
			for _, n := range touched {
				if may && !owner[k][n][h] {
					t.Fatalf("%s is allowed %+v, which touches %q of %v", h, a, n, owner[k][n])
				}
			}
			if !may && !a.Write && a.Kind != server.KindRecords && owner[k][name][h] {
				t.Fatalf("%s is not allowed %+v, which is its own", h, a)
			}
		}
	})
}

func TestABadAssignmentGrantsNothing(t *testing.T) {
	doc := func(schema int, job, id string) []byte {
		b, _ := json.Marshal(Assignment{schema, "default", job, id, 1, digest("1")})
		return b
	}
	for name, c := range map[string]struct {
		r    broker.Record
		want error
	}{
		"no JSON":             {broker.Record{Key: "assignments/a/default/mine", Value: []byte("{")}, broker.ErrCorrupt},
		"a newer schema":      {broker.Record{Key: "assignments/a/default/mine", Value: doc(2, "mine", "id")}, broker.ErrNewer},
		"of another job":      {broker.Record{Key: "assignments/a/default/mine", Value: doc(1, "others", "id")}, broker.ErrCorrupt},
		"an ID with a slash":  {broker.Record{Key: "assignments/a/default/mine", Value: doc(1, "mine", "i/d")}, broker.ErrCorrupt},
		"no ID":               {broker.Record{Key: "assignments/a/default/mine", Value: doc(1, "mine", "")}, broker.ErrCorrupt},
		"a job with a slash":  {broker.Record{Key: "assignments/a/default/mi/ne", Value: doc(1, "mi/ne", "id")}, broker.ErrCorrupt},
		"one of another host": {broker.Record{Key: "assignments/b/default/mine", Value: doc(1, "mine", "id")}, broker.ErrCorrupt},
	} {
		g, err := GrantOf("a", []broker.Record{c.r})
		if !errors.Is(err, c.want) || len(g.Jobs)+len(g.Modules) != 0 {
			t.Errorf("%s: it grants %+v, %v", name, g, err)
		}
	}
	bad, good := broker.Record{Key: "assignments/a/default/x", Value: []byte("{")}, broker.Record{Key: "assignments/a/default/mine", Value: doc(1, "mine", "id")}
	if g, err := GrantOf("a", []broker.Record{bad, good}); err == nil || g.Jobs[mine] != "id" || !g.Modules[digest("1")] {
		t.Errorf("beside a bad one, a good one grants %+v, %v", g, err)
	}
}

func FuzzGrantOf(f *testing.F) {
	f.Add([]byte(`{"schema":1,"entitlement":"default","job":"mine","id":"id","module":"x"}`))
	f.Fuzz(func(t *testing.T, value []byte) {
		key := keys.Assignment("a", mine)
		g, _ := GrantOf("a", []broker.Record{{Key: key, Value: value}})
		for j, id := range g.Jobs {
			if j != mine || id == "" || strings.Contains(id, "/") {
				t.Errorf("%q grants %s with the ID %q", value, j, id)
			}
		}
	})
}
