// Package redis keeps a broker in Redis 7.0 or later: a single server, one behind Sentinel, or a Cluster.
//
// Each contract may have a server of its own; by default all share one. Everything that changes something is a Lua script in
// the folder lua, which checks all it depends on before its first write. Keys are built in keys.go only.
//
// A store has an incarnation, which is written into the server when the store is made, and a history: a random mark that
// changes whenever the server was started again or another one took its place. So a server that was restarted empty, is
// another store's, or lost its last commits is noticed by the first call that meets it, changes nothing, and answers
// broker.ErrIncarnation or broker.ErrRewound until Adopt is called.
//
// What an acknowledgement survives depends on the server's settings; Durability says what they are.
//
// Not here: blobs larger than Options.MaxBlob, which belong into files or an object store.
package redis
