package embedded

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"strings"
	"time"

	"github.com/ripstop-vm/ripstop/broker"
)

// head is what is kept of an invocation, apart from its bytes. Its methods are what may happen to it, and change nothing
// else; step keeps it together with its index entries.
type head struct {
	id       broker.InvocationID // from its key
	Seq      uint64              `json:"seq"` // its place among those of its priority and order
	Enqueued stamp               `json:"enqueued"`
	State    broker.State        `json:"state"`
	Place    place               `json:"place,omitempty"` // waiting: where
	Priority int                 `json:"priority,omitempty"`
	Order    string              `json:"order,omitempty"`
	Key      string              `json:"key,omitempty"`
	Backoff  broker.Backoff      `json:"backoff,omitzero"`
	TTL      time.Duration       `json:"ttl"`
	Run      turn                `json:"run"`
	Payload  int                 `json:"payload,omitempty"` // bytes; 0 also when they are gone

	Letter    bool                 `json:"letter,omitempty"` // dead, and neither requeued nor discarded
	Discarded stamp                `json:"discarded,omitempty"`
	Finished  stamp                `json:"finished,omitempty"`
	Result    int                  `json:"result,omitempty"` // bytes
	Reason    string               `json:"reason,omitempty"` // the result's
	Callback  broker.CallbackState `json:"callback,omitempty"`
	Call      turn                 `json:"call,omitzero"`
	Called    stamp                `json:"called,omitempty"` // when the callback was over

	unknown map[string]json.RawMessage // fields that a newer program wrote, kept as they are
}

// place is where a waiting invocation waits.
type place string

const (
	placeReady   place = "ready"
	placeDelayed place = "delayed" // until Run.Due
	placeBehind  place = "behind"  // another one of its order
)

// turn is what an invocation and its callback have each: attempts under leases.
type turn struct {
	Attempts int    `json:"attempts,omitempty"`
	Max      int    `json:"max,omitempty"`
	Due      stamp  `json:"due,omitempty"`
	Token    string `json:"token,omitempty"` // empty unless it is leased
	Worker   string `json:"worker,omitempty"`
	Until    stamp  `json:"until,omitempty"`
	Reason   string `json:"reason,omitempty"` // why the last attempt failed
}

func (u *turn) endLease() { u.Token, u.Worker, u.Until = "", "", 0 }

func (u *turn) begin(token, worker string, until stamp) {
	u.Attempts++
	u.Token, u.Worker, u.Until = token, worker, until
}

// stamp is a time in nanoseconds since 1970; 0 is none.
type stamp int64

func stampOf(t time.Time) stamp { return stamp(t.UnixNano()) }

func (s stamp) time() time.Time {
	if s == 0 {
		return time.Time{}
	}
	return time.Unix(0, int64(s)).UTC()
}

func (s stamp) add(d time.Duration) stamp { return s + stamp(d) }

func parseHead(path string, key, b []byte) (*head, error) {
	schema, value, ok := unseal(key, b)
	if !ok {
		return nil, damaged(path, key)
	}
	if schema > broker.QueueSchema {
		return nil, fmt.Errorf("read %.200q from %s: %w: its schema is %d and this program knows up to %d", key, path, broker.ErrNewer, schema, broker.QueueSchema)
	}
	h := &head{id: broker.InvocationID(key[1:])}
	strict := json.NewDecoder(bytes.NewReader(value))
	strict.DisallowUnknownFields()
	if strict.Decode(h) == nil {
		return h, nil
	}
	*h = head{id: h.id}
	if json.Unmarshal(value, h) != nil || json.Unmarshal(value, &h.unknown) != nil {
		return nil, damaged(path, key)
	}
	for name := range h.unknown {
		if knownFields[strings.ToLower(name)] {
			delete(h.unknown, name)
		}
	}
	return h, nil
}

// knownFields are the names of head's fields in JSON.
var knownFields = func() map[string]bool {
	names := map[string]bool{}
	for f := range reflect.TypeFor[head]().Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		names[name] = true
	}
	return names
}()

func (h *head) bytes() []byte {
	b, err := json.Marshal(h)
	if err != nil {
		panic(err) // there is nothing in it that could not be encoded
	}
	if len(h.unknown) > 0 {
		all := maps.Clone(h.unknown)
		if json.Unmarshal(b, &all) == nil {
			if whole, err := json.Marshal(all); err == nil {
				b = whole
			}
		}
	}
	return seal(idKey('h', h.id), broker.QueueSchema, b)
}

