// Nosy tries what it was not given, and says how each attempt ended. Its manifest grants nothing.
package main

import (
	"fmt"
	"net"
	"net/http"
	"os"

	"github.com/ripstop-vm/ripstop/sdk"
)

func init() { sdk.Handle(http.HandlerFunc(serve)) }

func main() {}

func serve(w http.ResponseWriter, r *http.Request) {
	ctx := r.Context()
	attempts := []struct {
		what string
		try  func() error
	}{
		{"read /etc/passwd", func() error { _, err := os.ReadFile("/etc/passwd"); return err }},
		{"list /", func() error { _, err := os.ReadDir("/"); return err }},
		{"write /tmp/nosy", func() error { return os.WriteFile("/tmp/nosy", []byte("was here"), 0o600) }},
		{"climb to ../../etc/shadow", func() error { _, err := os.ReadFile("../../etc/shadow"); return err }},
		{"read the environment", func() error {
			if env := os.Environ(); len(env) > 0 {
				return nil
			}
			return fmt.Errorf("it is empty")
		}},
		{"fetch http://169.254.169.254/", func() error { return get("http://169.254.169.254/latest/meta-data/") }},
		{"fetch http://127.0.0.1:7070/", func() error { return get("http://127.0.0.1:7070/v1/jobs") }},
		{"fetch https://example.com/", func() error { return get("https://example.com/") }},
		{"dial 192.0.2.1:22", func() error {
			c, err := net.Dial("tcp", "192.0.2.1:22")
			if err == nil {
				err = c.Close()
			}
			return err
		}},
		{"read the bucket guestbook", func() error { _, _, err := sdk.KV("guestbook").Get(ctx, "visits"); return err }},
		{"read the secret api-key", func() error { _, err := sdk.Secret(ctx, "api-key"); return err }},
		{"invoke the job hello", func() error {
			q, err := http.NewRequest(http.MethodGet, "/", nil)
			if err != nil {
				return err
			}
			resp, err := sdk.Invoke("hello", q)
			if err == nil {
				err = resp.Body.Close()
			}
			return err
		}},
		{"enqueue for the job hello", func() error {
			q, err := http.NewRequest(http.MethodPost, "/", nil)
			if err == nil {
				_, err = sdk.Enqueue("hello", q, sdk.EnqueueOptions{})
			}
			return err
		}},
		{"run /bin/sh", func() error { _, err := os.StartProcess("/bin/sh", nil, &os.ProcAttr{}); return err }},
	}
	worked := 0
	for _, a := range attempts {
		if err := a.try(); err != nil {
			fmt.Fprintf(w, "refused  %-30s %v\n", a.what, err)
			continue
		}
		worked++
		fmt.Fprintf(w, "WORKED   %s\n", a.what)
	}
	fmt.Fprintf(w, "\n%d of %d attempts worked.\n", worked, len(attempts))
}

func get(url string) error {
	resp, err := http.Get(url)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}
