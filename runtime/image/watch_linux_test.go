package image

import (
	"os"
	"testing"
)

func TestAWatchSeesWhatTheKernelWrites(t *testing.T) {
	m := watched(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := w.WriteString("text"); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if during(t, m, func() {
		if n, err := r.Read(m.Bytes()[3*page : 3*page+10]); n != 4 || err != nil {
			t.Error(n, err)
		}
	}) {
		t.Error("what a system call wrote went unseen")
	}
}

func TestPagesThatWereGivenBackAreNotKnown(t *testing.T) {
	m := watched(t)
	if err := m.discard(); err != nil {
		t.Fatal(err)
	}
	if during(t, m, func() { m.Bytes()[0] = 2 }) {
		t.Error("a page was known after it was given back")
	}
}
