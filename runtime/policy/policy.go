package policy

import (
	"errors"
	"strings"

	"github.com/ripstop-vm/ripstop/runtime/hostcall"
)

// Options are what a Policy tells of its decisions.
type Options struct {
	// OnDenied is called for each call that a rule refused (deny, stop, or an evaluation that failed), and, with observed,
	// for each that a rule in observe mode would have refused or changed. rule is as in Call.Rule. It is called on the
	// sandbox's goroutine, must be quick and must not keep the call. nil: nobody is told.
	OnDenied func(c *hostcall.Call, rule string, observed bool)
}

// Policy judges host calls by rules. It is shared by sandboxes and never changes.
type Policy struct {
	plans map[*hostcall.Func]*plan
	opts  Options
}

var _ hostcall.Interposer = (*Policy)(nil)

// plan is how the calls of one function are judged.
type plan struct {
	schema *schema
	rules  []*boundRule
	// paths, of a rename or link, are the two names it judges by the rules for path_open. nil: it does not.
	paths *protection
}

// protection keeps renames and links from leading around rules that judge paths.
type protection struct {
	old, new int // arguments
	guises   []plan
}

const (
	ruleDirectory = "policy: a directory is not renamed or linked while rules judge paths, unless a rule that names the function allows it"
	ruleUnnamed   = "policy: what cannot be named cannot be judged"
)

func (p *Policy) plan(fn *hostcall.Func) *plan {
	pl, ok := p.plans[fn]
	if !ok {
		pl = &plan{}
		p.plans[fn] = pl
	}
	return pl
}

// With is the same policy with other options. It shares what was compiled.
func (p *Policy) With(o Options) *Policy { return &Policy{plans: p.plans, opts: o} }

// Watches reports whether a rule concerns f.
func (p *Policy) Watches(f *hostcall.Func) bool { return p.plans[f] != nil }

// After does nothing: policies decide before a call takes effect.
func (p *Policy) After(*hostcall.Call) {}

// Before lets the first matching rule decide.
func (p *Policy) Before(c *hostcall.Call) hostcall.Verdict {
	pl := p.plans[c.Func]
	if v, decided := p.judge(c, pl, c.Func); decided {
		return v
	}
	if pl.paths != nil {
		return p.protected(c, pl.paths)
	}
	return hostcall.Proceed
}

// judge tries the rules of pl in order. Rules of another function (a rename judged like an open) cannot change arguments.
func (p *Policy) judge(c *hostcall.Call, pl *plan, of *hostcall.Func) (v hostcall.Verdict, decided bool) {
	for _, r := range pl.rules {
		if r.when != nil {
			yes, err := r.when(c)
			if err != nil {
				if r.observe {
					if _, missing := missing(err); !missing {
						p.observe(c, r.failed)
					}
					continue
				}
				return p.failed(c, r, err), true
			}
			if !yes {
				continue
			}
		}
		if r.observe {
			p.observe(c, r.name)
			continue
		}
		switch r.do {
		case allow:
			return hostcall.Proceed, pl.paths == nil || r.express
		case stop:
			p.denied(c, r.name)
			c.Rule = r.name
			c.Stop(&hostcall.StopError{Func: c.Func.String(), Rule: r.name})
			return hostcall.Stop, true
		case set:
			if of != c.Func {
				return p.deny(c, hostcall.EPERM, r.name), true
			}
			if err := r.change(c, pl.schema); err != nil {
				return p.failed(c, r, err), true
			}
			c.Rule = r.name
			return hostcall.Proceed, true
		default:
			return p.deny(c, r.errno, r.name), true
		}
	}
	return hostcall.Proceed, false
}

func (r *boundRule) change(c *hostcall.Call, s *schema) error {
	var changes [hostcall.MaxArgs]change
	for i := range r.set {
		ch, err := r.set[i].eval(c, s)
		if err != nil {
			return err
		}
		changes[i] = ch
	}
	for i := range r.set {
		r.set[i].apply(c, changes[i])
	}
	return nil
}

// failed refuses a call that a rule could not judge. An object that is not there is no failure of the rule: the guest
// sees the errno that the call itself would have had.
func (p *Policy) failed(c *hostcall.Call, r *boundRule, err error) hostcall.Verdict {
	if errno, missing := missing(err); missing && c.Func.Fails {
		c.Fail(errno)
		return hostcall.Answer
	}
	return p.deny(c, hostcall.EACCES, r.failed)
}

// missing reports whether err says that there is no object to judge, and why.
func missing(err error) (hostcall.Errno, bool) {
	var errno hostcall.Errno
	return errno, errors.As(err, &errno)
}

func (p *Policy) deny(c *hostcall.Call, errno hostcall.Errno, rule string) hostcall.Verdict {
	p.denied(c, rule)
	return c.Deny(errno, rule)
}

func (p *Policy) denied(c *hostcall.Call, rule string) {
	if p.opts.OnDenied != nil {
		p.opts.OnDenied(c, rule, false)
	}
}

// observe notes the first rule that would have refused or changed the call.
func (p *Policy) observe(c *hostcall.Call, rule string) {
	if c.Observed == "" {
		c.Observed = rule
	}
	if p.opts.OnDenied != nil {
		p.opts.OnDenied(c, rule, true)
	}
}

// protected judges a rename or link that no rule decided on.
func (p *Policy) protected(c *hostcall.Call, pr *protection) hostcall.Verdict {
	for _, i := range [...]int{pr.old, pr.new} {
		if _, err := object(c, i); err != nil {
			if c.Unresolved != hostcall.Success {
				c.Fail(c.Unresolved)
				return hostcall.Answer
			}
			return p.deny(c, hostcall.EPERM, ruleUnnamed)
		}
	}
	if c.Value(pr.old).Dir {
		return p.deny(c, hostcall.EPERM, ruleDirectory)
	}
	for i := range pr.guises {
		if v, decided := p.judge(c, &pr.guises[i], nil); decided && v != hostcall.Proceed {
			return v
		}
	}
	return hostcall.Proceed
}

// protect has renames and links judged by the rules for opens, since a policy that judges paths is otherwise walked around:
// a file is renamed out of a forbidden directory, or linked, and then opened by its new name.
func (c *compiler) protect(p *Policy, parsed []*parsedRule) {
	for _, fn := range c.table.Funcs() {
		if fn.Name != "path_link" && fn.Name != "path_rename" || !fn.Fails {
			continue
		}
		open, ok := c.table.Lookup(fn.Module, "path_open")
		if !ok {
			continue
		}
		var paths, fds []int
		for i := range fn.Args {
			switch fn.Args[i].Kind {
			case hostcall.Path:
				paths = append(paths, i)
			case hostcall.FD:
				fds = append(fds, i)
			}
		}
		if len(paths) != 2 || len(fds) != 2 {
			continue
		}
		pr := &protection{old: paths[0], new: paths[1]}
		for k := range paths {
			for _, ones := range []bool{false, true} {
				g := plan{schema: asOpen(c.schema(open), paths[k], fds[k], ones)}
				for _, r := range parsed {
					for _, f := range r.funcs {
						if f == open {
							if b, ok := c.bind(r, g.schema); ok {
								b.name = strings.Replace(b.name, ": ", " for path_open: ", 1)
								g.rules = append(g.rules, b)
							}
						}
					}
				}
				pr.guises = append(pr.guises, g)
			}
		}
		p.plan(fn).paths = pr
	}
}
