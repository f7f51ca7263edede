package embedded

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/ripstop-vm/ripstop/broker"
)

// maxSettled bounds what one transaction does for time, so that a million results that expire at once hold nobody up.
const maxSettled = 2000

// step is a transaction's view of one job's queue. Its reads fail with ErrCorrupt; its writes panic as try does.
type step struct {
	path  string
	b     *bolt.Bucket // the job's; nil if it has none
	now   stamp
	tally tally
	wrote bool
	err   error // the first of a read
}

func jobKey(j broker.Job) []byte { return []byte(j.String()) }

// step opens a job's queue in a transaction.
func (q *Queue) step(tx *bolt.Tx, j broker.Job, now stamp) (*step, error) {
	s := &step{path: q.db.path, b: tx.Bucket(queueBucket).Bucket(jobKey(j)), now: now}
	if s.b == nil {
		return s, nil
	}
	if v := s.get([]byte("n")); v != nil && json.Unmarshal(v, &s.tally) != nil {
		return nil, damaged(s.path, []byte("n"))
	}
	return s, s.err
}

// get answers the value under a key, a part of the transaction's memory; nil if there is none.
func (s *step) get(key []byte) []byte {
	if s.b == nil {
		return nil
	}
	v := s.b.Get(key)
	if v == nil {
		return nil
	}
	_, value, ok := unseal(key, v)
	if !ok {
		if s.err == nil {
			s.err = damaged(s.path, key)
		}
		return nil
	}
	return value
}

func (s *step) put(key, value []byte) { try(s.b.Put(key, seal(key, broker.QueueSchema, value))) }

// load answers a head as it is stored; nil if there is none.
func (s *step) load(id broker.InvocationID) (*head, error) {
	if s.b == nil {
		return nil, nil
	}
	key := idKey('h', id)
	v := s.b.Get(key)
	if v == nil {
		return nil, nil
	}
	return parseHead(s.path, key, v)
}

// find answers a head as time has left it, and as it is stored; nil if there is none, or it is to be forgotten.
func (s *step) find(id broker.InvocationID) (h, stored *head, err error) {
	stored, err = s.load(id)
	if stored == nil {
		return nil, nil, err
	}
	h = stored.copy()
	if h.settle(s.now) {
		return nil, stored, nil
	}
	return h, stored, nil
}

func (h *head) copy() *head {
	c := *h
	return &c
}

// save stores a head in place of what is stored, nil to forget it, and lets the next one of its order go on if it ended.
func (s *step) save(h, stored *head) error {
	s.wrote = true
	s.tally.count(stored, -1)
	s.tally.count(h, 1)
	was, is := stored.entries(), h.entries()
	for _, e := range without(was, is) {
		try(s.b.Delete(e.key))
	}
	for _, e := range without(is, was) {
		s.put(e.key, e.value)
	}
	if h == nil {
		for _, kind := range []byte("hpdr") {
			try(s.b.Delete(idKey(kind, stored.id)))
		}
	} else {
		try(s.b.Put(idKey('h', h.id), h.bytes()))
		if stored != nil && stored.Payload > 0 && h.Payload == 0 {
			try(s.b.Delete(idKey('p', h.id)))
		}
		if stored != nil && stored.Result > 0 && h.Result == 0 {
			try(s.b.Delete(idKey('r', h.id)))
		}
		if h.Callback != broker.CallbackNone && h.expires() != 0 {
			try(s.b.Delete(idKey('d', h.id)))
		}
	}
	if stored != nil && stored.live() && stored.Order != "" && (h == nil || !h.live()) {
		at := s.now
		if h != nil {
			at = h.Finished
		}
		return s.goOn(stored.Order, at)
	}
	return nil
}

// goOn lets the first invocation of an order wait for its turn no longer.
func (s *step) goOn(order string, at stamp) error {
	id, err := s.firstOf(order)
	if id == "" || err != nil {
		return err
	}
	stored, err := s.load(id)
	if err != nil || stored == nil || stored.Place != placeBehind {
		return err
	}
	h := stored.copy()
	h.Run.Due = max(h.Run.Due, at)
	if h.Place = placeReady; h.Run.Due > s.now {
		h.Place = placeDelayed
	}
	return s.save(h, stored)
}

