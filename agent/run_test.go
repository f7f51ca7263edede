package agent

import "testing"

// net/http ends a connection by a panic of the handler: it has to come out where the handler is.
func TestWhatRunsApartPanicsInItsCaller(t *testing.T) {
	for _, apart := range []bool{false, true} {
		a := &Agent{opts: Options{Apart: apart}}
		ran := false
		if a.run(func() { ran = true }); !ran {
			t.Errorf("apart %v: it did not run", apart)
		}
		func() {
			defer func() {
				if p := recover(); p != "x" {
					t.Errorf("apart %v: the panic was %v", apart, p)
				}
			}()
			a.run(func() { panic("x") })
			t.Errorf("apart %v: the panic is lost", apart)
		}()
	}
}
