package brokertest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/ripstop-vm/ripstop/broker"
)

// Buckets runs the suite of broker.Buckets. open answers buckets without any item, and ends them with the test.
func Buckets(t *testing.T, open func(*testing.T) broker.Buckets) {
	suite(t, open, map[string]func(*testing.T, broker.Buckets){
		"an item is read back with its version":                 itemIsReadBack,
		"what is not there is not found":                        unknownItem,
		"a put under another version changes nothing":           putCompares,
		"a delete under another version changes nothing":        deleteCompares,
		"versions never repeat":                                 versionsNeverRepeat,
		"a put over the quota changes nothing":                  quotaIsKept,
		"a bucket over a lowered quota can shrink":              bucketCanShrink,
		"keys, values and names out of bounds are refused":      itemBounds,
		"a list is in order, within its prefix and limit":       listOfItems,
		"a list is bounded in bytes and goes on after":          listIsBounded,
		"buckets are apart":                                     bucketsAreApart,
		"a bucket is named while it has items":                  namesOfBuckets,
		"a dropped bucket is empty":                             droppedBucket,
		"of many who compare and put each succeeds once a turn": contendedItem,
		"random calls do what a map would":                      bucketLikeAMap,
	})
}

func putItem(t *testing.T, b broker.Buckets, bucket, key, value string) uint64 {
	t.Helper()
	v, err := b.Put(t.Context(), bucket, key, []byte(value), broker.PutOptions{})
	if err != nil {
		t.Fatalf("put: %v", err)
	}
	return v
}

func wantItems(t *testing.T, b broker.Buckets, bucket string, want ...string) {
	t.Helper()
	items, err := b.List(t.Context(), bucket, "", "", 0)
	if err != nil {
		t.Fatalf("list: %v", err)
	}
	var got []string
	size := int64(0)
	for _, it := range items {
		got = append(got, it.Key+"="+string(it.Value))
		size += int64(len(it.Key)+len(it.Value)) + broker.ItemOverhead
	}
	if !slices.Equal(got, want) {
		t.Errorf("bucket %s holds %q, want %q", bucket, got, want)
	}
	if u, err := b.Usage(t.Context(), bucket); err != nil || u.Items != uint64(len(items)) || u.Bytes != size {
		t.Errorf("usage is %+v, %v; want %d items and %d bytes", u, err, len(items), size)
	}
}

func itemIsReadBack(t *testing.T, b broker.Buckets) {
	first := putItem(t, b, "b", "k", "one")
	second := putItem(t, b, "b", "k", "two")
	if first == 0 || second <= first {
		t.Errorf("versions are %d and %d", first, second)
	}
	if it, err := b.Get(t.Context(), "b", "k"); err != nil || it.Key != "k" || string(it.Value) != "two" || it.Version != second {
		t.Errorf("get answers %+v, %v", it, err)
	}
	wantItems(t, b, "b", "k=two")
}

func unknownItem(t *testing.T, b broker.Buckets) {
	putItem(t, b, "b", "k", "")
	for _, c := range [][2]string{{"b", "j"}, {"c", "k"}} {
		if _, err := b.Get(t.Context(), c[0], c[1]); !errors.Is(err, broker.ErrNotFound) {
			t.Errorf("get %q answers %v", c, err)
		}
		if err := b.Delete(t.Context(), c[0], c[1], nil); err != nil {
			t.Errorf("delete %q answers %v", c, err)
		}
	}
	wantItems(t, b, "c")
	wantItems(t, b, "b", "k=")
}

func wantConflict(t *testing.T, err error, want, have uint64) {
	t.Helper()
	var c *broker.ConflictError
	if !errors.Is(err, broker.ErrConflict) || !errors.As(err, &c) || c.Want != want || c.Have != have {
		t.Errorf("the error is %v, want a conflict of %d with %d", err, want, have)
	}
}

func putCompares(t *testing.T, b broker.Buckets) {
	ctx := t.Context()
	_, err := b.Put(ctx, "b", "k", []byte("x"), broker.PutOptions{Expect: at(uint64(7))})
	wantConflict(t, err, 7, 0)
	v, err := b.Put(ctx, "b", "k", []byte("x"), broker.PutOptions{Expect: at(uint64(0))})
	if err != nil {
		t.Fatal(err)
	}
	_, err = b.Put(ctx, "b", "k", []byte("y"), broker.PutOptions{Expect: at(uint64(0))})
	wantConflict(t, err, 0, v)
	wantItems(t, b, "b", "k=x")
	if _, err := b.Put(ctx, "b", "k", []byte("y"), broker.PutOptions{Expect: &v}); err != nil {
		t.Error(err)
	}
	wantItems(t, b, "b", "k=y")
}

func deleteCompares(t *testing.T, b broker.Buckets) {
	v := putItem(t, b, "b", "k", "x")
	wantConflict(t, b.Delete(t.Context(), "b", "k", at(v+1)), v+1, v)
	wantConflict(t, b.Delete(t.Context(), "b", "j", at(v)), v, 0)
	wantItems(t, b, "b", "k=x")
	if err := b.Delete(t.Context(), "b", "k", &v); err != nil {
		t.Error(err)
	}
	wantItems(t, b, "b")
}

