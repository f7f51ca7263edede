package sdk

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

func TestWhatCannotBeEnqueuedIsNotAskedFor(t *testing.T) {
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	tape := errors.New("the tape tore")
	for what, c := range map[string]struct {
		ctx  context.Context
		body io.Reader
		o    EnqueueOptions
		want error
	}{
		"a good one, without a host": {t.Context(), strings.NewReader("x"), EnqueueOptions{Key: "k", Delay: time.Second}, ErrNoHost},
		"the longest body":           {t.Context(), strings.NewReader(strings.Repeat("x", MaxQueuedBody)), EnqueueOptions{}, ErrNoHost},
		"one that is longer":         {t.Context(), strings.NewReader(strings.Repeat("x", MaxQueuedBody+1)), EnqueueOptions{}, ErrTooLong},
		"one that fails":             {t.Context(), io.MultiReader(strings.NewReader("x"), failing{tape}), EnqueueOptions{}, tape},
		"a negative delay":           {t.Context(), nil, EnqueueOptions{Delay: -1}, errNegative},
		"a negative deadline":        {t.Context(), nil, EnqueueOptions{Deadline: -1}, errNegative},
		"a negative priority":        {t.Context(), nil, EnqueueOptions{Priority: -1}, errNegative},
		"nobody who waits":           {cancelled, nil, EnqueueOptions{}, context.Canceled},
	} {
		r, err := http.NewRequestWithContext(c.ctx, "PUT", "/a?b=c", c.body)
		if err != nil {
			t.Fatal(err)
		}
		_, err = Enqueue("other", r, c.o)
		var op *OpError
		if !errors.Is(err, c.want) || !errors.As(err, &op) || op.Op != "enqueue" || op.Name != "other" {
			t.Errorf("%s: %v, want %v", what, err, c.want)
		}
	}
}

// failing fails to be read.
type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }
