package nearest

import "testing"

func TestNearestProposesOnlyWhatIsClose(t *testing.T) {
	words := []string{"memory", "time", "concurrency", "path_open", "Files"}
	for word, want := range map[string]string{
		"memroy": "memory", "tme": "time", "concurency": "concurrency", "path_opn": "path_open",
		"files": "Files", "zebra": "", "": "", "m": "",
	} {
		if got := Of(word, words); got != want {
			t.Errorf("Of(%q) = %q, want %q", word, got, want)
		}
	}
}
