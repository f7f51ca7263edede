package redis

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/ripstop-vm/ripstop/broker"
	"github.com/ripstop-vm/ripstop/internal/redistest"
)

// queue_enqueue.lua puts an item together from pieces, some of which this package packs. It has to be what other scripts pack: an array of
// 35, each number in its shortest form. The numbers are on both sides of where that changes.
func TestAnItemIsPackedAsOtherScriptsPackIt(t *testing.T) {
	t.Parallel()
	s := mustOpen(t, redistest.Start(t).URL(), Options{})
	b := broker.Batch{Job: testJob}
	for i, n := range []time.Duration{0, 1, 127, 128, 255, 256, math.MaxUint16, math.MaxUint16 + 1, math.MaxUint32, math.MaxUint32 + 1} {
		v := broker.Invocation{
			ID: broker.InvocationID(fmt.Sprintf("i%02d", i)), Priority: i % 10, MaxAttempts: 1 + i, ResultTTL: broker.MinResultTTL + n,
			Backoff: broker.Backoff{First: n, Max: broker.MaxDelay - n}, Payload: []byte(strings.Repeat("x", min(int(n), math.MaxUint16+1))),
		}
		if i%2 == 1 {
			v.Delay, v.Order = time.Duration(i)*time.Hour, "line"
		}
		if i%3 == 1 {
			v.Key, v.Callback = "key"+string(v.ID), &broker.Callback{Document: []byte("d"), MaxAttempts: i}
		}
		b.Invocations = append(b.Invocations, v)
	}
	if _, err := s.Queue().Enqueue(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	const check = `
		local bad = {}
		local all = redis.call('HGETALL', KEYS[1])
		for i = 1, #all, 2 do
			local fields = cmsgpack.unpack(all[i + 1])
			if #fields ~= 35 or cmsgpack.pack(fields) ~= all[i + 1] then
				bad[#bad + 1] = all[i]
			end
		end
		return {#all / 2, table.concat(bad, ' ')}`
	items := s.queue.link.keys.queue(testJob).key("items")
	got, err := s.queue.link.single.Eval(t.Context(), check, []string{items}).Result()
	if want := fmt.Sprintf("[%d ]", len(b.Invocations)); err != nil || fmt.Sprint(got) != want {
		t.Errorf("how many there are and which are packed otherwise: %v, %v, want %s", got, err, want)
	}
	for _, v := range b.Filled().Invocations {
		st, err := s.Queue().Status(t.Context(), testJob, v.ID)
		if err != nil {
			t.Fatal(err)
		}
		if st.State != broker.StateWaiting || st.Priority != v.Priority || st.MaxAttempts != v.MaxAttempts || st.Order != v.Order || st.Key != v.Key ||
			st.PayloadBytes != len(v.Payload) || st.Due.Sub(st.Enqueued) != v.Delay {
			t.Errorf("%+v is known as %+v", v.ID, st)
		}
	}
	ls, err := s.Queue().Lease(t.Context(), broker.Want{Worker: "w", Jobs: []broker.Job{testJob}, Max: 100, TTL: time.Minute})
	if err != nil || len(ls) != 5 { // the others have a delay
		t.Fatalf("%d are leased, %v", len(ls), err)
	}
	for _, l := range ls {
		var i int
		if _, err := fmt.Sscanf(string(l.ID), "i%d", &i); err != nil {
			t.Fatal(err)
		}
		if v := b.Filled().Invocations[i]; l.ResultTTL != v.ResultTTL || l.Backoff != v.Backoff || string(l.Payload) != string(v.Payload) || (l.Callback == nil) != (v.Callback == nil) {
			t.Errorf("%s comes back with %v, %v and %v, want %v, %v and %v", l.ID, l.ResultTTL, l.Backoff, l.Callback, v.ResultTTL, v.Backoff, v.Callback)
		}
	}
}
