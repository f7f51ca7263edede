package redis

import (
	"errors"
	"fmt"
	"io/fs"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/ripstop-vm/ripstop/broker"
	"github.com/ripstop-vm/ripstop/internal/redistest"
)

func TestURLs(t *testing.T) {
	for url, want := range map[string]target{
		"redis://localhost":                             {kind: single, network: "tcp", addrs: []string{"localhost:6379"}},
		"rediss://u:p%40%2Fs@h:1/3?ca=c&cert=a&key=b":   {kind: single, network: "tcp", addrs: []string{"h:1"}, user: "u", password: "p@/s", db: 3, tls: true, ca: "c", cert: "a", key: "b"},
		"redis://:pass@[::1]":                           {kind: single, network: "tcp", addrs: []string{"[::1]:6379"}, password: "pass"},
		"redis://[::1]:7000?db=2":                       {kind: single, network: "tcp", addrs: []string{"[::1]:7000"}, db: 2},
		"unix:///run/redis.sock?db=1":                   {kind: single, network: "unix", addrs: []string{"/run/redis.sock"}, db: 1},
		"redis://h?prefix=team-a":                       {kind: single, network: "tcp", addrs: []string{"h:6379"}, prefix: "team-a"},
		"redis+sentinel://a,b:2/m?sentinel_password=x":  {kind: sentinel, network: "tcp", addrs: []string{"a:26379", "b:2"}, master: "m", sentinelPassword: "x"},
		"rediss+cluster://u:p@a:1,b:2,c?server_name=s.": {kind: cluster, network: "tcp", addrs: []string{"a:1", "b:2", "c:6379"}, user: "u", password: "p", tls: true, serverName: "s."},
	} {
		if got, err := parseURL(url); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s is %+v, %v; want %+v", url, got, err, want)
		}
	}
	for _, url := range []string{
		"", "localhost:6379", "http://h", "redis://", "redis://a,b", "redis://h:0", "redis://h:65536", "redis://h:x", "redis://h/x", "redis://h?db=-1",
		"redis://h?who=me", "redis://h?prefix=", "redis://h?prefix=a{b", "redis://h?ca=x", "rediss://h?cert=x", "unix://relative", "unix://", "redis+sentinel://h", "redis+sentinel://h/a/b",
		"redis+cluster://h/1", "redis+cluster://h?db=1", "redis://h?sentinel_user=u", "redis://u:%zz@h", "redis://h h", "redis://::1",
	} {
		if got, err := parseURL(url); !errors.Is(err, broker.ErrInvalid) {
			t.Errorf("%q is %+v, %v", url, got, err)
		}
	}
	if _, err := parseURL("redis://user:secret@h?x=1"); strings.Contains(fmt.Sprint(err), "secret") {
		t.Errorf("the error shows the password: %v", err)
	}
	if got, _ := parseURL("redis://user:secret@h"); strings.Contains(got.String(), "secret") {
		t.Errorf("the name shows the password: %s", got)
	}
}

func FuzzParseURL(f *testing.F) {
	for _, s := range []string{"redis://u:p@h:1/3", "redis://h?prefix=p", "unix:///x?db=1", "redis+sentinel://a,b:2/m", "rediss+cluster://[::1]:7,b?ca=x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := parseURL(s)
		if err != nil {
			if !errors.Is(err, broker.ErrInvalid) {
				t.Errorf("%q: %v", s, err)
			}
			return
		}
		if len(got.addrs) == 0 || got.network == "tcp" && strings.Contains(got.addrs[0], "@") || got.db < 0 {
			t.Errorf("%q is %+v", s, got)
		}
	})
}

