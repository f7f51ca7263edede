package redis

import (
	"strconv"
	"strings"
	"sync"

	"github.com/ripstop-vm/ripstop/broker"
)

// keys builds the names of all keys. What stands in braces is the hash tag: keys with one tag are in one slot of a Cluster,
// and a script touches keys of one tag only.
//
//	PREFIX:identity              the store's identity; in a Cluster PREFIX:identity:{…}, one in each slot
//	{PREFIX:records}:…           meta, revisions, values, index, log, sizes
//	{PREFIX:lease:NAME}          a hash
//	{PREFIX:queue:ENT/JOB}:…     see lua/queue.lua
//	{PREFIX:bucket:NAME}:…       meta, versions, values, index, last
//	{PREFIX:blob:DIGEST}:…       meta, and a chunk under each number from 0
//	{PREFIX:names:KIND}          which buckets and blobs there may be: name → when that was noted
//
// A name may have any bytes: a '}' in it ends the tag early, in the same place in all keys of that name.
type keys struct {
	prefix  string
	cluster bool
}

// group is keys of one tag.
type group struct {
	identity, tag string
}

func (k keys) group(name string) group {
	tag := "{" + k.prefix + ":" + name + "}"
	g := group{identity: k.prefix + ":identity", tag: tag}
	if k.cluster {
		g.identity = k.identityOf(slotOf(tag))
	}
	return g
}

// key is a key of the group.
func (g group) key(name string) string { return g.tag + ":" + name }

func (k keys) records() group                { return k.group("records") }
func (k keys) lease(name string) group       { return k.group("lease:" + name) }
func (k keys) bucket(name string) group      { return k.group("bucket:" + name) }
func (k keys) blob(d broker.Digest) group    { return k.group("blob:" + string(d)) }
func (k keys) queue(j broker.Job) group      { return k.group("queue:" + j.Entitlement + "/" + j.Name) }
func (k keys) names(kind string) group       { return k.group("names:" + kind) }
func (k keys) identityOf(slot uint16) string { return k.prefix + ":identity:{" + tags()[slot] + "}" }

// chunk is the key of a blob's chunk.
func (g group) chunk(i int) string { return g.key(strconv.Itoa(i)) }

// slots is how many slots a Cluster has.
const slots = 1 << 14

// tags has for each slot a short text that is in it.
var tags = sync.OnceValue(func() []string {
	list := make([]string, slots)
	for i, left := 0, slots; left > 0; i++ {
		tag := strconv.FormatInt(int64(i), 36)
		if slot := crc16(tag) % slots; list[slot] == "" {
			list[slot] = tag
			left--
		}
	}
	return list
})

// slotOf answers the slot of a key, as the Redis Cluster specification ("Hash tags") says.
func slotOf(key string) uint16 {
	if _, rest, ok := strings.Cut(key, "{"); ok {
		if tag, _, ok := strings.Cut(rest, "}"); ok && tag != "" {
			key = tag
		}
	}
	return crc16(key) % slots
}

// crc16 is CRC-16/XMODEM: polynomial 0x1021, from 0.
func crc16(s string) uint16 {
	crc := uint16(0)
	for _, b := range []byte(s) {
		crc ^= uint16(b) << 8
		for range 8 {
			if crc&0x8000 != 0 {
				crc = crc<<1 ^ 0x1021
			} else {
				crc <<= 1
			}
		}
	}
	return crc
}
