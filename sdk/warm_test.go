package sdk

import (
	"slices"
	"testing"
)

func TestHooksRunInOrderAndAreWantedOnlyIfThereAreAny(t *testing.T) {
	t.Cleanup(func() { warmers, returners = nil, nil })
	var did []string
	note := func(what string) func() { return func() { did = append(did, what) } }
	if got := wants(); got != 0 {
		t.Errorf("without a hook %d is wanted", got)
	}
	Warm(note("load"))
	Warm(note("parse"))
	if got := wants(); got != 0 {
		t.Errorf("with work before the image %d is wanted", got)
	}
	AfterReturn(note("first"))
	AfterReturn(note("second"))
	value := wants()
	warm()
	afterReturn()
	if want := []string{"load", "parse", "first", "second"}; !slices.Equal(did, want) {
		t.Errorf("%v, want %v", did, want)
	}
	vectors := readVectors(t).Wants
	if !slices.ContainsFunc(vectors, func(v wantsVector) bool { return v.Value == value && v.Returned }) || len(vectors) < 2 {
		t.Errorf("%d is not among the vectors %v", value, vectors)
	}
}
