// Package processor shares the processor among guests: who runs guest code holds a token, and tokens go round fairly.
//
// There are always fewer tokens than GOMAXPROCS: with as many, Go's scheduler stops polling the network while guests compute.
// A process sets GOMAXPROCS to its cores and one more, and leaves Options.Tokens alone.
//
// A Share is what a job gets, in proportion to its weight, and belongs to whoever asked for it. A Run is one sandbox's place in
// it: it enters before it calls the guest, ticks from the guest's metering, and leaves when the guest returned. A tick costs one
// look at the clock; when the slice is over and others wait, it parks until its turn comes round. A call that may wait on the world
// gives the token back meanwhile (Block, Unblock).
//
// Among jobs the order is start-time fair queuing: each share has a virtual time, which grows by the measured time that it
// used over its weight, and the least is served first. A share that comes back from doing nothing starts at the virtual time of
// those that stayed, less one slice: enough to be served at once, not enough to save up. Within a job, runs past their first
// slices let younger ones go ahead, most of the time.
//
// A run past its first slices is long. Long runs can be told to go on at lower priority (Options.OnLong, Threads), or be kept from holding all
// tokens (Options.Longs).
//
// Time is measured while a token is held, so what the operating system gives to other processes is charged, too. The package knows
// no guests and no engine; what goroutines it starts change GOMAXPROCS, and end.
package processor
