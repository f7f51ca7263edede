package main

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/labstack/echo/v4"
)

// rival is a server that answers a short text.
type rival struct {
	name, url string
	stop      func()
}

// endpoints measures requests a second of a deployed guest, beside a bare echo server and workerd.
func endpoints(root string, d time.Duration, rounds int) ([]Figure, error) {
	var rivals []rival
	defer func() {
		for _, r := range rivals {
			r.stop()
		}
	}()
	bare, err := bareEcho()
	if err != nil {
		return nil, err
	}
	rivals = append(rivals, bare)
	ours, err := ripstop(root)
	if err != nil {
		return nil, err
	}
	rivals = append(rivals, ours)
	note := ""
	if w, err := workerd(root); err != nil {
		note = "workerd left out: " + err.Error()
		fmt.Fprintln(os.Stderr, "bench:", note)
	} else {
		rivals = append(rivals, w)
	}
	rates := map[string][]float64{}
	for range rounds { // interleaved, so that a noisy moment hits all of them
		for _, r := range rivals {
			rate, err := load(r.url, d)
			if err != nil {
				return nil, err
			}
			rates[r.name] = append(rates[r.name], rate)
		}
	}
	rate := median(rates["ripstop"])
	figs := []Figure{{Name: "endpoint, Go guest, fresh sandbox each request", Value: rate, Unit: "requests/s", Against: "bare echo server",
		Ratio: rate / median(rates["echo"]), Target: "≥ 0.8", Note: note}}
	if w := median(rates["workerd"]); w > 0 {
		figs = append(figs, Figure{Name: "endpoint, Go guest, fresh sandbox each request", Value: rate, Unit: "requests/s", Against: "workerd", Ratio: rate / w, Target: "≥ 2.5"})
	}
	return figs, nil
}

func bareEcho() (rival, error) {
	e := echo.New()
	e.HideBanner, e.HidePort = true, true
	e.GET("/", func(c echo.Context) error { return c.String(http.StatusOK, "hello, world\n") })
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return rival{}, err
	}
	s := &http.Server{Handler: e}
	go func() { _ = s.Serve(l) }()
	return rival{"echo", "http://" + l.Addr().String() + "/", func() { _ = s.Close() }}, nil
}

// start runs a program until stop, in a process group of its own.
func start(dir, log string, env []string, name string, args ...string) (func(), error) {
	out, err := os.Create(log)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(name, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, out, out
	cmd.Env = append(os.Environ(), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM)
		_ = cmd.Wait()
		_ = out.Close()
	}, nil
}

func ripstop(root string) (rival, error) {
	root, err := filepath.Abs(root)
	if err != nil {
		return rival{}, err
	}
	api, err := freeAddr()
	if err != nil {
		return rival{}, err
	}
	ingress, err := freeAddr()
	if err != nil {
		return rival{}, err
	}
	data, err := os.MkdirTemp("", "ripstop-bench")
	if err != nil {
		return rival{}, err
	}
	bin := filepath.Join(root, "bin", "ripstop")
	env := []string{"RIPSTOP_DATA=" + data, "RIPSTOP_SERVER=http://" + api}
	stop, err := start(root, filepath.Join(data, "log"), env, bin, "serve", "--api", api, "--ingress", ingress)
	if err != nil {
		return rival{}, err
	}
	end := func() { stop(); _ = os.RemoveAll(data) }
	if err := waitFor("http://" + api + "/healthz"); err != nil {
		end()
		return rival{}, err
	}
	cmd := exec.Command(bin, "deploy", "--name", "hello", filepath.Join(root, "bin", "examples", "hello.wasm"))
	cmd.Env = append(os.Environ(), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		end()
		return rival{}, fmt.Errorf("deploy: %w: %s", err, out)
	}
	return rival{"ripstop", "http://" + ingress + "/hello/", end}, nil
}

const workerConfig = `using Workerd = import "/workerd/workerd.capnp";
const config :Workerd.Config = (
  services = [ (name = "main", worker = (modules = [ (name = "w", esModule = embed "worker.js") ], compatibilityDate = "2024-01-01")) ],
  sockets = [ (name = "http", address = "%s", http = (), service = "main") ],
);
`

// workerd installs workerd from npm into a folder of its own, once, and serves a Worker that returns a string.
func workerd(root string) (rival, error) {
	dir, err := filepath.Abs(filepath.Join(root, ".cache", "workerd"))
	if err != nil {
		return rival{}, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return rival{}, err
	}
	bin := filepath.Join(dir, "node_modules", ".bin", "workerd")
	if _, err := os.Stat(bin); err != nil {
		cmd := exec.Command("npm", "install", "--no-audit", "--no-fund", "--prefix", dir, "workerd")
		if out, err := cmd.CombinedOutput(); err != nil {
			return rival{}, fmt.Errorf("npm install workerd: %w: %.200s", err, out)
		}
	}
	addr, err := freeAddr()
	if err != nil {
		return rival{}, err
	}
	files := map[string]string{
		"config.capnp": fmt.Sprintf(workerConfig, addr),
		"worker.js":    `export default { fetch() { return new Response("hello, world\n"); } };`,
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return rival{}, err
		}
	}
	stop, err := start(dir, filepath.Join(dir, "log"), nil, bin, "serve", "config.capnp")
	if err != nil {
		return rival{}, err
	}
	time.Sleep(200 * time.Millisecond)
	if err := waitFor("http://" + addr + "/"); err != nil {
		stop()
		return rival{}, err
	}
	return rival{"workerd", "http://" + addr + "/", stop}, nil
}
