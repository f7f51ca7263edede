package gateway

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/ripstop-vm/ripstop/internal/wire"
	"github.com/ripstop-vm/ripstop/runtime/guest"
)

// told is what answers a client gets to some text, whose parts it sends after a while each, before the server ends the connection; and whether that
// ends it at all.
func told(t *testing.T, h http.Handler, text ...string) (answers []string, ended bool) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := NewServer(h, slog.New(slog.DiscardHandler))
	go func() { _ = s.Serve(l) }()
	defer s.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	for i, part := range text {
		if i > 0 {
			time.Sleep(100 * time.Millisecond) // the server is to have answered the last: it reads what comes later with the next
		}
		_, _ = io.WriteString(c, part) // the server may have ended the connection
	}
	for r := bufio.NewReader(c); ; {
		resp, err := http.ReadResponse(r, nil)
		var late net.Error
		if err != nil {
			return answers, !errors.As(err, &late) || !late.Timeout()
		}
		body, _ := io.ReadAll(resp.Body) // one that is broken off is one all the same
		answers = append(answers, fmt.Sprintf("%d %s", resp.StatusCode, body))
	}
}

// What is behind a chunked body that is malformed is nobody's request, whether the handler reads the body, answers before it does, or fails.
func TestNothingBehindAMalformedBodyIsARequest(t *testing.T) {
	for name, serve := range map[string]agentFunc{
		"it is not read": func(_ guest.ServeInfo, w http.ResponseWriter, r *http.Request) (bool, error) {
			_ = http.NewResponseController(w).EnableFullDuplex()
			_, _ = io.WriteString(w, r.URL.Path)
			return true, nil
		},
		"it is read": func(_ guest.ServeInfo, w http.ResponseWriter, r *http.Request) (bool, error) {
			_ = http.NewResponseController(w).EnableFullDuplex()
			_, _ = io.Copy(io.Discard, r.Body)
			_, _ = io.WriteString(w, r.URL.Path)
			return true, nil
		},
		"it is read while the answer is sent": func(_ guest.ServeInfo, w http.ResponseWriter, r *http.Request) (bool, error) {
			c := http.NewResponseController(w)
			_ = c.EnableFullDuplex()
			_ = c.Flush()
			_, _ = io.Copy(w, r.Body)
			return true, nil
		},
		"the guest fails": func(_ guest.ServeInfo, w http.ResponseWriter, _ *http.Request) (bool, error) {
			_ = http.NewResponseController(w).EnableFullDuplex()
			return false, &wire.Problem{Code: "trap", Status: http.StatusBadGateway}
		},
	} {
		for _, body := range []string{"zz\r\n", "2\r\nabXX", "2\r\nab\r\n-1\r\n"} {
			served := 0
			h := handler(t, func(i guest.ServeInfo, w http.ResponseWriter, r *http.Request) (bool, error) {
				served++
				return serve(i, w, r)
			})
			answers, ended := told(t, h, "POST /j/first HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"+body+"GET /j/second HTTP/1.1\r\nHost: x\r\n\r\n")
			if served != 1 || len(answers) != 1 || !ended {
				t.Errorf("%s: %q is answered by %q, of %d requests; ended: %t", name, body, answers, served, ended)
			}
		}
	}
}

// A connection goes on after a chunked body that was read to its end.
func TestAConnectionGoesOnBehindAWholeBody(t *testing.T) {
	h := handler(t, func(_ guest.ServeInfo, w http.ResponseWriter, r *http.Request) (bool, error) {
		_ = http.NewResponseController(w).EnableFullDuplex()
		_, err := io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(w, r.URL.Path)
		return true, err
	})
	post := "POST /j/x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n"
	answers, _ := told(t, h, post+strings.Replace(post, "Host", "Connection: close\r\nHost", 1))
	if len(answers) != 2 {
		t.Errorf("%q", answers)
	}
}

// A client that does not send all of its body has the answer to a failure at once, and its connection ends soon.
func TestAFailureEndsTheConnectionOfABodyThatDoesNotCome(t *testing.T) {
	h := handler(t, func(guest.ServeInfo, http.ResponseWriter, *http.Request) (bool, error) {
		return false, &wire.Problem{Code: "deadline", Status: http.StatusGatewayTimeout}
	})
	if answers, ended := told(t, h, "POST /j/ HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\nabc"); len(answers) != 1 || !ended {
		t.Errorf("%q, ended: %t", answers, ended)
	}
}

// The rest of a body that comes after the answer is no request either.
func TestWhatIsLeftOfABodyIsNoRequest(t *testing.T) {
	served := 0
	h := handler(t, func(_ guest.ServeInfo, w http.ResponseWriter, r *http.Request) (bool, error) {
		served++
		c := http.NewResponseController(w)
		_ = c.EnableFullDuplex()
		_ = c.SetReadDeadline(time.Unix(1, 0)) // as package guest gives up a body
		_ = r.Body.Close()
		_ = c.SetReadDeadline(time.Time{})
		_, _ = io.WriteString(w, r.URL.Path)
		return true, nil
	})
	rest := "GET /j/second HTTP/1.1\r\nHost: x\r\n\r\n"
	answers, ended := told(t, h, fmt.Sprintf("POST /j/first HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n", 1+len(rest)), "x", rest)
	if served != 1 || len(answers) != 1 || !ended {
		t.Errorf("it is answered by %q, of %d requests; ended: %t", answers, served, ended)
	}
}
