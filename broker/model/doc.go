// Package model is the broker's contracts in memory, written to be seen to be right: no index, no cache, no disk. Everything
// is one step under one mutex, and time is a clock that the owner moves, so that what it does follows from the calls alone.
//
// It is what other backends are compared with, and what simulations run on: in it, mistakes can be switched on (Bug), to
// show that a simulation would find them. It keeps everything it was ever told that has not ended, and is slow with much.
package model
