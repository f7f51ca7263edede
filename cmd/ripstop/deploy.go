package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/ripstop-vm/ripstop/api/client"
	"github.com/ripstop-vm/ripstop/api/model"
	"github.com/ripstop-vm/ripstop/internal/clock"
	"github.com/ripstop-vm/ripstop/manifest"
	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"
)

// manifestNames are the files that `ripstop deploy` looks for in a directory, in this order.
var manifestNames = []string{"ripstop.yaml", "ripstop.yml"}

// maxManifestBytes bounds a manifest that is read, in bytes; the server's bound is the same.
const maxManifestBytes = 1 << 20

// progressAfter is how long an upload takes before its progress is shown.
const progressAfter = time.Second

// deployment is what a deploy's argument turned out to mean.
type deployment struct {
	job      string
	module   string // path; empty: the job's current module
	manifest string // path; empty: the job's current manifest, or the default
	text     []byte // of the manifest, as it is sent
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
			"  ripstop deploy examples/guestbook\n" +
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
		j, err := upload(cmd.Context(), c, d, cmd.ErrOrStderr(), !quiet && !asJSON && isTerminal(cmd.ErrOrStderr()))
		if err != nil {
			return err
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
	text, err := io.ReadAll(io.LimitReader(f, maxManifestBytes+1))
	if err != nil {
		return nil, fmt.Errorf("read manifest: %w", err)
	}
	if len(text) > maxManifestBytes {
		return nil, fmt.Errorf("manifest %s is larger than %s", d.manifest, sizeText(maxManifestBytes))
	}
	// Rules need the functions of the server; it checks them.
	m, err := manifest.Parse(text, nil)
	if err != nil {
		var lines []string
		for _, e := range manifest.Errors(err) {
			lines = append(lines, d.manifest+":"+e.Error())
		}
		if len(lines) == 0 {
			lines = []string{d.manifest + ": " + err.Error()}
		}
		return nil, errors.New(strings.Join(lines, "\n"))
	}
	d.text = text
	return m, nil
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

// upload sends d and waits until it serves.
func upload(ctx context.Context, c *client.Client, d deployment, stderr io.Writer, progress bool) (model.Job, error) {
	u := client.Upload{Manifest: d.text}
	if d.module != "" {
		f, err := os.Open(d.module)
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) && d.manifest != "" {
				err = fmt.Errorf("%w; build it first (the manifest %s names it)", err, d.manifest)
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
		p := &progressReader{in: f, size: info.Size(), out: stderr, shown: !progress, started: clock.System.Now()}
		defer p.clear()
		u.Module, u.Size = p, info.Size()
	}
	return c.Deploy(ctx, d.job, u)
}

// progressReader shows how much was read once reading has taken progressAfter.
type progressReader struct {
	in      io.Reader
	size    int64
	out     io.Writer
	shown   bool // nothing more to decide
	started time.Time
	read    int64
	bar     *progressbar.ProgressBar
}

func (p *progressReader) Read(b []byte) (int, error) {
	n, err := p.in.Read(b)
	p.read += int64(n)
	if !p.shown && clock.System.Now().Sub(p.started) >= progressAfter {
		p.shown = true
		p.bar = progressbar.NewOptions64(p.size, progressbar.OptionSetWriter(p.out), progressbar.OptionShowBytes(true),
			progressbar.OptionSetDescription("uploading"), progressbar.OptionFullWidth(), progressbar.OptionClearOnFinish())
	}
	if p.bar != nil {
		_ = p.bar.Set64(p.read) // a bar that cannot be drawn is no reason to stop
	}
	return n, err
}

func (p *progressReader) clear() {
	if p.bar != nil {
		_ = p.bar.Clear()
	}
}
