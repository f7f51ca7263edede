package wazero_test

import (
	"context"
	"testing"

	"github.com/ripstop-vm/ripstop/runtime/engine"
	"github.com/ripstop-vm/ripstop/runtime/engine/enginetest"
	"github.com/ripstop-vm/ripstop/runtime/engine/wazero"
	"github.com/ripstop-vm/ripstop/runtime/hostcall"
)

func TestSuite(t *testing.T) {
	for name, opts := range map[string]wazero.Options{"compiled": {}, "interpreted": {Interpret: true}} {
		t.Run(name, func(t *testing.T) {
			enginetest.Run(t, func(t *testing.T, table *hostcall.Table) engine.Engine {
				e, err := wazero.Open(context.Background(), table, opts)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = e.Close() })
				return e
			})
		})
	}
}

func TestMeteredSuite(t *testing.T) {
	for name, opts := range map[string]wazero.Options{"compiled": {Metered: true}, "interpreted": {Metered: true, Interpret: true}} {
		t.Run(name, func(t *testing.T) {
			enginetest.RunMetered(t, func(t *testing.T, table *hostcall.Table) engine.Engine {
				e, err := wazero.Open(context.Background(), table, opts)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = e.Close() })
				return e
			})
		})
	}
}
