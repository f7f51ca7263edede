package embedded

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/ripstop-vm/ripstop/broker"
)

// maxListed bounds how many entries of indexes one List looks at. Some are of callbacks, or of invocations that come elsewhere.
const maxListed = 10 * broker.MaxBatch

// stages are where List looks, one after the other: the index, and which of the invocations in it are meant, by what is stored.
var stages = []struct {
	kind byte
	here func(stored *head) bool
}{
	{'t', func(h *head) bool { return h.State == broker.StateLeased }},
	{'q', func(*head) bool { return true }},
	{'t', func(h *head) bool { return h.State == broker.StateWaiting }},
	{'o', func(h *head) bool { return h.Place == placeBehind }},
}

// position is where a List goes on: after a key of a stage's index, or with its first one.
type position struct {
	stage int
	key   []byte
}

func (p position) String() string {
	return fmt.Sprintf("%d.%s", p.stage, base64.RawURLEncoding.EncodeToString(p.key))
}

func parsePosition(s string) (p position, err error) {
	if s == "" {
		return p, nil
	}
	stage, text, _ := strings.Cut(s, ".")
	key, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil || len(s) > broker.MaxListFrom || len(stage) != 1 || stage[0] < '0' || int(stage[0]-'0') >= len(stages) {
		return p, fmt.Errorf("from %.80q: %w", s, broker.ErrInvalid)
	}
	p = position{int(stage[0] - '0'), key}
	if p.String() != s || len(key) > 0 && key[0] != stages[p.stage].kind {
		return p, fmt.Errorf("from %.80q: %w", s, broker.ErrInvalid)
	}
	return p, nil
}

// List implements broker.Queue.
func (q *Queue) List(ctx context.Context, j broker.Job, from string, limit int) (list []broker.Status, next string, err error) {
	at, err := parsePosition(from)
	if err := cmp.Or(context.Cause(ctx), j.Check(), err); err != nil {
		return nil, "", fmt.Errorf("list: %w", err)
	}
	limit = min(cmp.Or(max(limit, 0), 100), broker.MaxBatch)
	err = q.view(j, func(s *step) error {
		looked := 0
		for s.b != nil && at.stage < len(stages) {
			stage := stages[at.stage]
			err := scan(s.b, string(stage.kind), string(at.key), func(k, v []byte) (bool, error) {
				if looked == maxListed {
					next = at.String()
					return false, nil
				}
				looked++
				h, stored, err := s.entry(stage.kind, k, v)
				if err != nil {
					return false, err
				}
				// Time may have ended what is stored.
				if stage.here(stored) && h != nil && h.live() {
					if len(list) == limit {
						next = at.String()
						return false, nil
					}
					list = append(list, h.status())
				}
				at.key = append(at.key[:0], k...)
				return true, nil
			})
			if err != nil || next != "" {
				return err
			}
			at = position{stage: at.stage + 1}
		}
		return nil
	})
	if err != nil {
		return nil, "", err
	}
	return list, next, nil
}

// entry answers the head that an entry of an index is of.
func (s *step) entry(kind byte, k, v []byte) (h, stored *head, err error) {
	var id broker.InvocationID
	if kind == 't' {
		if len(k) <= 1+binary.Size(stamp(0)) {
			return nil, nil, damaged(s.path, k)
		}
		id = broker.InvocationID(k[1+binary.Size(stamp(0)):])
	} else {
		_, value, ok := unseal(k, v)
		if !ok {
			return nil, nil, damaged(s.path, k)
		}
		id = broker.InvocationID(value)
	}
	h, stored, err = s.find(id)
	if err == nil && stored == nil {
		err = damaged(s.path, k)
	}
	return h, stored, err
}
