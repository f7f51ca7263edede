// Package nearest finds the word that someone meant.
package nearest

import "strings"

// Of answers the candidate closest to word, or "" if none is close enough to be worth proposing: at most a third of the
// word may differ. Case counts less than letters. The first of equals wins.
func Of(word string, candidates []string) string {
	if len(word) > 128 {
		return ""
	}
	best, most := "", 2*max(1, len(word)/3)+1
	for _, c := range candidates {
		if len(c) > 128 {
			continue
		}
		d := 2 * distance(strings.ToLower(word), strings.ToLower(c))
		if d == 0 && word != c {
			d = 1
		}
		if d < most {
			best, most = c, d
		}
	}
	return best
}

// distance is the number of letters to insert, remove, replace or swap with a neighbour (optimal string alignment).
func distance(a, b string) int {
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}