// firstOf answers the first invocation of an order that has not ended.
func (s *step) firstOf(order string) (broker.InvocationID, error) {
	prefix := orderPrefix(order)
	if k, v := s.b.Cursor().Seek(prefix); k != nil && bytes.HasPrefix(k, prefix) && len(k) == len(prefix)+8 {
		_, id, ok := unseal(k, v)
		if !ok {
			return "", damaged(s.path, k)
		}
		return broker.InvocationID(id), nil
	}
	return "", nil
}

// over answers the IDs in the time index kind whose time has come, at most n, and when the next one's comes (0: never).
func (s *step) over(kind byte, n int) (ids []broker.InvocationID, next stamp) {
	if s.b == nil {
		return nil, 0
	}
	c := s.b.Cursor()
	for k, _ := c.Seek([]byte{kind}); len(k) > 9 && k[0] == kind; k, _ = c.Next() {
		at := stamp(binary.BigEndian.Uint64(k[1:]))
		if at > s.now || len(ids) == n {
			return ids, at
		}
		ids = append(ids, broker.InvocationID(k[9:]))
	}
	return ids, 0
}

// settle does what time has done to the job, and answers whether there is more to do.
func (s *step) settle() (more bool, err error) {
	due, _ := s.over('t', maxSettled)
	expired, _ := s.over('x', maxSettled-len(due))
	for _, id := range append(due, expired...) {
		h, stored, err := s.find(id)
		if err != nil {
			return false, err
		}
		if stored != nil {
			if err := s.save(h, stored); err != nil {
				return false, err
			}
		}
	}
	return len(due) == maxSettled, s.err
}

// finish stores the tally. It comes after the last save.
func (s *step) finish() {
	if s.wrote {
		b, err := json.Marshal(s.tally)
		try(err)
		s.put([]byte("n"), b)
	}
}

// ready answers up to n of what may be leased now in a lane, first ones first.
func (s *step) ready(lane broker.Lane, n int) (ids []broker.InvocationID, err error) {
	if s.b == nil {
		return nil, nil
	}
	kind := byte('q')
	if lane == broker.LaneCallback {
		kind = 'a'
	}
	c := s.b.Cursor()
	for k, v := c.Seek([]byte{kind}); len(k) > 9 && k[0] == kind && len(ids) < n; k, v = c.Next() {
		if kind == 'a' && stamp(binary.BigEndian.Uint64(k[1:])) > s.now {
			break
		}
		_, id, ok := unseal(k, v)
		if !ok {
			return nil, damaged(s.path, k)
		}
		ids = append(ids, broker.InvocationID(id))
	}
	return ids, nil
}

// sweepAfter is how long what has expired may stay on the disk: long enough that a step deletes much of it at once.
const sweepAfter = time.Minute

// next answers whether something in a lane may be ready now, or there is something to delete, and if not, when time changes
// something (0: never).
func (s *step) next(lane broker.Lane) (ready bool, next stamp, err error) {
	ids, err := s.ready(lane, 1)
	if err != nil || len(ids) > 0 {
		return len(ids) > 0, 0, err
	}
	due, next := s.over('t', 1)
	if len(due) > 0 {
		return true, 0, nil // settling it may make it ready, or the callback of what it ends
	}
	sooner := func(kind byte, after time.Duration) {
		if at := s.first(kind); at != 0 && (next == 0 || at.add(after) < next) {
			next = at.add(after)
		}
	}
	if lane == broker.LaneCallback {
		sooner('a', 0)
	}
	sooner('x', sweepAfter)
	return next != 0 && next <= s.now, next, nil
}

// first is the first time in an index by time; 0 if there is none.
func (s *step) first(kind byte) stamp {
	if s.b == nil {
		return 0
	}
	if k, _ := s.b.Cursor().Seek([]byte{kind}); len(k) > 9 && k[0] == kind {
		return stamp(binary.BigEndian.Uint64(k[1:]))
	}
	return 0
}
