package sdk

import (
	"net/http"
	"strings"
	"testing"
)

func FuzzContentType(f *testing.F) {
	for _, s := range []string{
		"", "Hello, world!\n", "{\"a\": 1}", "\n<html>", "<!DOCTYPE HTML>", "%PDF-1", "GIF89a", "RIFF....WEBPVP", "PK\x03\x04", "wOFF", "OTTO", "ttcf", "größer", "\xef\xbb\xbfx",
		"a\x00", "a\x0b", "\x7f", "a\x1bb", strings.Repeat("a", 34) + "LP", strings.Repeat("a", 511) + "\x00", strings.Repeat("a", 512) + "\x00",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if got, want := contentType(b), http.DetectContentType(b); got != want {
			t.Errorf("%q is %s, want %s", b, got, want)
		}
	})
}