func (h *head) live() bool {
	return h.State == broker.StateWaiting || h.State == broker.StateLeased
}

// calling: the callback is to be delivered, or is being.
func (h *head) calling() bool { return !h.live() && h.Callback == broker.CallbackPending }

// expires is when it is forgotten; 0 while that is not known.
func (h *head) expires() stamp {
	if h.live() || h.Letter || h.calling() {
		return 0
	}
	return max(h.Finished, h.Called, h.Discarded).add(h.TTL)
}

// settle does what time has done. It answers that the invocation is to be forgotten.
func (h *head) settle(now stamp) (forgotten bool) {
	lapsed := func(u turn) broker.Return {
		return broker.Return{Reason: fmt.Sprintf("attempt %d: its lease ran out", u.Attempts)}
	}
	if h.State == broker.StateLeased && h.Run.Until <= now {
		h.giveBack(h.Run.Until, lapsed(h.Run))
	}
	if h.State == broker.StateWaiting && h.Place == placeDelayed && h.Run.Due <= now {
		h.Place = placeReady
	}
	if h.calling() && h.Call.Token != "" && h.Call.Until <= now {
		h.giveBackCall(h.Call.Until, lapsed(h.Call))
	}
	at := h.expires()
	return at != 0 && at <= now
}

// giveBack ends an attempt without a result.
func (h *head) giveBack(at stamp, r broker.Return) {
	if reason := broker.CutReason(r.Reason); reason != "" {
		h.Run.Reason = reason
	}
	if r.Unstarted {
		h.Run.Attempts--
	} else if h.Run.Attempts >= h.Run.Max {
		h.end(at, broker.Result{Outcome: broker.OutcomeDead, Reason: h.Run.Reason})
		return
	}
	h.Run.endLease()
	h.State, h.Place, h.Run.Due = broker.StateWaiting, placeReady, at.add(r.Delay)
	if r.Delay > 0 {
		h.Place = placeDelayed
	}
}

func (h *head) giveBackCall(at stamp, r broker.Return) {
	if reason := broker.CutReason(r.Reason); reason != "" {
		h.Call.Reason = reason
	}
	if r.Unstarted {
		h.Call.Attempts--
	} else if h.Call.Attempts >= h.Call.Max {
		h.Callback, h.Called = broker.CallbackDead, at
	}
	h.Call.endLease()
	h.Call.Due = at.add(r.Delay)
}

// end is the end of the invocation. The result's payload is the caller's to store.
func (h *head) end(at stamp, r broker.Result) {
	h.Run.endLease()
	h.Place, h.Finished, h.Result, h.Reason = "", at, len(r.Payload), broker.CutReason(r.Reason)
	if r.Outcome == broker.OutcomeDead {
		h.State, h.Letter, h.Run.Reason = broker.StateDead, true, h.Reason
	} else {
		h.State, h.Payload = broker.StateDone, 0
	}
	if h.Callback == broker.CallbackPending {
		h.Call.Due = at
	}
}

// endCall is the end of the callback.
func (h *head) endCall(at stamp, r broker.Result) {
	h.Callback, h.Called = broker.CallbackDone, at
	h.Call.endLease()
	if r.Outcome == broker.OutcomeDead {
		h.Callback, h.Call.Reason = broker.CallbackDead, broker.CutReason(r.Reason)
	}
}

// requeue begins anew.
func (h *head) requeue(now stamp, seq uint64) {
	h.Seq, h.Enqueued, h.State, h.Place = seq, now, broker.StateWaiting, placeReady
	h.Run = turn{Max: h.Run.Max, Due: now}
	h.Letter, h.Finished, h.Result, h.Reason = false, 0, 0, ""
	if h.Callback != broker.CallbackNone {
		h.Callback, h.Call, h.Called = broker.CallbackPending, turn{Max: h.Call.Max}, 0
	}
}

func (h *head) discard(now stamp) { h.Letter, h.Discarded, h.Payload = false, now, 0 }

// turnOf answers the turn that a lease is of, if it is current.
func (h *head) turnOf(l broker.Lease) *turn {
	u := &h.Run
	if l.Lane == broker.LaneCallback {
		u = &h.Call
	}
	if l.Token == "" || u.Token != l.Token {
		return nil
	}
	return u
}

