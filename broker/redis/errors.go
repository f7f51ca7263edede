package redis

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/ripstop-vm/ripstop/broker"
)

var (
	// ErrSettings: the server's settings or version do not do. Open fails with it, and its text says what to change.
	ErrSettings = errors.New("the server's settings do not do")
	// ErrReplicas: a change was made on the server, but fewer replicas than Options.Replicas had it in time. It may be lost
	// in a failover, or not.
	ErrReplicas = errors.New("too few replicas have the change")
)

// explain turns an error of the client or the server into one of broker's, with what to do.
func explain(where string, err error) error {
	if err == nil {
		return nil
	}
	wrap := func(sentinel error, what string) error {
		return fmt.Errorf("%s: %w: %s (%s)", where, sentinel, what, oneLine(err))
	}
	text := err.Error()
	for _, known := range []error{broker.ErrIncarnation, broker.ErrRewound, broker.ErrClosed, ErrSettings, broker.ErrUnavailable, broker.ErrReadOnly, broker.ErrAccess, broker.ErrNewer, ErrReplicas} {
		if errors.Is(err, known) { // from the check of a new connection
			return err
		}
	}
	switch code, _, _ := strings.Cut(text, " "); code {
	case "OOM":
		return wrap(broker.ErrFull, "raise its maxmemory, or make room; nothing was changed")
	case "READONLY":
		return wrap(broker.ErrReadOnly, "it is a replica; use the master's address, or Sentinel; nothing was changed")
	case "NOREPLICAS":
		return wrap(broker.ErrReadOnly, "it has fewer replicas than min-replicas-to-write asks for; nothing was changed")
	case "MISCONF":
		if strings.Contains(text, "No space left") {
			return wrap(broker.ErrFull, "free some space on its disk; nothing was changed")
		}
		return wrap(broker.ErrReadOnly, "it cannot write to its disk; nothing was changed")
	case "NOPERM", "NOAUTH", "WRONGPASS":
		return wrap(broker.ErrAccess, "check user, password and the user's ACL; nothing was changed")
	case "LOADING", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "BUSY", "MOVED", "ASK":
		return wrap(broker.ErrUnavailable, "try again; nothing was changed")
	}
	var netErr net.Error
	switch {
	case strings.Contains(text, "The user executing the script can't"):
		return wrap(broker.ErrAccess, "check the user's ACL; nothing was changed")
	case errors.Is(err, redis.ErrClosed):
		return fmt.Errorf("%s: %w", where, broker.ErrClosed)
	case errors.Is(err, context.Canceled), errors.Is(err, redis.ErrPoolTimeout), errors.As(err, &netErr), isDisconnect(err):
		return wrap(broker.ErrUnavailable, "is it running, and can it be reached?")
	}
	return fmt.Errorf("%s: %s", where, oneLine(err))
}

func isDisconnect(err error) bool {
	text := err.Error()
	for _, part := range []string{"EOF", "connection reset", "broken pipe", "connection refused", "no such file", "all sentinels", "closed network", "connection", "tls: ", "x509: "} {
		if strings.Contains(text, part) {
			return true
		}
	}
	return false
}

func oneLine(err error) string {
	return strings.Join(strings.Fields(err.Error()), " ")
}

// unsent says that the server certainly did not do what it was asked for, and may soon: it is in the middle of a change.
func unsent(err error) bool {
	code, _, _ := strings.Cut(err.Error(), " ")
	switch code {
	case "LOADING", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "MOVED", "ASK":
		return true
	}
	return false
}

// undialled says that a command was not sent as there is no connection.
func undialled(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}
