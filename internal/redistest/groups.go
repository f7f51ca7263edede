package redistest

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/ripstop-vm/ripstop/internal/freeport"
)

// Group is servers that belong together.
type Group struct {
	Servers   []*Server // of a Sentinel setup: the first master, then its replica
	Sentinels []*Server
	url       string
}

// URL is how a client reaches the group.
func (g *Group) URL() string { return g.url }

// Until asks again until a server answers as wanted, and fails the test if it does not. There is no other way to learn that a
// group has found itself.
func Until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	limit := time.NewTimer(startTimeout)
	defer limit.Stop()
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for !ok() {
		select {
		case <-again.C:
		case <-limit.C:
			t.Fatalf("%s: not after %s", what, startTimeout)
		}
	}
}

// StartCluster starts a Redis Cluster of three masters.
func StartCluster(t testing.TB, settings ...string) *Group {
	t.Helper()
	g := &Group{}
	var addrs []string
	for range 3 {
		s := start(t, freeport.Take(t), append([]string{
			"cluster-enabled yes", "cluster-config-file nodes.conf", fmt.Sprintf("cluster-port %d", freeport.Take(t)), "cluster-node-timeout 2000",
		}, settings...))
		g.Servers = append(g.Servers, s)
		addrs = append(addrs, s.Addr())
	}
	const slots = 16384
	for i, s := range g.Servers {
		s.Must("CLUSTER", "ADDSLOTSRANGE", fmt.Sprint(i*slots/3), fmt.Sprint((i+1)*slots/3-1))
		s.Must("CLUSTER", "SET-CONFIG-EPOCH", fmt.Sprint(i+1))
		if i > 0 {
			bus := strings.TrimPrefix(g.Servers[0].settings[2], "cluster-port ")
			s.Must("CLUSTER", "MEET", "127.0.0.1", fmt.Sprint(g.Servers[0].Port), bus)
		}
	}
	Until(t, "the cluster is up", func() bool {
		for _, s := range g.Servers {
			info, err := s.Do("CLUSTER", "INFO")
			if err != nil || !strings.Contains(info, "cluster_state:ok") || !strings.Contains(info, "cluster_known_nodes:3") {
				return false
			}
		}
		return true
	})
	g.url = "redis+cluster://" + strings.Join(addrs, ",")
	return g
}

// StartReplicas starts a master and replicas of it, without Sentinels.
func StartReplicas(t testing.TB, replicas int, settings ...string) *Group {
	t.Helper()
	settings = append([]string{"repl-diskless-sync-delay 0"}, settings...)
	g := &Group{Servers: []*Server{StartTCP(t, settings...)}}
	for range replicas {
		g.Servers = append(g.Servers, StartTCP(t, append([]string{fmt.Sprintf("replicaof 127.0.0.1 %d", g.Servers[0].Port)}, settings...)...))
	}
	Until(t, "the replicas are connected", func() bool {
		info, err := g.Servers[0].Do("INFO", "replication")
		return err == nil && strings.Count(info, "state=online") == replicas
	})
	g.url = g.Servers[0].URL()
	return g
}

// StartSentinel starts a master with a replica and three Sentinels that watch them under the name "mymaster".
func StartSentinel(t testing.TB, settings ...string) *Group {
	t.Helper()
	g := StartReplicas(t, 1, settings...)
	var addrs []string
	for range 3 {
		s := sentinelServer(t, g.Servers[0].Port)
		g.Sentinels = append(g.Sentinels, s)
		addrs = append(addrs, s.Addr())
	}
	Until(t, "the Sentinels know each other and the replica", func() bool {
		for _, s := range g.Sentinels {
			master, err := s.Do("SENTINEL", "MASTER", "mymaster")
			if err != nil || !strings.Contains(master, "num-other-sentinels\n2") || !strings.Contains(master, "num-slaves\n1") {
				return false
			}
		}
		return true
	})
	g.url = "redis+sentinel://" + strings.Join(addrs, ",") + "/mymaster"
	return g
}
