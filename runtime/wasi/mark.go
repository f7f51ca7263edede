package wasi

import (
	"errors"
	"fmt"
	"slices"
)

// Mark is what the guests of a sandbox have made of its descriptors, at the moment when its image was taken. Another
// System with the same Options can be set to it.
type Mark struct{ slots []markedSlot }

type markedSlot struct {
	base, inheriting rights
	flags            fdflags
}

// ErrDescriptors reports that descriptors are not those that the System began with: files are open, or first ones closed.
var ErrDescriptors = errors.New("the guest has opened or closed descriptors")

// Mark notes the state of the descriptors. It fails with ErrDescriptors unless exactly those are open that New opened.
func (s *System) Mark() (Mark, error) {
	m := Mark{make([]markedSlot, len(s.first))}
	for i, d := range s.fds.slots {
		if i < len(s.first) && d == s.first[i] {
			m.slots[i] = markedSlot{d.base, d.inheriting, d.flags}
		} else if d != nil || i < len(s.first) {
			return Mark{}, fmt.Errorf("%w: %d", ErrDescriptors, i)
		}
	}
	return m, nil
}

// Rewind brings the descriptors back to m, between two runs: what the guest has opened since is closed. It fails with
// ErrDescriptors, and the System can only be closed, if one of the first is gone or m is of a System with others.
func (s *System) Rewind(m Mark) error {
	if len(m.slots) != len(s.first) || len(s.fds.slots) < len(s.first) || !slices.Equal(s.fds.slots[:len(s.first)], s.first) {
		return ErrDescriptors
	}
	for i, d := range s.first {
		d.base, d.inheriting, d.flags = m.slots[i].base, m.slots[i].inheriting, m.slots[i].flags
		if dir, ok := d.res.(*dirResource); ok {
			dir.entries = dirReader{} // what a run has listed is not shown to the next
		}
	}
	var errs []error
	for i, d := range s.fds.slots[len(s.first):] {
		if d != nil {
			errs = append(errs, d.close())
			s.fds.slots[len(s.first)+i] = nil
		}
	}
	s.fds.slots = s.fds.slots[:len(s.first)]
	return errors.Join(errs...)
}