func versionsNeverRepeat(t *testing.T, b broker.Buckets) {
	last := uint64(0)
	for range 5 {
		v := putItem(t, b, "b", "k", "x")
		if v <= last {
			t.Errorf("version %d came after %d", v, last)
		}
		last = v
		if err := b.Delete(t.Context(), "b", "k", nil); err != nil {
			t.Fatal(err)
		}
		if err := b.Drop(t.Context(), "b"); err != nil {
			t.Fatal(err)
		}
	}
}

func quotaIsKept(t *testing.T, b broker.Buckets) {
	ctx, o := t.Context(), broker.PutOptions{Quota: 3*broker.ItemOverhead + 30}
	for _, k := range []string{"a", "b", "c"} {
		if _, err := b.Put(ctx, "b", k, []byte("123456789"), o); err != nil {
			t.Fatalf("an item that just fits: %v", err)
		}
	}
	_, err := b.Put(ctx, "b", "c", []byte("1234567890"), o)
	if !errors.Is(err, broker.ErrQuota) {
		t.Errorf("a longer value answers %v", err)
	}
	if _, err = b.Put(ctx, "b", "d", nil, o); !errors.Is(err, broker.ErrQuota) {
		t.Errorf("one more item answers %v", err)
	}
	wantItems(t, b, "b", "a=123456789", "b=123456789", "c=123456789")
	if err := b.Delete(ctx, "b", "a", nil); err != nil {
		t.Fatal(err)
	}
	if _, err = b.Put(ctx, "b", "d", []byte("123456789"), o); err != nil {
		t.Errorf("after a delete there is no room: %v", err)
	}
}

func bucketCanShrink(t *testing.T, b broker.Buckets) {
	putItem(t, b, "b", "k", strings.Repeat("x", 100))
	if _, err := b.Put(t.Context(), "b", "k", []byte("x"), broker.PutOptions{Quota: 10}); err != nil {
		t.Errorf("a shorter value answers %v", err)
	}
	wantItems(t, b, "b", "k=x")
}

func itemBounds(t *testing.T, b broker.Buckets) {
	ctx := t.Context()
	for name, c := range map[string]struct {
		bucket, key string
		value       int
		want        error
	}{
		"empty key":      {"b", "", 0, broker.ErrInvalid},
		"empty bucket":   {"", "k", 0, broker.ErrInvalid},
		"long bucket":    {strings.Repeat("b", 257), "k", 0, broker.ErrInvalid},
		"long key":       {"b", strings.Repeat("k", broker.MaxKey+1), 0, broker.ErrTooLarge},
		"long value":     {"b", "k", broker.MaxValue + 1, broker.ErrTooLarge},
		"longest bucket": {strings.Repeat("c", 256), "k", 0, nil},
		"longest item":   {"d", strings.Repeat("k", broker.MaxKey), broker.MaxValue, nil},
	} {
		if _, err := b.Put(ctx, c.bucket, c.key, make([]byte, c.value), broker.PutOptions{}); !errors.Is(err, c.want) {
			t.Errorf("%s: put answers %v, want %v", name, err, c.want)
		}
	}
	wantItems(t, b, "b")
}

func keysOf(t *testing.T, b broker.Buckets, prefix, after string, limit int) string {
	t.Helper()
	items, err := b.List(t.Context(), "b", prefix, after, limit)
	if err != nil {
		t.Fatal(err)
	}
	var keys []string
	for _, it := range items {
		keys = append(keys, it.Key)
	}
	return strings.Join(keys, " ")
}

func listOfItems(t *testing.T, b broker.Buckets) {
	for _, k := range []string{"b/2", "a", "b", "b/1", "i", "u", "\x00", "\xff"} {
		putItem(t, b, "b", k, "x")
	}
	for _, c := range []struct {
		prefix, after string
		limit         int
		want          string
	}{
		{"", "", 0, "\x00 a b b/1 b/2 i u \xff"},
		{"b", "", 0, "b b/1 b/2"},
		{"b/", "", 1, "b/1"},
		{"b/", "b/1", 0, "b/2"},
		{"", "b/2", 2, "i u"},
		{"z", "", 0, ""},
		{"a", "b", 0, ""},
	} {
		if got := keysOf(t, b, c.prefix, c.after, c.limit); got != c.want {
			t.Errorf("list(%q, %q, %d) is %q, want %q", c.prefix, c.after, c.limit, got, c.want)
		}
	}
}

func listIsBounded(t *testing.T, b broker.Buckets) {
	for i := range 6 {
		putItem(t, b, "b", fmt.Sprint(i), strings.Repeat("x", broker.MaxValue))
	}
	var seen []string
	for after := ""; ; {
		items, err := b.List(t.Context(), "b", "", after, 0)
		if err != nil {
			t.Fatal(err)
		}
		if len(items) == 0 {
			break
		}
		if len(items) > 5 {
			t.Errorf("a list has %d MiB", len(items))
		}
		for _, it := range items {
			seen = append(seen, it.Key)
		}
		after = seen[len(seen)-1]
	}
	if got := strings.Join(seen, ""); got != "012345" {
		t.Errorf("the lists gave %q", got)
	}
}

