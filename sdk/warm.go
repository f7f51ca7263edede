package sdk

// What Warm and AfterReturn were given.
var warmers, returners []func()

// Warm has f run once, before the first request and before the image is taken that sandboxes begin as: what it loads, parses or computes is
// there in each of them. Call it from an init function. f runs after all init functions, in the order of the calls and before what Rehearse was
// given; it may not read secrets or settings, fetch, or use keys and values, as the image does not depend on them.
func Warm(f func()) { warmers = append(warmers, f) }

// AfterReturn has f run whenever the sandbox is as new: once it has been made, and after each return to its image, before the next request. Random
// numbers are new by then, and the time is that of the return. What f does is gone with the next return. It can read settings; secrets, fetches, keys and
// values need a request. Call it from an init function. It is run ahead of requests where that can be, and takes of the job's processor time
// in any case, so it should be short. A panic ends the sandbox.
func AfterReturn(f func()) { returners = append(returners, f) }

func warm() {
	for _, f := range warmers {
		f()
	}
}

// wantsReturned is the bit of ripstop_wants for ripstop_returned.
const wantsReturned = 1

// wants is what ripstop_wants answers.
func wants() uint32 {
	if len(returners) > 0 {
		return wantsReturned
	}
	return 0
}

func afterReturn() {
	for _, f := range returners {
		f()
	}
}
