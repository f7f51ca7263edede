package identity

import (
	"crypto/x509"
	"errors"
	"net/url"
	"strings"
	"testing"
)

func TestAnIdentityHasOneForm(t *testing.T) {
	for _, good := range []string{"host/a", "gateway/edge-1", "control/c.example", "host/" + strings.Repeat("a", MaxID)} {
		if i, err := Parse(good); err != nil || i.String() != good {
			t.Errorf("%q reads %s, %v", good, i, err)
		}
	}
	for _, bad := range []string{"", "host", "host/", "/a", "root/a", "Host/a", "host/A", "host/a/b", "host/../a", "host/-a", "host/a.", "host/a b", "host/é", "host/" + strings.Repeat("a", MaxID+1)} {
		if i, err := Parse(bad); !errors.Is(err, ErrInvalid) {
			t.Errorf("%q reads %s, %v", bad, i, err)
		}
	}
}

func TestACertificateNamesOne(t *testing.T) {
	parse := func(uris ...string) *x509.Certificate {
		c := &x509.Certificate{}
		for _, s := range uris {
			u, err := url.Parse(s)
			if err != nil {
				t.Fatal(err)
			}
			c.URIs = append(c.URIs, u)
		}
		return c
	}
	want := Identity{Host, "a"}
	if i, err := Of(parse(want.URI().String())); err != nil || i != want {
		t.Errorf("its own URI reads %s, %v", i, err)
	}
	for _, bad := range [][]string{nil, {"ripstop://host/a", "ripstop://host/b"}, {"https://host/a"}, {"ripstop://host/a?b"}, {"ripstop://u@host/a"}, {"ripstop://host/a#b"}, {"ripstop://host"}, {"ripstop:host/a"}, {"ripstop://host//a"}, {"ripstop://root/a"}} {
		if i, err := Of(parse(bad...)); !errors.Is(err, ErrInvalid) {
			t.Errorf("%q reads %s, %v", bad, i, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"host/a", "gateway/b.c", "x", "host/%2e"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		i, err := Parse(s)
		if err != nil {
			return
		}
		u, err := url.Parse(i.URI().String())
		if err != nil {
			t.Fatal(err)
		}
		if back, err := Of(&x509.Certificate{URIs: []*url.URL{u}}); err != nil || back != i || i.String() != s {
			t.Errorf("%q reads %s, and from a certificate %s, %v", s, i, back, err)
		}
	})
}
