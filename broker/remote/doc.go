// Package remote is broker's contracts as control processes serve them: what agents and gateways use, who have no credentials of the
// broker. Package server is the other side, package protocol what they say.
//
// A client goes to any control process, leading or not, and to another when one is gone. What it may see is decided there, by its
// certificate: what is out of its scope fails with broker.ErrAccess, whether it exists or not.
//
// A call whose answer was lost may have taken effect, and fails with broker.ErrUnavailable. It is not sent again, but for those that change
// nothing: reads, waits, and watches, which go on from the last event that came.
package remote
