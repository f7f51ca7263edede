// Package simulate runs many machines in one goroutine, on a clock that jumps from event to event: what happens follows from
// a seed alone, and the same seed gives the same trace again.
//
// Loop is the events and the clock. On it, Run puts clients, workers, control processes, deployers and a sweeper, which all
// speak to one broker; machines crash, stall and are cut off, and calls fail before or after their
// effect. A checker knows what was acknowledged to whom and says which promise of package broker was broken.
//
// The broker is the model by default, in which mistakes can be switched on to see that they would be found. Others may be
// given: what is found then is wrong with them.
package simulate
