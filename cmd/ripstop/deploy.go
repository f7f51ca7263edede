package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/ripstop-vm/ripstop/api/client"
	"github.com/ripstop-vm/ripstop/api/model"
	"github.com/ripstop-vm/ripstop/internal/clock"
	"github.com/ripstop-vm/ripstop/manifest"
	"github.com/ripstop-vm/ripstop/runtime/guest"
	"github.com/ripstop-vm/ripstop/runtime/hostcall"
	"github.com/spf13/cobra"
)

// manifestNames are the files that `ripstop deploy` looks for in a directory, in this order.
var manifestNames = []string{"ripstop.yaml", "ripstop.yml"}

// deployment is what a deploy's argument turned out to mean.
type deployment struct {
	job      string
	module   string // path; empty: the job's current module
	manifest string // path; empty: the job's current manifest, or the default
	text     []byte // of the manifest, as it is sent
	renamed  bool   // text is not the file's own: positions in it say nothing
}

func newDeployCommand() *cobra.Command {
	var name, manifestPath string
	var quiet, asJSON bool
	cmd := &cobra.Command{
		Use:   "deploy [FILE.wasm | DIRECTORY | ripstop.yaml]",
		Short: "Upload a module and print the URL it answers at",
		Long: "Deploys a module, a directory with a ripstop.yaml (the current one if none is named), or a ripstop.yaml. A module is\n" +
			"deployed with the ripstop.yaml beside it if that names this very module; otherwise the job keeps its manifest,\n" +
			"and a new job gets the default one. A ripstop.yaml without a module keeps the job's current module.\n" +
			"The job's name is --name, the manifest's, or the module file's. The command returns when the version serves.",
		Example: "  ripstop deploy hello.wasm\n" +
			"  ripstop deploy ./guestbook              # has a ripstop.yaml, and the module that this names\n" +
			"  ripstop deploy --manifest examples/guestbook/ripstop.yaml bin/examples/guestbook.wasm\n" +
			"  ripstop deploy --name staging-hello hello.wasm\n" +
			"  curl \"$(ripstop deploy hello.wasm)\"",
		Args: cobra.MaximumNArgs(1),
	}
	cmd.Flags().StringVar(&name, "name", "", "the job's name")
	cmd.Flags().StringVar(&manifestPath, "manifest", "", "deploy the module under this manifest")
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "print the URL and nothing else")
	jsonFlag(cmd, &asJSON)
	return remoteCommand(cmd, func(cmd *cobra.Command, c *client.Client, args []string) error {
		target := "."
		if len(args) == 1 {
			target = args[0]
		}
		d, err := plan(target, name, manifestPath)
		if err != nil {
			return exitError{exitUsage, err}
		}
		say := func(format string, args ...any) {
			if !quiet && !asJSON {
				fmt.Fprintf(cmd.ErrOrStderr(), format+"\n", args...)
			}
		}
		if d.manifest != "" {
			say("manifest %s", escapeLine(d.manifest))
		}
		j, err := upload(cmd.Context(), c, d, cmd.ErrOrStderr(), !quiet && !asJSON)
		if err != nil {
			return d.locate(err)
		}
		if asJSON {
			return printJSON(cmd.OutOrStdout(), j)
		}
		say("%s version %d (%s, %s) is live", escapeLine(j.Name), j.Version, escapeLine(j.Kind), sizeText(j.Size))
		_, err = fmt.Fprintln(cmd.OutOrStdout(), escapeLine(j.Url))
		return err
	})
}

// plan finds out what target means. It reads a manifest and opens no module.
func plan(target, name, manifestPath string) (deployment, error) {
	d := deployment{manifest: manifestPath}
	info, err := os.Stat(target)
	if err != nil {
		return d, fmt.Errorf("find what to deploy: %w", err)
	}
	ext := strings.ToLower(filepath.Ext(target))
	switch {
	case info.IsDir():
		if d.manifest == "" {
			if d.manifest = findManifest(target); d.manifest == "" {
				return d, fmt.Errorf("%s has no %s; name a .wasm file, or write one", target, manifestNames[0])
			}
		}
	case ext == ".yaml" || ext == ".yml" || ext == ".json":
		if d.manifest != "" {
			return d, fmt.Errorf("%s and --manifest %s are both manifests; name one", target, d.manifest)
		}
		d.manifest = target
	default:
		d.module = target
	}
	var m *manifest.Manifest
	if d.manifest != "" {
		if m, err = d.read(); err != nil {
			return d, err
		}
		if d.module == "" && m.Module != "" {
			d.module = modulePath(d.manifest, m)
		}
	} else if beside := findManifest(filepath.Dir(d.module)); beside != "" {
		// Only a manifest that says so belongs to this module. One that cannot be read is not ours to report.
		own := deployment{manifest: beside}
		if found, err := own.read(); err == nil && found.Module != "" && sameFile(modulePath(beside, found), d.module) {
			d.manifest, d.text, m = beside, own.text, found
		}
	}
	switch {
	case name != "":
		d.job = name
	case m != nil && m.Name != "":
		d.job = m.Name
	case d.module != "":
		d.job = labelOf(d.module)
	}
	if d.job == "" {
		return d, errors.New("the job has no name: give --name NAME, or `name:` in the manifest")
	}
	if err := manifest.CheckName(d.job); err != nil {
		return d, fmt.Errorf("job name %q: %w; give another with --name", d.job, err)
	}
	if m != nil && m.Name != "" && m.Name != d.job {
		// --name deploys the same manifest under another name. Its text is written anew, as names in it must agree.
		renamed := *m
		renamed.Name = d.job
		if d.text, err = renamed.JSON(); err != nil {
			return d, err
		}
		d.renamed = true
	}
	return d, nil
}

