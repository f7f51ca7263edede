//go:build soak && linux

package main

import (
	"os"
	"strings"
	"testing"
)

// The arguments of the server may be given, to choose a broker: RIPSTOP_SOAK_SERVE="--broker redis://127.0.0.1:6379".
func TestSoakKillsUnderLoadLoseNoAcknowledgedInvocation(t *testing.T) {
	killUnderLoad(t, kills{server: 500, args: strings.Fields(os.Getenv("RIPSTOP_SOAK_SERVE"))})
}

func TestSoakKillsOfRedisUnderLoadLoseNoAcknowledgedInvocation(t *testing.T) {
	killUnderLoad(t, kills{server: 25, redis: 100})
}
