// Package faulty makes a broker fail now and then, as a network does: half of the failures come before the call has taken
// effect, and half after it has, since a lost reply looks like a lost request. From the same seed and the same calls come
// the same failures.
//
// It wraps any backend. With a rate of 0 it passes the suites of package brokertest itself.
package faulty
