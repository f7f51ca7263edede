package agent

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
)

func TestSlotsServeInOrderAndRefuseWhenTheQueueIsFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSlots(1, 2)
		if err := s.take(t.Context(), false); err != nil {
			t.Fatal(err)
		}
		var order []int
		var wg sync.WaitGroup
		for i := range 2 {
			wg.Go(func() {
				if err := s.take(t.Context(), false); err != nil {
					t.Error(err)
				}
				order = append(order, i)
				s.give()
			})
			synctest.Wait()
		}
		if err := s.take(t.Context(), false); !errors.Is(err, errQueueFull) {
			t.Errorf("a third waiter: %v", err)
		}
		s.give()
		wg.Wait()
		if len(order) != 2 || order[0] != 0 || order[1] != 1 {
			t.Errorf("order %v", order)
		}
		if s.free != 1 {
			t.Errorf("%d slots free, want 1", s.free)
		}
	})
}

func TestAWaiterThatLeavesGivesItsPlaceBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSlots(1, 1)
		if err := s.take(t.Context(), false); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		left := make(chan error, 1)
		go func() { left <- s.take(ctx, false) }()
		synctest.Wait()
		cancel()
		if err := <-left; !errors.Is(err, context.Canceled) {
			t.Errorf("%v", err)
		}
		if s.queue.Len() != 0 {
			t.Error("the waiter is still queued")
		}
		s.give()
		if s.free != 1 {
			t.Errorf("%d slots free, want 1", s.free)
		}
	})
}

func TestNoSlotIsLostWhenTurnsAndLeavingMeet(t *testing.T) {
	s := newSlots(3, 50)
	var wg sync.WaitGroup
	for range 40 {
		wg.Go(func() {
			for range 200 {
				ctx, cancel := context.WithCancel(t.Context())
				go cancel()
				if s.take(ctx, false) == nil {
					s.give()
				}
				cancel()
			}
		})
	}
	wg.Wait()
	if s.free != 3 || s.queue.Len() != 0 {
		t.Errorf("%d free, %d waiting", s.free, s.queue.Len())
	}
}

func TestAQueuedOneWaitsInTheSameLineAndTakesNoRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSlots(1, 1)
		if err := s.take(t.Context(), false); err != nil {
			t.Fatal(err)
		}
		got := make(chan string, 3)
		line := func(name string, queued bool) {
			go func() {
				if err := s.take(t.Context(), queued); err != nil {
					name += " " + err.Error()
				}
				got <- name
			}()
			synctest.Wait()
		}
		line("queued", true)
		line("request", false) // there is room for one, which the queued one has not taken
		if err := s.take(t.Context(), false); !errors.Is(err, errQueueFull) {
			t.Errorf("a second request waits: %v", err)
		}
		line("another", true)
		for _, want := range []string{"queued", "request", "another"} {
			s.give()
			if name := <-got; name != want {
				t.Errorf("the turn is of %q, want %q", name, want)
			}
		}
		if s.extra != 0 {
			t.Errorf("%d wait that take no room", s.extra)
		}
	})
}
