package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// server is a `ripstop serve` with data of its own.
type server struct {
	*process
	api, ingress string // URLs
	token        string
	data         string
}

// serve starts a server with what a user gets who gives no further flags.
func (b *bench) serve(ctx context.Context, env ...string) (*server, error) {
	api, err := freeAddress()
	if err != nil {
		return nil, err
	}
	ingress, err := freeAddress()
	if err != nil {
		return nil, err
	}
	data, err := os.MkdirTemp("", "ripstop-bench")
	if err != nil {
		return nil, err
	}
	s := &server{api: "http://" + api, ingress: "http://" + ingress, data: data}
	if s.process, err = b.start(ctx, "ripstop", data, env, b.program(), "serve", "--data", data, "--api", api, "--ingress", ingress); err != nil {
		return nil, errors.Join(err, os.RemoveAll(data))
	}
	var token []byte
	if err = s.answers(ctx, s.api+"/healthz"); err == nil {
		token, err = os.ReadFile(filepath.Join(data, "token"))
	}
	if err != nil {
		s.close()
		return nil, err
	}
	s.token = strings.TrimSpace(string(token))
	return s, nil
}

// close ends the server and removes its data.
func (s *server) close() {
	s.stop()
	_ = os.RemoveAll(s.data) // in the folder for temporary files
}

// deploy deploys a module under a manifest, and answers the job's URL once it serves.
func (s *server) deploy(ctx context.Context, job, manifest string, wasm []byte) (string, error) {
	var body bytes.Buffer
	form := multipart.NewWriter(&body)
	err := form.WriteField("manifest", manifest)
	if err == nil {
		var w io.Writer
		if w, err = form.CreateFormFile("module", "module.wasm"); err == nil {
			_, err = w.Write(wasm)
		}
	}
	if err = errors.Join(err, form.Close()); err != nil {
		return "", err
	}
	if _, err := s.ask(ctx, http.MethodPut, "/v1/jobs/"+job, form.FormDataContentType(), &body); err != nil {
		return "", fmt.Errorf("deploy %s: %w", job, err)
	}
	url := s.ingress + "/" + job + "/"
	return url, s.answers(ctx, url)
}

// ask sends a request to the API and answers the body of a good answer.
func (s *server) ask(ctx context.Context, method, path, contentType string, body io.Reader) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, s.api+path, body)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+s.token)
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	out, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode/100 != 2 {
		err = fmt.Errorf("%s %s: %s: %.300s", method, path, resp.Status, out)
	}
	return out, err
}

var worstPause = regexp.MustCompile(`(?m)^ripstop_worker_go_gc_duration_seconds\{[^}]*quantile="1"[^}]*\} (\S+)$`)

// pause is the worst pause of the worker's garbage collector among its last 256, in ms. Metrics come from the worker every few seconds.
func (s *server) pause(ctx context.Context) (float64, error) {
	out, err := s.ask(ctx, http.MethodGet, "/metrics", "", nil)
	if err != nil {
		return 0, err
	}
	m := worstPause.FindSubmatch(out)
	if m == nil {
		return 0, errors.New("the metrics have no ripstop_worker_go_gc_duration_seconds")
	}
	v, err := strconv.ParseFloat(string(m[1]), 64)
	return v * 1e3, err
}

// resident is the memory of the server's processes, shared pages counted by share, in bytes.
func (s *server) resident() (float64, error) {
	pids, err := descendants(s.cmd.Process.Pid)
	if err != nil {
		return 0, err
	}
	var sum float64
	for _, pid := range pids {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		if err != nil {
			return 0, fmt.Errorf("read the memory of a process: %w", err)
		}
		m := proportional.FindSubmatch(b)
		if m == nil {
			return 0, fmt.Errorf("no Pss of process %d", pid)
		}
		kib, err := strconv.ParseFloat(string(m[1]), 64)
		if err != nil {
			return 0, err
		}
		sum += kib * 1024
	}
	return sum, nil
}

var proportional = regexp.MustCompile(`(?m)^Pss:\s+(\d+) kB`)

// descendants are a process and all that it started.
func descendants(pid int) ([]int, error) {
	all := []int{pid}
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil || len(files) == 0 {
		return nil, fmt.Errorf("find the children of process %d: the system does not tell", pid)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			continue // a thread that has ended
		}
		for _, f := range strings.Fields(string(b)) {
			n, err := strconv.Atoi(f)
			if err != nil {
				return nil, err
			}
			below, err := descendants(n)
			if err != nil {
				return nil, err
			}
			all = append(all, below...)
		}
	}
	return all, nil
}

// settle waits until the server has been left alone for a moment.
func settle(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
