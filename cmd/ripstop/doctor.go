package main

import (
	"errors"
	"fmt"
	"io"
	goruntime "runtime"
	"time"

	"github.com/spf13/cobra"

	"github.com/ripstop-vm/ripstop/agent/wall"
	"github.com/ripstop-vm/ripstop/runtime/image"
	"github.com/ripstop-vm/ripstop/runtime/processor"
)

// diagnosis is what `ripstop doctor` found. A check that does not hold has a cost.
type diagnosis struct {
	Version string         `json:"version"`
	Go      string         `json:"go"`
	OS      string         `json:"os"`
	Arch    string         `json:"arch"`
	Kernel  string         `json:"kernel,omitempty"`
	Checks  []wall.Measure `json:"checks"`
}

func newDoctorCommand() *cobra.Command {
	var asJSON bool
	var r remote
	var f brokerFlags
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Say what holds on this machine, and what each absence costs",
		Long: "Say what holds on this machine: what a server's worker would be confined with, how sandboxes return to their images,\n" +
			"and the limits that bound how many there can be; and how the state is: of a running server as that tells it, else of the data\n" +
			"directory, whose files are read through. Nothing is changed. Run it as the user that the server runs as.",
		Example: "  ripstop doctor\n  ripstop doctor --data /var/lib/ripstop --broker redis://127.0.0.1:6379\n  ripstop doctor --json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			d := diagnose()
			d.Checks = append(d.Checks, brokerChecks(cmd, &r, &f)...)
			if asJSON {
				return printJSON(cmd.OutOrStdout(), d)
			}
			return d.print(cmd.OutOrStdout())
		},
	}
	r.addFlags(cmd)
	f.addURL(cmd)
	jsonFlag(cmd, &asJSON)
	return cmd
}

func diagnose() diagnosis {
	b := readBuildInfo()
	d := diagnosis{Version: b.Version, Go: b.Go, OS: b.OS, Arch: b.Arch, Kernel: kernelVersion()}
	d.Checks = append(d.Checks, wall.Probe()...)
	d.Checks = append(d.Checks, imageCheck(), processorCheck(goruntime.NumCPU()), threadCheck())
	d.Checks = append(d.Checks, platformChecks()...)
	return d
}

// check is a measure that holds if err is nil; cost is what it costs otherwise.
func check(name, detail, cost string, err error) wall.Measure {
	if err != nil {
		return wall.Measure{Name: name, Detail: err.Error(), Cost: cost}
	}
	return wall.Measure{Name: name, Holds: true, Detail: detail}
}

// imageCheck tries the ways in which a sandbox can return to its image.
func imageCheck() wall.Measure {
	const name, cost = "PAGEMAP_SCAN", "sandboxes return to their image more slowly"
	trials, err := image.Probe()
	if err != nil {
		return check(name, "", cost, err)
	}
	var scan error
	var chosen image.Trial
	for _, t := range trials {
		if t.Method == image.Scan {
			scan = t.Err
		}
		if t.Chosen {
			chosen = t
		}
	}
	use := fmt.Sprintf("a return to an image takes %v by %v", chosen.Took.Round(100*time.Nanosecond), chosen.Method)
	if scan != nil {
		scan = fmt.Errorf("%w; %s", scan, use)
	}
	return check(name, use, cost, scan)
}

// processorCheck says whether guests can compute beside the rest of the server.
func processorCheck(cores int) wall.Measure {
	var err error
	if cores < 2 {
		err = errors.New("one core")
	}
	return check("processors", fmt.Sprintf("%d cores", cores), "a guest that computes delays every request", err)
}

// threadCheck says how guests that compute for long are kept behind requests.
func threadCheck() wall.Measure {
	err := processor.ProbeThreads()
	cost := "guests run in goroutines of their own, whose threads may end with them: a fourteenth more time for a short request"
	if errors.Is(err, errors.ErrUnsupported) {
		cost = "guests that compute for long run on one core fewer"
	}
	return check("thread priority", "threads of guests that compute for long run behind others, and come back", cost, err)
}

// print writes a line for each check, and below them what is missing.
func (d diagnosis) print(w io.Writer) error {
	kernel := d.Kernel
	if kernel == "" {
		kernel = d.OS
	}
	if _, err := fmt.Fprintf(w, "ripstop %s, %s, %s, %s\n\n", d.Version, d.Go, escapeLine(kernel), d.Arch); err != nil {
		return err
	}
	rows := [][]string{{"CHECK", "HOLDS", "DETAIL"}}
	missing := 0
	for _, c := range d.Checks {
		holds := "yes"
		if !c.Holds {
			holds = "no"
			missing++
		}
		rows = append(rows, []string{c.Name, holds, c.Detail})
	}
	if err := table(w, rows); err != nil {
		return err
	}
	if missing == 0 {
		_, err := fmt.Fprintln(w, "\nEverything holds.")
		return err
	}
	if _, err := fmt.Fprintln(w, "\nWhat is missing costs:"); err != nil {
		return err
	}
	for _, c := range d.Checks {
		if !c.Holds {
			if _, err := fmt.Fprintf(w, "  %s: %s\n", c.Name, c.Cost); err != nil {
				return err
			}
		}
	}
	return nil
}
