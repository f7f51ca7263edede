// Package server serves a broker to agents and gateways over HTTP/2 and mTLS; package remote is the client. Any control process can serve,
// leading or not.
//
// Each call is judged twice before anything is read: an Authority says whose certificate it came with, and whether it is in force at this
// moment; a Policy says whether all that the call names is in the caller's scope. Both are given by who runs the server.
//
// All watches of records share one of the broker's, and renewals of leases that come at about the same time share a call.
package server
