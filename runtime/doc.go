// Package runtime runs guest modules in process virtual machines, bounded in memory and wall time, with every host
// call at one door.
//
// A Runtime offers host functions to modules. A Module is compiled code and is shared. A Sandbox is one running instance
// of it and belongs to whoever made it. Guests are hostile: no input of theirs may panic, block or grow the host.
// Requests, queues and placement live elsewhere: package guest brings requests to sandboxes, and the cluster's parts sit
// above that. A program may embed this package alone.
package runtime
