package redis

import (
	"cmp"
	"context"
	"fmt"
	"regexp"
	"strings"

	"github.com/ripstop-vm/ripstop/broker"
)

// places are where List looks, one after the other: queue_list.lua says what they are.
const places = "lrdb"

// maxListCalls bounds the calls of the server for one List, each of which looks at no more than broker.MaxBatch invocations.
const maxListCalls = 10

// position is where a List goes on: in a place, after a member with a score, or with the first one if the member is empty.
type position struct {
	place, score, member string
}

func (p position) String() string { return p.place + "." + p.score + "." + p.member }

// positions are what String writes: the score is a whole number, and the member an ID or what stands in orders.
var positions = regexp.MustCompile(`^[lrd]\.[0-9]{1,16}\.[A-Za-z0-9_-]{0,64}$|^b\.0\.([0-9a-f]{40}:[0-9]{16}:[A-Za-z0-9_-]{1,64})?$`)

func parsePosition(s string) (position, error) {
	if s == "" {
		return position{place: places[:1], score: "0"}, nil
	}
	if !positions.MatchString(s) {
		return position{}, fmt.Errorf("from %.80q: %w", s, broker.ErrInvalid)
	}
	parts := strings.SplitN(s, ".", 3)
	return position{parts[0], parts[1], parts[2]}, nil
}

// List implements broker.Queue. It asks for one place after another.
func (q *Queue) List(ctx context.Context, j broker.Job, from string, limit int) (list []broker.Status, next string, err error) {
	at, err := parsePosition(from)
	if err := cmp.Or(context.Cause(ctx), j.Check(), err); err != nil {
		return nil, "", fmt.Errorf("list: %w", err)
	}
	limit = min(cmp.Or(max(limit, 0), 100), broker.MaxBatch)
	for range maxListCalls {
		rep, err := q.run(ctx, unfinishedList, j, at.place, at.score, at.member, limit-len(list), broker.MaxBatch)
		if err != nil {
			return nil, "", fmt.Errorf("list: %w", err)
		}
		for i := 4; i+statusWidth <= len(rep); i += statusWidth {
			s, _ := readStatus(rep[i : i+statusWidth])
			list = append(list, s)
		}
		if rep.number(1) == 1 {
			rest := places[strings.Index(places, at.place)+1:]
			if rest == "" {
				return list, "", nil
			}
			at = position{place: rest[:1], score: "0"}
		} else if member := rep.text(3); member != "" {
			at = position{at.place, rep.text(2), member}
		}
		if len(list) == limit {
			break
		}
	}
	return list, at.String(), nil
}
