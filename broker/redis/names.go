package redis

import (
	"context"
	"time"
)

var (
	noteScript   = load("note")
	forgetScript = load("forget")
	notedScript  = load("noted")
)

// names is which buckets or blobs there may be. It is under a hash tag of its own, so it is no part of a step that makes one:
// a name is noted before, and forgotten only when nothing is there long after.
type names struct {
	link *link
	kind string
}

// stale is how long a name is kept at least after it was noted. A step that follows its note takes no longer.
const stale = time.Hour

func (n names) at() (group, []string) {
	g := n.link.keys.names(n.kind)
	return g, []string{g.tag}
}

func (n names) note(ctx context.Context, name string) error {
	g, keys := n.at()
	_, err := n.link.run(ctx, noteScript, g, keys, name)
	return err
}

// forget forgets a name that nothing is there for, unless it was noted not long ago or after it was listed.
func (n names) forget(ctx context.Context, name, noted string) error {
	g, keys := n.at()
	_, err := n.link.run(ctx, forgetScript, g, keys, name, noted, stale.Microseconds())
	return err
}

// each hands on all names with when they were noted, in no order and some perhaps twice, until handle fails.
func (n names) each(ctx context.Context, handle func(list [][2]string) error) error {
	g, keys := n.at()
	for cursor := "0"; ; {
		rep, err := n.link.run(ctx, notedScript, g, keys, cursor, 1000)
		if err != nil {
			return err
		}
		var list [][2]string
		for i := 2; i+1 < len(rep); i += 2 {
			list = append(list, [2]string{rep.text(i), rep.text(i + 1)})
		}
		if err := handle(list); err != nil {
			return err
		}
		if cursor = rep.text(1); cursor == "0" {
			return nil
		}
	}
}
