package policy

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"
)

// Transport makes requests as far as a job's Grants allow: the URL is checked for each request, and so at each hop of a
// redirect, and each address when it is dialled. It uses no proxy of the environment, adds no Accept-Encoding and
// decompresses nothing. One Transport serves one job: connections are kept and must not be shared between grants. It is
// safe for concurrent use.
type Transport struct {
	grants *Grants
	base   *http.Transport
}

// NewTransport makes a Transport for g. Close its idle connections when the job ends.
func NewTransport(g *Grants) *Transport {
	d := &net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second, ControlContext: controlContext}
	return &Transport{grants: g, base: &http.Transport{
		Proxy:                  nil,
		DialContext:            d.DialContext,
		ForceAttemptHTTP2:      true,
		DisableCompression:     true,
		TLSHandshakeTimeout:    10 * time.Second,
		ExpectContinueTimeout:  time.Second,
		IdleConnTimeout:        30 * time.Second,
		MaxIdleConns:           32,
		MaxIdleConnsPerHost:    8,
		MaxConnsPerHost:        64,
		MaxResponseHeaderBytes: 64 << 10,
	}}
}

// RoundTrip makes one request. What is not granted is a *RefusedError.
func (t *Transport) RoundTrip(r *http.Request) (*http.Response, error) {
	fg, err := t.grants.FetchGrant(r.URL)
	if err == nil && r.Host != "" && !strings.EqualFold(r.Host, r.URL.Host) {
		// A virtual host behind a granted one has a grant of its own, or none.
		err = &RefusedError{What: "fetch", Name: r.URL.Redacted(), Why: "the Host header names another host"}
	}
	if err != nil {
		if r.Body != nil {
			_ = r.Body.Close() // the contract of RoundTrip; nothing was read from it
		}
		return nil, err
	}
	resp, err := t.base.RoundTrip(r.WithContext(context.WithValue(r.Context(), fetchKey{}, fg)))
	if err == nil && resp.StatusCode < http.StatusOK {
		// What speaks another protocol from here on is no response, and nobody asked for it.
		_ = resp.Body.Close()
		return nil, fmt.Errorf("fetch %s: the server answered %d and changes the protocol", r.URL.Redacted(), resp.StatusCode)
	}
	return resp, err
}

// CloseIdleConnections closes connections that serve no request.
func (t *Transport) CloseIdleConnections() { t.base.CloseIdleConnections() }

// Client is an http.Client over the Transport that hands redirects to its caller: whoever follows one asks again, and the
// grant is checked again. It keeps no cookies.
func (t *Transport) Client() *http.Client {
	return &http.Client{
		Transport:     t,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}