func FuzzParseEvent(f *testing.F) {
	f.Add("7-1", "mark", "+\x00\x00\x00\x01\x00\x00\x00\x02kvv-\x00\x00\x00\x01\x00\x00\x00\x00d")
	f.Add("7-1", "", "+\xff\xff\xff\xff\xff\xff\xff\xff")
	f.Fuzz(func(t *testing.T, id, mark, changes string) {
		e, err := parseEvent(id, mark, changes)
		if err != nil {
			if !errors.Is(err, broker.ErrCorrupt) {
				t.Errorf("%v", err)
			}
			return
		}
		size := 0
		for _, c := range e.Changes {
			size += 9 + len(c.Key) + len(c.Value)
		}
		if size != len(changes) || id != strconv.FormatUint(e.Revision.Number, 10)+"-1" {
			t.Errorf("%q, %q are read as %+v", id, changes, e)
		}
	})
}

func TestSlotsAreThoseOfRedis(t *testing.T) {
	server := redistest.Start(t, "cluster-enabled yes")
	k := keys{prefix: "ripstop", cluster: true}
	for _, key := range []string{"foo", "{user}.x", "a{}b", "a{b}c{d}", "}{", k.bucket("a}b{c").key("x"), k.queue(broker.Job{Entitlement: "e", Name: "n"}).key("meta")} {
		if got := server.Must("CLUSTER", "KEYSLOT", key); got != fmt.Sprint(slotOf(key)) {
			t.Errorf("%q is in slot %d, Redis says %s", key, slotOf(key), got)
		}
	}
	for slot := range uint16(slots) {
		if got := slotOf(k.identityOf(slot)); got != slot {
			t.Fatalf("the identity of slot %d is in slot %d", slot, got)
		}
	}
}

func TestKeysOfANameAreInOneSlotAndApartFromOthers(t *testing.T) {
	k := keys{prefix: "p", cluster: true}
	seen := map[string]string{}
	for _, name := range []string{"a", "a}", "a}:meta", "{a", "", "}", "b{}", "\x00\xff"} {
		for what, g := range map[string]group{"bucket": k.bucket(name), "lease": k.lease(name)} {
			for _, key := range []string{g.tag, g.key("meta"), g.key("last"), g.chunk(7)} {
				if slotOf(key) != slotOf(g.identity) || slotOf(key) != slotOf(g.tag) {
					t.Errorf("%q is in slot %d, its identity in %d", key, slotOf(key), slotOf(g.identity))
				}
				if other, ok := seen[key]; ok {
					t.Errorf("%q is a key of %s %q and of %s", key, what, name, other)
				}
				seen[key] = what + " " + name
			}
		}
	}
}

func TestRangesOfKeys(t *testing.T) {
	for _, c := range []struct{ prefix, after, low, high string }{
		{"", "", "[", "+"}, {"a", "", "[a", "(b"}, {"a\xff\xff", "", "[a\xff\xff", "(b"}, {"\xff", "", "[\xff", "+"},
		{"b", "a", "[b", "(c"}, {"b", "b1", "(b1", "(c"}, {"", "x", "(x", "+"}, {"é", "", "[é", "(ê"},
	} {
		if low, high := lexRange(c.prefix, c.after); low != c.low || high != c.high {
			t.Errorf("%q after %q is %q to %q, want %q to %q", c.prefix, c.after, low, high, c.low, c.high)
		}
	}
}

// Whoever reads a script finds at its head what it takes and gives.
func TestScriptsSayWhatTheyTakeAndGive(t *testing.T) {
	names, err := fs.Glob(files, "lua/*.lua")
	if err != nil || len(names) < 20 {
		t.Fatalf("there are %d scripts, %v", len(names), err)
	}
	for _, name := range names {
		if name == "lua/prelude.lua" || name == "lua/queue.lua" {
			continue
		}
		text, err := files.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		head := regexp.MustCompile(`^#!lua[^\n]*\n(--[^\n]*\n)+`).Find(text)
		for _, word := range []string{"\n-- KEYS: ", "\n-- ARGV: 1 identity, 2 time", "\n-- Returns {'ok'"} {
			if !strings.Contains(string(head), word) {
				t.Errorf("the head of %s has no %q", name, word)
			}
		}
	}
}
