package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/ripstop-vm/ripstop/api/client"
	"github.com/ripstop-vm/ripstop/api/model"
	"github.com/ripstop-vm/ripstop/internal/clock"
)

// How often a command asks whether an invocation has ended: soon at first, then every second.
const (
	firstPoll = 50 * time.Millisecond
	lastPoll  = time.Second
)

// asyncOptions are the flags of `ripstop invoke --async`.
type asyncOptions struct {
	async, wait                          bool
	key, order, delay, deadline, ttl, to string
	priority, attempts                   int
}

func (o *asyncOptions) addFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.BoolVar(&o.async, "async", false, "queue the request and print its invocation's id, once it is durable")
	f.BoolVar(&o.wait, "wait", false, "with --async: wait for the result and print it")
	f.StringVar(&o.key, "key", "", "with --async: idempotency key; the same key again changes nothing")
	f.StringVar(&o.order, "order", "", "with --async: invocations with the same order run one after another")
	f.StringVar(&o.delay, "delay", "", "with --async: start no sooner than in so long, such as 90s")
	f.StringVar(&o.deadline, "deadline", "", "with --async: give up after so long")
	f.StringVar(&o.ttl, "ttl", "", "with --async: keep the result for so long")
	f.StringVar(&o.to, "callback", "", "with --async: URL that is told of the end")
	f.IntVar(&o.priority, "priority", 0, "with --async: 0 to 9; higher ones start first")
	completeWith(cmd, "priority", "0", "1", "2", "3", "4", "5", "6", "7", "8", "9")
	f.IntVar(&o.attempts, "attempts", 0, "with --async: at most so many attempts (default as the manifest says)")
}

// check refuses flags that say nothing without --async, and a number of attempts that would stand for the manifest's.
func (o *asyncOptions) check(cmd *cobra.Command) error {
	if o.async {
		if cmd.Flags().Changed("attempts") && o.attempts < 1 {
			return usageError(cmd, fmt.Errorf("--attempts %d is below 1", o.attempts))
		}
		return nil
	}
	for _, name := range []string{"wait", "key", "order", "delay", "deadline", "ttl", "callback", "priority", "attempts"} {
		if cmd.Flags().Changed(name) {
			return usageError(cmd, fmt.Errorf("--%s needs --async", name))
		}
	}
	return nil
}

// invocation makes what is to be queued of a request and the flags.
func (o *asyncOptions) invocation(r *http.Request, path string) client.NewInvocation {
	if !strings.HasPrefix(path, "/") {
		path = "/" + path
	}
	v := client.NewInvocation{Header: r.Header, Body: r.Body, Params: model.EnqueueInvocationParams{Method: &r.Method, Path: &path}}
	for to, s := range map[**string]string{&v.Params.IdempotencyKey: o.key, &v.Params.Order: o.order, &v.Params.Delay: o.delay, &v.Params.Deadline: o.deadline, &v.Params.Ttl: o.ttl, &v.Params.Callback: o.to} {
		if s != "" {
			*to = &s
		}
	}
	if o.priority != 0 {
		v.Params.Priority = &o.priority
	}
	if o.attempts != 0 {
		v.Params.Attempts = &o.attempts
	}
	return v
}

// waited waits until an invocation has ended.
func waited(ctx context.Context, c *client.Client, job, id string) error {
	pause := firstPoll
	for {
		v, err := c.Invocation(ctx, job, id)
		if err != nil || v.State == model.InvocationStateDone || v.State == model.InvocationStateDead {
			return err
		}
		t := clock.System.NewTimer(pause)
		select {
		case <-t.C():
		case <-ctx.Done():
			t.Stop()
			return context.Cause(ctx)
		}
		pause = min(2*pause, lastPoll)
	}
}

// queueRequest is `ripstop invoke --async`.
func queueRequest(cmd *cobra.Command, c *client.Client, job, path string, r *http.Request, o asyncOptions, include, fail, asJSON bool) error {
	e, err := c.Enqueue(cmd.Context(), job, o.invocation(r, path))
	if err != nil {
		return err
	}
	switch {
	case o.wait:
		// Whoever does not wait for as long as it takes asks for it by this.
		tellKnown(cmd, e, o.key)
		_, _ = fmt.Fprintf(cmd.ErrOrStderr(), "waiting for invocation %s\n", escapeLine(e.Id))
		if err := waited(cmd.Context(), c, job, e.Id); err != nil {
			return err
		}
		return showResult(cmd, c, job, e.Id, include, fail, asJSON)
	case asJSON:
		return printJSON(cmd.OutOrStdout(), e)
	}
	tellKnown(cmd, e, o.key)
	_, err = fmt.Fprintln(cmd.OutOrStdout(), escapeLine(e.Id))
	return err
}

