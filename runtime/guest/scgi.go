package guest

import (
	"strconv"
	"strings"
)

// scgiHeader is what comes before a request's body in SCGI: the variables, each "NAME=value" of meta, as a netstring of NUL-terminated
// names and values, the length of the body first. A length that is not known (-1) is an empty value: the body goes on to the end of the
// input.
func scgiHeader(meta []string, length int64) []byte {
	value := ""
	if length >= 0 {
		value = strconv.FormatInt(length, 10)
	}
	all := append(make([]string, 0, len(meta)+2), "CONTENT_LENGTH="+value, "SCGI=1")
	for _, kv := range meta {
		if !strings.HasPrefix(kv, "CONTENT_LENGTH=") {
			all = append(all, kv)
		}
	}
	size := 0
	for _, kv := range all {
		size += len(kv) + 1 // the "=" becomes a NUL, and another ends the value
	}
	b := strconv.AppendInt(make([]byte, 0, size+16), int64(size), 10)
	b = append(b, ':')
	for _, kv := range all {
		name, value, _ := strings.Cut(kv, "=")
		b = append(append(append(append(b, name...), 0), value...), 0)
	}
	return append(b, ',')
}
