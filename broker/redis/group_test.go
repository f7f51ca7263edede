package redis

import (
	"testing"

	"github.com/ripstop-vm/ripstop/internal/redistest"
)

func TestAClusterOfThreePassesTheSuites(t *testing.T) {
	suites(t, redistest.StartCluster(t).URL())
}

func TestAServerBehindSentinelPassesTheSuites(t *testing.T) {
	suites(t, redistest.StartSentinel(t).URL())
}
