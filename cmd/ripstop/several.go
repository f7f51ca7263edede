package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/ripstop-vm/ripstop/api/client"
	"github.com/ripstop-vm/ripstop/api/model"
)

// failure is one of several things that did not work.
type failure struct {
	name string
	err  error
}

// failuresError says which of several things that were named on a command line did not work.
type failuresError struct {
	list  []failure
	named int // on the command line
}

func (e *failuresError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d of %d failed:", len(e.list), e.named)
	for _, f := range e.list {
		fmt.Fprintf(&b, "\n  %s: %s", escapeLine(f.name), f.err)
	}
	return b.String()
}

// errNotTried stands for what was left after an error that all others would have met, too.
var errNotTried = errors.New("not tried")

// each does something to each of some names, whatever becomes of those before it, and answers those that it was done to. Only when the
// server is away or does not take the token, or the command is interrupted, it ends early.
func each(ctx context.Context, names []string, do func(name string) error) (done []string, err error) {
	failed := &failuresError{named: len(names)}
	for i, name := range names {
		err := do(name)
		if err == nil {
			done = append(done, name)
			continue
		}
		var p *model.Problem
		last := ctx.Err() != nil || errors.As(err, new(*client.UnreachableError)) || errors.As(err, &p) && p.Status == http.StatusUnauthorized
		if len(names) == 1 || last && i == 0 {
			return nil, err
		}
		failed.list = append(failed.list, failure{name, explain(err)})
		if last {
			for _, rest := range names[i+1:] {
				failed.list = append(failed.list, failure{rest, errNotTried})
			}
			break
		}
	}
	if len(failed.list) > 0 {
		return done, failed
	}
	return done, nil
}
