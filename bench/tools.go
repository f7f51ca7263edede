package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

// find is the path of a program that is not of this project.
func find(program, install string) (string, error) {
	path, err := exec.LookPath(program)
	if err != nil {
		return "", missingError{"there is no " + program, install}
	}
	return path, nil
}

// npm installs a package into a folder of its own, once, and answers the path of a file that matches a pattern in it.
func (b *bench) npm(ctx context.Context, name, pattern string) (string, error) {
	dir := filepath.Join(b.cache, "npm-"+filepath.Base(name))
	look := func() string {
		found, _ := filepath.Glob(filepath.Join(dir, "node_modules", filepath.FromSlash(pattern))) // the pattern is one of ours
		if len(found) == 0 {
			return ""
		}
		return found[0]
	}
	if path := look(); path != "" {
		return path, nil
	}
	tool, err := find("npm", "install Node.js (Debian: apt-get install npm)")
	if err != nil {
		return "", err
	}
	b.say("  npm install %s", name)
	if _, err := output(ctx, b.cache, nil, tool, "install", "--no-audit", "--no-fund", "--prefix", dir, name); err != nil {
		return "", missingError{err.Error(), "npm has to reach a registry"}
	}
	path := look()
	if path == "" {
		return "", missingError{name + " has no program for this machine", "see its page on npmjs.com"}
	}
	return path, nil
}

// testBinary builds the tests of one of the project's packages.
func (b *bench) testBinary(ctx context.Context, pkg string) error {
	_, err := output(ctx, b.root, nil, "go", "test", "-c", "-o", b.testPath(pkg), "./"+pkg)
	return err
}

func (b *bench) testPath(pkg string) string {
	return filepath.Join(b.cache, strings.ReplaceAll(pkg, "/", "-")+".test")
}

// testBench runs benchmarks of one of the project's packages and answers what they report, as "name unit".
func (b *bench) testBench(ctx context.Context, pkg, pattern, benchtime string) (values, error) {
	out, err := output(ctx, filepath.Join(b.root, filepath.FromSlash(pkg)), nil, b.testPath(pkg),
		"-test.run", "^$", "-test.bench", pattern, "-test.benchmem", "-test.benchtime", benchtime)
	if err != nil {
		return nil, err
	}
	vs := values{}
	for l := range strings.Lines(string(out)) {
		fields := strings.Fields(l)
		if len(fields) < 4 || !strings.HasPrefix(fields[0], "Benchmark") {
			continue
		}
		name := suffix.ReplaceAllString(strings.TrimPrefix(fields[0], "Benchmark"), "")
		for i := 2; i+1 < len(fields); i += 2 {
			v, err := strconv.ParseFloat(fields[i], 64)
			if err != nil {
				return nil, fmt.Errorf("read %q: %w", l, err)
			}
			vs[name+" "+fields[i+1]] = v
		}
	}
	if len(vs) == 0 {
		return nil, fmt.Errorf("no benchmark of %s matches %q", pkg, pattern)
	}
	return vs, nil
}

var suffix = regexp.MustCompile(`-\d+$`) // GOMAXPROCS

// buildGuest builds a Go program in a folder of the project as a guest; reactor says that it exports functions instead of main.
func (b *bench) buildGuest(ctx context.Context, dir string, reactor bool) error {
	args := []string{"build", "-o", b.guest(filepath.Base(dir))}
	if reactor {
		args = append(args, "-buildmode=c-shared")
	}
	_, err := output(ctx, filepath.Join(b.root, filepath.FromSlash(dir)), []string{"GOOS=wasip1", "GOARCH=wasm", "CGO_ENABLED=0"}, "go", append(args, ".")...)
	return err
}

// buildC builds a C program with the system's WASI library as a guest.
func (b *bench) buildC(ctx context.Context, file string, flags ...string) error {
	const install = "Debian: apt-get install clang lld wasi-libc libclang-rt-dev-wasm32"
	clang, err := find("clang", install)
	if err != nil {
		return err
	}
	name := strings.TrimSuffix(filepath.Base(file), ".c")
	args := append([]string{"--target=wasm32-wasi", "-O2", "-o", b.guest(name), filepath.Join(b.root, "bench", filepath.FromSlash(file))}, flags...)
	if _, err := output(ctx, b.cache, nil, clang, args...); err != nil {
		if ctx.Err() != nil {
			return err
		}
		return missingError{err.Error(), install}
	}
	return nil
}

// guest is where the guest of that name is built.
func (b *bench) guest(name string) string { return filepath.Join(b.cache, name+".wasm") }

// buildServer builds the program itself.
func (b *bench) buildServer(ctx context.Context) error {
	_, err := output(ctx, b.root, []string{"CGO_ENABLED=0"}, "go", "build", "-o", b.program(), "./cmd/ripstop")
	return err
}

func (b *bench) program() string { return filepath.Join(b.cache, "ripstop") }

func readFile(path string) ([]byte, error) {
	out, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read what was built: %w", err)
	}
	return out, nil
}