func bucketsAreApart(t *testing.T, b broker.Buckets) {
	putItem(t, b, "a", "k", "1")
	putItem(t, b, "b", "k", "2")
	if err := b.Delete(t.Context(), "a", "k", nil); err != nil {
		t.Fatal(err)
	}
	wantItems(t, b, "a")
	wantItems(t, b, "b", "k=2")
}

func namesOfBuckets(t *testing.T, b broker.Buckets) {
	for _, name := range []string{"x/1", "x/2", "y"} {
		putItem(t, b, name, "k", "")
	}
	if err := b.Delete(t.Context(), "x/2", "k", nil); err != nil {
		t.Fatal(err)
	}
	for prefix, want := range map[string]string{"": "x/1 y", "x/": "x/1", "z": ""} {
		if got, err := b.Names(t.Context(), prefix); err != nil || strings.Join(got, " ") != want {
			t.Errorf("names with %q are %q, %v", prefix, got, err)
		}
	}
}

func droppedBucket(t *testing.T, b broker.Buckets) {
	for i := range 100 {
		putItem(t, b, "b", fmt.Sprint(i), strings.Repeat("x", 1000))
	}
	for range 2 {
		if err := b.Drop(t.Context(), "b"); err != nil {
			t.Fatal(err)
		}
	}
	wantItems(t, b, "b")
	putItem(t, b, "b", "k", "x")
	wantItems(t, b, "b", "k=x")
}

func contendedItem(t *testing.T, b broker.Buckets) {
	const workers, each = 8, 10
	compete(t, workers, each, func(int) error {
		it, err := b.Get(t.Context(), "b", "n")
		if found(err) != nil {
			return err
		}
		_, err = b.Put(t.Context(), "b", "n", append(it.Value, '.'), broker.PutOptions{Expect: &it.Version})
		return err
	})
	if it, err := b.Get(t.Context(), "b", "n"); err != nil || len(it.Value) != workers*each {
		t.Errorf("the counter is %d, %v; want %d", len(it.Value), err, workers*each)
	}
}

// bucketLikeAMap does random calls on a bucket and on a map, and compares answers, contents and usage.
func bucketLikeAMap(t *testing.T, b broker.Buckets) {
	const quota = 300
	model := map[string]broker.Item{}
	size := func() int64 {
		n := int64(0)
		for k, it := range model {
			n += int64(len(k)+len(it.Value)) + broker.ItemOverhead
		}
		return n
	}
	last := uint64(0)
	key := rapid.SampledFrom([]string{"a", "b", "ab", "c", "\x00", "uu"})
	rapid.Check(t, func(t *rapid.T) {
		ctx := context.Background()
		k := key.Draw(t, "key")
		have := model[k]
		var expect *uint64
		if rapid.Bool().Draw(t, "compare") {
			expect = at(have.Version + uint64(rapid.IntRange(0, 1).Draw(t, "stale")))
		}
		stale := expect != nil && *expect != have.Version
		if rapid.Bool().Draw(t, "delete") {
			err := b.Delete(ctx, "b", k, expect)
			if stale != errors.Is(err, broker.ErrConflict) || !stale && err != nil {
				t.Fatalf("delete answers %v", err)
			}
			if !stale {
				delete(model, k)
			}
		} else {
			value := rapid.SliceOfN(rapid.Byte(), 0, 120).Draw(t, "value")
			before := size()
			after := before + int64(len(value)-len(have.Value))
			if have.Version == 0 {
				after += int64(len(k)) + broker.ItemOverhead
			}
			version, err := b.Put(ctx, "b", k, value, broker.PutOptions{Expect: expect, Quota: quota})
			switch {
			case stale:
				if !errors.Is(err, broker.ErrConflict) {
					t.Fatalf("put answers %v", err)
				}
			case after > quota && after > before:
				if !errors.Is(err, broker.ErrQuota) {
					t.Fatalf("put of %d bytes answers %v", after, err)
				}
			case err != nil || version <= last:
				t.Fatalf("put answers version %d after %d, %v", version, last, err)
			default:
				last = version
				model[k] = broker.Item{Key: k, Value: value, Version: version}
			}
		}
		items, err := b.List(ctx, "b", "", "", 0)
		u, uerr := b.Usage(ctx, "b")
		if err != nil || uerr != nil || len(items) != len(model) || u.Bytes != size() || u.Items != uint64(len(model)) {
			t.Fatalf("the bucket holds %+v (%+v), %v, %v; want %+v", items, u, err, uerr, model)
		}
		for i, k := range slices.Sorted(maps.Keys(model)) {
			if want := model[k]; items[i].Key != k || string(items[i].Value) != string(want.Value) || items[i].Version != want.Version {
				t.Fatalf("item %q is %+v, want %+v", k, items[i], want)
			}
		}
	})
}