// read reads the manifest's text, and parses it, so that mistakes are found before a long upload.
func (d *deployment) read() (*manifest.Manifest, error) {
	f, err := os.Open(d.manifest)
	if err != nil {
		return nil, fmt.Errorf("read manifest: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, manifest.MaxBytes+1))
	if err != nil {
		return nil, fmt.Errorf("read manifest: %w", err)
	}
	if len(text) > manifest.MaxBytes {
		return nil, fmt.Errorf("manifest %s is larger than %s", d.manifest, sizeText(manifest.MaxBytes))
	}
	m, err := manifest.Parse(text, nil)
	if err != nil {
		// All problems at once: those of the rules, too. In a manifest that is otherwise right the rules are for the server to
		// check, which may offer other functions than this program knows.
		table, failed := hostcall.NewTable(guest.Libraries()...)
		if failed != nil {
			return nil, failed
		}
		_, err = manifest.Parse(text, table)
		var lines []string
		for _, e := range manifest.Errors(err) {
			lines = append(lines, d.at(e.Error()))
		}
		if len(lines) == 0 {
			lines = []string{d.at(err.Error())}
		}
		return nil, errors.New(strings.Join(lines, "\n"))
	}
	d.text = text
	return m, nil
}

// position is where in a manifest a problem is: line and column.
var position = regexp.MustCompile(`^\d+:\d+: `)

// at puts the manifest's name before a problem of it.
func (d *deployment) at(problem string) string {
	where := position.FindString(problem)
	if where == "" || d.renamed {
		return d.manifest + ": " + strings.TrimPrefix(problem, where)
	}
	return d.manifest + ":" + problem
}

// locate names the file that a server's refusal is about.
func (d *deployment) locate(err error) error {
	p, ok := errors.AsType[*model.Problem](err)
	if !ok {
		return err
	}
	about := *p
	switch {
	case p.Code == "manifest-invalid" && d.manifest != "":
		lines := strings.Split(p.Detail, "\n")
		for i := range lines {
			lines[i] = d.at(lines[i])
		}
		about.Detail = strings.Join(lines, "\n")
	case strings.HasPrefix(p.Code, "module-") && d.module != "":
		about.Detail = d.module + ": " + p.Detail
	default:
		return err
	}
	return &about
}

func findManifest(dir string) string {
	for _, name := range manifestNames {
		path := filepath.Join(dir, name)
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() {
			return path
		}
	}
	return ""
}

// modulePath is the module that m names, relative to the manifest's own place.
func modulePath(manifestPath string, m *manifest.Manifest) string {
	if filepath.IsAbs(m.Module) {
		return m.Module
	}
	return filepath.Join(filepath.Dir(manifestPath), m.Module)
}

func sameFile(a, b string) bool {
	x, err := os.Stat(a)
	if err != nil {
		return false
	}
	y, err := os.Stat(b)
	return err == nil && os.SameFile(x, y)
}

// labelOf makes a job's name of a module's file name: My_App.wasm is my-app.
func labelOf(path string) string {
	base := strings.TrimSuffix(filepath.Base(path), filepath.Ext(path))
	var b strings.Builder
	for _, r := range strings.ToLower(base) {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			b.WriteRune(r)
		} else {
			b.WriteByte('-')
		}
	}
	return strings.Trim(b.String(), "-")
}

// upload sends d and waits until it serves. With show, stderr hears how far it is.
func upload(ctx context.Context, c *client.Client, d deployment, stderr io.Writer, show bool) (model.Job, error) {
	u := client.Upload{Manifest: d.text}
	if d.module != "" {
		f, err := os.Open(d.module)
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) && d.manifest != "" {
				err = fmt.Errorf("%w; build it first (the manifest %s names it), or name the one there is: ripstop deploy --manifest %[2]s FILE.wasm", err, d.manifest)
			}
			return model.Job{}, exitError{exitUsage, fmt.Errorf("open module: %w", err)}
		}
		defer f.Close()
		info, err := f.Stat()
		if err != nil {
			return model.Job{}, fmt.Errorf("open module: %w", err)
		}
		if !info.Mode().IsRegular() {
			return model.Job{}, exitError{exitUsage, fmt.Errorf("module %s is no regular file", d.module)}
		}
		u.Module, u.Size = f, info.Size()
	}
	if show {
		p := startProgress(stderr, isTerminal(stderr), deploying, u.Size, clock.System)
		defer p.stop()
		if u.Module != nil {
			u.Module = p.reader(u.Module)
		}
	}
	return c.Deploy(ctx, d.job, u)
}