func (h *head) status() broker.Status {
	s := broker.Status{
		ID: h.id, State: h.State, Attempts: h.Run.Attempts, MaxAttempts: h.Run.Max, Priority: h.Priority, Order: h.Order, Key: h.Key,
		Enqueued: h.Enqueued.time(), Worker: h.Run.Worker, Until: h.Run.Until.time(), Reason: h.Run.Reason, Finished: h.Finished.time(),
		Callback: h.Callback, CallbackAttempts: h.Call.Attempts, CallbackReason: h.Call.Reason,
		Expires: h.expires().time(), PayloadBytes: h.Payload, ResultBytes: h.Result,
	}
	if h.State == broker.StateWaiting {
		s.Due = h.Run.Due.time()
	}
	return s
}

// invocation is the head's part of it.
func (h *head) invocation() broker.Invocation {
	return broker.Invocation{ID: h.id, Priority: h.Priority, Order: h.Order, Key: h.Key, MaxAttempts: h.Run.Max, Backoff: h.Backoff, ResultTTL: h.TTL}
}

// tally is how many invocations of a job there are of each kind.
type tally struct {
	Waiting   int `json:"waiting"`
	Ready     int `json:"ready"`
	Leased    int `json:"leased"`
	Dead      int `json:"dead"`
	Callbacks int `json:"callbacks"`
}

func (n tally) counts() broker.Counts {
	return broker.Counts{Waiting: n.Waiting, Ready: n.Ready, Leased: n.Leased, Dead: n.Dead, Callbacks: n.Callbacks}
}

// count adds by for a head; nil counts nothing.
func (n *tally) count(h *head, by int) {
	switch {
	case h == nil:
	case h.State == broker.StateWaiting:
		n.Waiting += by
		if h.Place == placeReady {
			n.Ready += by
		}
	case h.State == broker.StateLeased:
		n.Leased += by
	case h.Letter:
		n.Dead += by
	case h.calling():
		n.Callbacks += by
	}
}

// A job's bucket has, by the first byte of the key:
//
//	h ID              the head
//	p ID              payload
//	d ID              the callback's document
//	r ID              the result's payload
//	k KEY             the ID that has this idempotency key
//	l ID              a dead letter
//	q 9-PRIORITY SEQ  ready: the ID
//	o LENGTH ORDER SEQ  of an order, and not ended: the ID
//	t TIME ID         a delay or a lease ends then
//	a TIME SEQ        a callback may be leased from then on: the ID
//	x TIME ID         it is forgotten then
//	n                 the tally
func idKey(kind byte, id broker.InvocationID) []byte { return append([]byte{kind}, id...) }

func timeKey(kind byte, at stamp, rest ...byte) []byte {
	return append(binary.BigEndian.AppendUint64([]byte{kind}, uint64(at)), rest...)
}

func readyPrefix(priority int) []byte { return []byte{'q', byte(broker.MaxPriority - priority)} }

func orderPrefix(order string) []byte {
	return append(binary.BigEndian.AppendUint16([]byte{'o'}, uint16(len(order))), order...)
}

func seqBytes(seq uint64) []byte { return binary.BigEndian.AppendUint64(nil, seq) }

type entry struct{ key, value []byte }

// entries are what an index has for a head; nil has none.
func (h *head) entries() (list []entry) {
	if h == nil {
		return nil
	}
	id := []byte(h.id)
	add := func(key, value []byte) { list = append(list, entry{key, value}) }
	if h.Key != "" {
		add(append([]byte{'k'}, h.Key...), id)
	}
	if h.live() && h.Order != "" {
		add(append(orderPrefix(h.Order), seqBytes(h.Seq)...), id)
	}
	switch {
	case h.State == broker.StateLeased:
		add(timeKey('t', h.Run.Until, id...), nil)
	case h.live() && h.Place == placeReady:
		add(append(readyPrefix(h.Priority), seqBytes(h.Seq)...), id)
	case h.live() && h.Place == placeDelayed:
		add(timeKey('t', h.Run.Due, id...), nil)
	case h.calling() && h.Call.Token != "":
		add(timeKey('t', h.Call.Until, id...), nil)
	case h.calling():
		add(timeKey('a', h.Call.Due, seqBytes(h.Seq)...), id)
	}
	if h.Letter {
		add(idKey('l', h.id), nil)
	}
	if at := h.expires(); at != 0 {
		add(timeKey('x', at, id...), nil)
	}
	return list
}

// without answers the entries of list that are not in other.
func without(list, other []entry) (rest []entry) {
	for _, e := range list {
		found := false
		for _, o := range other {
			found = found || bytes.Equal(e.key, o.key)
		}
		if !found {
			rest = append(rest, e)
		}
	}
	return rest
}