// tellKnown says that nothing was queued, as the key was used before. Standard output is left to the id, which scripts read.
func tellKnown(cmd *cobra.Command, e model.Enqueued, key string) {
	if e.Known != nil && *e.Known {
		fmt.Fprintf(cmd.ErrOrStderr(), "nothing new is queued: the key %s is that of invocation %s\n", strconv.Quote(key), escapeLine(e.Id))
	}
}

func showResult(cmd *cobra.Command, c *client.Client, job, id string, include, fail, asJSON bool) error {
	res, err := c.Result(cmd.Context(), job, id)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if err := printResponse(cmd.OutOrStdout(), res, include, asJSON); err != nil {
		return err
	}
	if fail && res.StatusCode >= 400 {
		return exitError{exitFailed, fmt.Errorf("the job answered %s", res.Status)}
	}
	return nil
}

func newResultCommand() *cobra.Command {
	var include, fail, wait, asJSON bool
	cmd := &cobra.Command{
		Use:     "result [JOB] ID",
		Short:   "Print the response to a queued request",
		Long:    "Without JOB, all jobs are asked. Until there is a response, the command fails, or waits with --wait.",
		Example: "  ripstop result hello 0199b2c4-…\n  ripstop result --wait --include 0199b2c4-…",
		Args:    cobra.RangeArgs(1, 2),
	}
	f := cmd.Flags()
	f.BoolVarP(&include, "include", "i", false, "print the status line and headers, too")
	f.BoolVar(&fail, "fail", false, "exit 1 when the status is 400 or more")
	f.BoolVar(&wait, "wait", false, "wait until there is one")
	jsonFlag(cmd, &asJSON)
	return remoteCommand(cmd, func(cmd *cobra.Command, c *client.Client, args []string) error {
		id := args[len(args)-1]
		job := args[0]
		if len(args) == 1 {
			var err error
			if job, err = jobOf(cmd.Context(), c, id); err != nil {
				return err
			}
		}
		if wait {
			if err := waited(cmd.Context(), c, job, id); err != nil {
				return err
			}
		}
		return showResult(cmd, c, job, id, include, fail, asJSON)
	})
}

// jobOf finds the job that an invocation is of.
func jobOf(ctx context.Context, c *client.Client, id string) (string, error) {
	l, err := c.Jobs(ctx)
	if err != nil {
		return "", err
	}
	for _, j := range l.Jobs {
		_, err := c.Invocation(ctx, j.Name, id)
		var p *model.Problem
		switch {
		case err == nil:
			return j.Name, nil
		case !errors.As(err, &p) || p.Status != http.StatusNotFound:
			return "", err
		}
	}
	return "", fmt.Errorf("no job has an invocation %q, or it is forgotten", id)
}

func newQueueCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "queue JOB",
		Short:   "Show how many requests are queued for a job, and list or cancel them",
		Long:    "Shows how many requests are queued, by state, when the job's schedules fire, and what they left out. A job that is\nnamed as a subcommand is given after --: ripstop queue -- list.",
		Example: "  ripstop queue mailer\n  ripstop queue mailer --json | jq '.schedules[].next[0]'\n  ripstop queue list mailer\n  ripstop queue cancel mailer 0199b2c4-…",
		Args:    cobra.ExactArgs(1),
	}
	jsonFlag(cmd, &asJSON)
	cmd.AddCommand(newQueueListCommand(), newInvocationsCommand("queue", "cancel", "Cancel requests that wait",
		"A request that is cancelled does not start. One that is under way goes on, and is an error here, as is one that has ended. IDs after one\nthat cannot be cancelled are, too; the command says which were not, and exits 1.", "is cancelled", (*client.Client).Cancel))
	return remoteCommand(cmd, func(cmd *cobra.Command, c *client.Client, args []string) error {
		n, err := c.Queue(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		if asJSON {
			return printJSON(cmd.OutOrStdout(), n)
		}
		oldest := "-"
		if n.Oldest != nil {
			oldest = max(0, clock.System.Now().Sub(*n.Oldest)).Round(time.Millisecond).String()
		}
		err = table(cmd.OutOrStdout(), [][]string{{"WAITING", "READY", "RUNNING", "DEAD", "CALLBACKS", "OLDEST READY FOR"},
			{strconv.Itoa(n.Waiting), strconv.Itoa(n.Ready), strconv.Itoa(n.Running), strconv.Itoa(n.Dead), strconv.Itoa(n.Callbacks), oldest}})
		if err != nil || n.Schedules == nil {
			return err
		}
		rows := [][]string{{"SCHEDULE", "CRON", "ZONE", "NEXT", "LAST", "INVOCATION", "LEFT OUT"}}
		for _, s := range *n.Schedules {
			row := []string{s.Name, s.Cron, s.Zone, "-", "-", "-", "-"}
			if len(s.Next) > 0 {
				row[3] = inZone(s.Next[0], s.Zone)
			}
			if s.Last != nil {
				row[4], row[5] = inZone(*s.Last, s.Zone), *s.Invocation
			}
			if o := s.LeftOut; o != nil {
				row[6] = fmt.Sprintf("%d, last %s (%s)", o.Count, inZone(o.Last, s.Zone), o.Reason)
			}
			rows = append(rows, row)
		}
		fmt.Fprintln(cmd.OutOrStdout())
		return table(cmd.OutOrStdout(), rows)
	})
}

// inZone writes a time as a clock in a zone does, or as it came where the zone is not known here.
func inZone(t time.Time, zone string) string {
	if loc, err := time.LoadLocation(zone); err == nil {
		t = t.In(loc)
	}
	return t.Format("2006-01-02 15:04 MST")
}

func newQueueListCommand() *cobra.Command {
	var asJSON bool
	var limit int
	cmd := &cobra.Command{
		Use:     "list JOB",
		Short:   "List a job's requests that are under way or wait",
		Long:    "Lists those that are under way, then those that could start now, in the order in which they will, then those that wait for\na time or for another one of their order.",
		Example: "  ripstop queue list mailer\n  ripstop queue list mailer --limit 0 --json | jq -r '.invocations[].id'",
		Args:    cobra.ExactArgs(1),
	}
	cmd.Flags().IntVarP(&limit, "limit", "n", 100, "the most to show; 0: all")
	jsonFlag(cmd, &asJSON)
	return remoteCommand(cmd, func(cmd *cobra.Command, c *client.Client, args []string) error {
		if limit < 0 {
			return usageError(cmd, fmt.Errorf("--limit %d is below 0", limit))
		}
		all := model.InvocationList{Invocations: []model.Invocation{}}
		for after := ""; limit == 0 || len(all.Invocations) < limit; after = *all.Next {
			most := onePage
			if limit > 0 {
				most = min(most, limit-len(all.Invocations))
			}
			page, err := c.Invocations(cmd.Context(), args[0], after, most)
			if err != nil {
				return err
			}
			all.Invocations = append(all.Invocations, page.Invocations...)
			if all.Next = page.Next; all.Next == nil {
				break
			}
		}
		if asJSON {
			return printJSON(cmd.OutOrStdout(), all)
		}
		rows := [][]string{{"ID", "STATE", "PRIORITY", "ORDER", "ATTEMPTS", "ENQUEUED", "STARTS AFTER", "REASON"}}
		for _, v := range all.Invocations {
			row := []string{v.Id, string(v.State), strconv.Itoa(v.Priority), "-", fmt.Sprintf("%d of %d", v.Attempts, v.MaxAttempts), when(v.Enqueued), "-", "-"}
			if v.Order != nil {
				row[3] = *v.Order
			}
			if v.Due != nil {
				row[6] = when(*v.Due)
			}
			if v.Reason != nil {
				row[7] = *v.Reason
			}
			rows = append(rows, row)
		}
		if err := table(cmd.OutOrStdout(), rows); err != nil {
			return err
		}
		if all.Next != nil {
			fmt.Fprintf(cmd.ErrOrStderr(), "these are the first %d; --limit 0 lists all\n", len(all.Invocations))
		}
		return nil
	})
}

func newDeadLettersCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "dead-letters",
		Short:   "List, show, requeue and drop requests that were given up",
		Example: "  ripstop dead-letters list mailer\n  ripstop dead-letters requeue mailer 0199b2c4-…",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newDeadLettersListCommand(), newDeadLettersShowCommand(),
		newInvocationsCommand("dead-letters", "requeue", "Let dead letters wait again, with no attempts behind them", "", "waits again", (*client.Client).Requeue),
		newInvocationsCommand("dead-letters", "drop", "Stop keeping dead letters", "", "is dropped", (*client.Client).Discard))
	return cmd
}

// onePage is how many invocations are asked for at once.
const onePage = 1000

func newDeadLettersListCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "list JOB",
		Short:   "List a job's dead letters",
		Example: "  ripstop dead-letters list mailer\n  ripstop dead-letters list mailer --json",
		Args:    cobra.ExactArgs(1),
	}
	jsonFlag(cmd, &asJSON)
	return remoteCommand(cmd, func(cmd *cobra.Command, c *client.Client, args []string) error {
		all := model.InvocationList{Invocations: []model.Invocation{}}
		for after := ""; ; {
			page, err := c.DeadLetters(cmd.Context(), args[0], after, onePage)
			if err != nil {
				return err
			}
			all.Invocations = append(all.Invocations, page.Invocations...)
			if page.Next == nil {
				break
			}
			after = *page.Next
		}
		if asJSON {
			return printJSON(cmd.OutOrStdout(), all)
		}
		rows := [][]string{{"ID", "ATTEMPTS", "FINISHED", "REASON"}}
		for _, v := range all.Invocations {
			finished, reason := "-", "-"
			if v.Finished != nil {
				finished = when(*v.Finished)
			}
			if v.Reason != nil {
				reason = *v.Reason
			}
			rows = append(rows, []string{v.Id, strconv.Itoa(v.Attempts), finished, reason})
		}
		return table(cmd.OutOrStdout(), rows)
	})
}

func newDeadLettersShowCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "show JOB ID",
		Short:   "Show a dead letter's request, and why it was given up",
		Example: "  ripstop dead-letters show mailer 0199b2c4-…",
		Args:    cobra.ExactArgs(2),
	}
	jsonFlag(cmd, &asJSON)
	return remoteCommand(cmd, func(cmd *cobra.Command, c *client.Client, args []string) error {
		d, err := c.DeadLetter(cmd.Context(), args[0], args[1])
		if err != nil {
			return err
		}
		if asJSON {
			return printJSON(cmd.OutOrStdout(), d)
		}
		out := cmd.OutOrStdout()
		reason := "-"
		if d.Invocation.Reason != nil {
			reason = *d.Invocation.Reason
		}
		r := &http.Response{Proto: escapeLine(d.Method), Status: d.Path, Header: d.Headers, Body: io.NopCloser(strings.NewReader(string(d.Body)))}
		if _, err := fmt.Fprintf(out, "given up after %d of %d attempts: %s\n\n", d.Invocation.Attempts, d.Invocation.MaxAttempts, escapeLine(reason)); err != nil {
			return err
		}
		return printResponse(out, r, true, false)
	})
}

// newInvocationsCommand makes a command that does one thing to invocations of a job.
func newInvocationsCommand(parent, name, short, long, done string, do func(*client.Client, context.Context, string, string) error) *cobra.Command {
	cmd := &cobra.Command{
		Use:     name + " JOB ID...",
		Short:   short,
		Long:    long,
		Example: "  ripstop " + parent + " " + name + " mailer 0199b2c4-…",
		Args:    cobra.MinimumNArgs(2),
	}
	var asJSON bool
	jsonFlag(cmd, &asJSON)
	return remoteCommand(cmd, func(cmd *cobra.Command, c *client.Client, args []string) error {
		those, err := each(cmd.Context(), args[1:], func(id string) error {
			if err := do(c, cmd.Context(), args[0], id); err != nil {
				return err
			}
			if !asJSON {
				fmt.Fprintf(cmd.OutOrStdout(), "%s %s\n", escapeLine(id), done)
			}
			return nil
		})
		if asJSON {
			err = errors.Join(err, printDone(cmd.OutOrStdout(), name, those...))
		}
		return err
	})
}
