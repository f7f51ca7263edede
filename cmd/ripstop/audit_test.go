package main

import (
	"testing"

	"github.com/ripstop-vm/ripstop/api/model"
)

func TestAnAuditEntrySaysOnceWhatWasLeftOut(t *testing.T) {
	for want, e := range map[string]model.AuditEntry{
		"kv_get: not granted": {Detail: "kv_get: not granted"},
		"kv_get: not granted (and 42 before it that were left out)": {Detail: "kv_get: not granted", Omitted: 42},
		"42 more, which are not listed":                             {Omitted: 42},
		"":                                                          {},
	} {
		if got := auditDetail(e); got != want {
			t.Errorf("it says %q, want %q", got, want)
		}
	}
}
