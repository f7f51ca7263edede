// Package timing measures short things. It imports nothing of the project or of a peer, as both use it.
package timing

import (
	"slices"
	"time"
)

// Median runs op again and again for d, and answers the median of what one took, in ns. before, if it is not nil, is done before
// each and not measured. What takes little more than a look at the clock is measured n at a time.
func Median(d time.Duration, n int, before, op func() error) (float64, error) {
	var took []time.Duration
	for end := time.Now().Add(d); time.Now().Before(end); {
		if before != nil {
			if err := before(); err != nil {
				return 0, err
			}
		}
		began := time.Now()
		for range n {
			if err := op(); err != nil {
				return 0, err
			}
		}
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	return float64(took[len(took)/2]) / float64(n), nil
}
