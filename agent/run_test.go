package agent

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// net/http ends a connection by a panic of the handler: it has to come out where the handler is.
func TestWhatRunsApartPanicsInItsCaller(t *testing.T) {
	for _, apart := range []bool{false, true} {
		a := &Agent{}
		if apart {
			a.opts.Apart = func() bool { return false }
			a.apart.spoiled = a.opts.Apart
		}
		ran := false
		if a.run(t.Context(), func() { ran = true }); !ran {
			t.Errorf("apart %v: it did not run", apart)
		}
		func() {
			defer func() {
				if p := recover(); p != "x" {
					t.Errorf("apart %v: the panic was %v", apart, p)
				}
			}()
			a.run(t.Context(), func() { panic("x") })
			t.Errorf("apart %v: the panic is lost", apart)
		}()
	}
}

// atRest is how many goroutines of a rest once nothing more happens, in a bubble, which fails if one is left at its end.
func atRest(a *apart) int {
	synctest.Wait()
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.resting)
}

func TestAGoroutineRunsAgainUnlessItsThreadIsSpoiled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var spoiled bool
		a := &apart{spoils: time.Millisecond, spoiled: func() bool { return spoiled }}
		defer a.close()
		for _, c := range []struct {
			what    string
			f       func()
			spoiled bool
			rest    int
		}{
			{"brief", func() {}, true, 1}, // it cannot be
			{"nearly a slice", func() { time.Sleep(time.Millisecond - 1) }, true, 1},
			{"a slice", func() { time.Sleep(time.Millisecond) }, false, 1},
			{"a slice that spoiled it", func() { time.Sleep(time.Millisecond) }, true, 0},
			{"brief again", func() {}, false, 1},
			{"a panic", func() { panic("x") }, false, 0},
		} {
			spoiled = c.spoiled
			func() {
				defer func() { _ = recover() }()
				a.run(c.f)
			}()
			if rest := atRest(a); rest != c.rest {
				t.Errorf("after %s %d goroutines rest, want %d", c.what, rest, c.rest)
			}
		}
	})
}

func TestManyRunApartAtOnceAndOnlySomeRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const most = maxResting + 10
		a := &apart{spoils: time.Hour}
		together := make(chan struct{})
		var done sync.WaitGroup
		run := func() {
			for range most {
				done.Go(func() { a.run(func() { <-together }) })
			}
		}
		run()
		synctest.Wait()
		close(together)
		done.Wait()
		if rest := atRest(a); rest != maxResting {
			t.Errorf("%d rest", rest)
		}
		together = make(chan struct{})
		run()
		synctest.Wait()
		a.close()
		close(together)
		done.Wait()
		if rest := atRest(a); rest != 0 {
			t.Errorf("%d rest after it was closed", rest)
		}
	})
}
