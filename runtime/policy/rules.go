package policy

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/cost"
	"cel.dev/cel-go/ext"

	"github.com/ripstop-vm/ripstop/internal/nearest"
	"github.com/ripstop-vm/ripstop/runtime/hostcall"
)

// Bounds of rules.
const (
	MaxRules      = 256    // of one policy
	MaxExpression = 4096   // bytes of one CEL expression
	CostLimit     = 20_000 // of one evaluation, in CEL's cost units (about 10 ns each); more denies
	// maxEstimate refuses an expression whose worst case, over the longest arguments, is hopelessly above CostLimit.
	maxEstimate = 100 * CostLimit
)

// Compile checks rules against the functions in table and makes a Policy of them. The error joins an *Error for every
// problem. Neither argument is kept in a way that later changes to it matter.
func Compile(rules []Rule, table *hostcall.Table) (*Policy, error) {
	c := &compiler{table: table, schemas: map[*hostcall.Func]*schema{}, programs: map[string]compiledExpression{}}
	p := &Policy{plans: map[*hostcall.Func]*plan{}}
	if len(rules) == 0 {
		return p, nil
	}
	var err error
	c.env, err = cel.NewEnv(ext.Strings(), cel.ParserExpressionSizeLimit(MaxExpression), cel.ParserRecursionLimit(64))
	if err != nil {
		return nil, fmt.Errorf("make the environment of rules: %w", err)
	}
	var errs []error
	if len(rules) > MaxRules {
		return nil, &Error{Rule: MaxRules, Offset: -1, Msg: fmt.Sprintf("%d rules, at most %d are allowed", len(rules), MaxRules)}
	}
	parsed := make([]*parsedRule, len(rules))
	for i := range rules {
		c.problems = problems{rule: i}
		parsed[i] = c.rule(i, rules[i])
		if len(parsed[i].funcs) == 0 {
			c.unbound(parsed[i])
		}
		for _, fn := range parsed[i].funcs {
			if s, ok := c.bind(parsed[i], c.schema(fn)); ok {
				pl := p.plan(fn)
				pl.schema = c.schema(fn)
				pl.rules = append(pl.rules, s)
				c.judgesPaths = c.judgesPaths || s.objects && !s.observe
			}
		}
		errs = append(errs, c.problems.errs...)
	}
	if len(errs) == 0 && c.judgesPaths {
		c.problems = problems{}
		c.protect(p, parsed)
		errs = c.problems.errs
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return p, nil
}

// compiler holds what rules share while they are compiled.
type compiler struct {
	problems
	table       *hostcall.Table
	env         *cel.Env
	schemas     map[*hostcall.Func]*schema
	programs    map[string]compiledExpression
	judgesPaths bool
}

// parsedRule is a rule before it is bound to a function.
type parsedRule struct {
	index   int
	funcs   []*hostcall.Func
	on      OneOrMany
	do      string
	errno   hostcall.Errno
	observe bool
	when    *expression
	set     map[string]*expression
}

// boundRule is a rule for the calls of one function.
type boundRule struct {
	do      action
	errno   hostcall.Errno
	observe bool
	express bool      // it names the function itself, not a pattern
	objects bool      // it looks at objects
	name    string    // "policy[1]: deny"
	failed  string    // what it is called when it could not be evaluated
	when    condition // nil: always
	set     []setter
}

type action uint8

const (
	deny action = iota
	allow
	stop
	set
)

var actions = map[string]action{"deny": deny, "allow": allow, "stop": stop, "set": set}

func (c *compiler) schema(fn *hostcall.Func) *schema {
	s, ok := c.schemas[fn]
	if !ok {
		s = newSchema(fn)
		c.schemas[fn] = s
	}
	return s
}

// rule checks what of a rule does not depend on a function.
func (c *compiler) rule(i int, r Rule) *parsedRule {
	p := &parsedRule{index: i, on: slices.Clone(r.On), do: r.Do, errno: hostcall.EACCES, set: map[string]*expression{}}
	p.funcs = c.functions(r.On)
	if _, ok := actions[r.Do]; !ok {
		if r.Do == "" {
			c.add("do", "is missing: write deny, allow, stop or set")
		} else {
			c.add("do", "%s is none of deny, allow, stop and set", quoteShort(r.Do))
		}
	}
	switch r.Mode {
	case "", "enforce":
	case "observe":
		p.observe = true
		if r.Do == "allow" {
			c.add("mode", "an allow rule that is only observed would do nothing")
		}
	default:
		c.add("mode", "%s is neither enforce nor observe", quoteShort(r.Mode))
	}
	if r.Errno != "" {
		e, ok := hostcall.ParseErrno(r.Errno)
		switch {
		case !ok:
			c.add("errno", "%s is no errno%s", quoteShort(r.Errno), didYouMean(nearest.Of(r.Errno, errnoNames())))
		case e == hostcall.Success:
			c.add("errno", "SUCCESS would tell the guest that a call was made which was not")
		case r.Do != "deny":
			c.add("errno", "only deny answers an errno")
		}
		p.errno = e
	}
	if r.When != "" {
		p.when = c.parse("when", r.When)
	}
	if r.Do == "set" && len(r.Set) == 0 {
		c.add("set", "is missing: name the arguments and what they become")
	}
	if r.Do != "set" && len(r.Set) > 0 {
		c.add("set", "is there, but do is %s: write do: set", quoteShort(r.Do))
	}
	for _, arg := range slices.Sorted(maps.Keys(r.Set)) {
		p.set[arg] = c.parse("set."+arg, r.Set[arg])
	}
	return p
}

func errnoNames() []string {
	var names []string
	for e := hostcall.Success + 1; e <= hostcall.ENOTCAPABLE; e++ {
		names = append(names, e.String())
	}
	return names
}

func didYouMean(name string) string {
	if name == "" {
		return ""
	}
	return ": did you mean " + name + "?"
}

// functions finds what the patterns of on name, in the table's order. One that names nothing is reported, and stands for the
// function that was meant, if that can be told, so that what the rest of the rule says of it is checked, too.
func (c *compiler) functions(on OneOrMany) []*hostcall.Func {
	if len(on) == 0 {
		c.add("on", `is missing: name functions, such as path_open, path_* or "*"`)
		return nil
	}
	wanted := map[*hostcall.Func]bool{}
	for i, pattern := range on {
		found := false
		for _, f := range c.table.Funcs() {
			if len(pattern) <= 256 && f.Matches(pattern) {
				wanted[f], found = true, true
			}
		}
		if !found {
			field := "on"
			if len(on) > 1 {
				field = fmt.Sprintf("on[%d]", i)
			}
			var names []string
			for _, f := range c.table.Funcs() {
				names = append(names, f.Name, f.String())
			}
			meant := nearest.Of(pattern, names)
			c.add(field, "there is no host function %s%s", quoteShort(pattern), didYouMean(meant))
			for _, f := range c.table.Funcs() {
				if meant != "" && f.Matches(meant) {
					wanted[f] = true
				}
			}
		}
	}
	var funcs []*hostcall.Func
	for _, f := range c.table.Funcs() {
		if wanted[f] {
			funcs = append(funcs, f)
		}
	}
	return funcs
}

// expression is parsed CEL.
type expression struct {
	field, text string
	ast         *cel.Ast
	uses        []use // of variables below "call"
}

type use struct {
	name   string
	offset int // in text
}

// unbound checks what can be checked of a rule for functions that nobody knows: that some function has what it uses.
func (c *compiler) unbound(p *parsedRule) {
	known := map[string]bool{}
	for _, fn := range c.table.Funcs() {
		for name := range c.schema(fn).vars {
			known[name] = true
		}
	}
	check := func(e *expression) {
		if e == nil {
			return
		}
		said := map[string]bool{}
		for _, u := range e.uses {
			if !known[u.name] && !said[u.name] {
				said[u.name] = true
				c.addAt(e.field, u.offset, "no host function has %s%s", u.name, didYouMean(nearest.Of(u.name, slices.Sorted(maps.Keys(known)))))
			}
		}
	}
	check(p.when)
	for _, arg := range slices.Sorted(maps.Keys(p.set)) {
		check(p.set[arg])
	}
}

// parse checks the syntax of text. nil means that it is wrong, and has been reported.
func (c *compiler) parse(field, text string) *expression {
	if len(text) > MaxExpression {
		c.add(field, "%d bytes, at most %d are allowed", len(text), MaxExpression)
		return nil
	}
	if !utf8.ValidString(text) {
		c.add(field, "is not UTF-8")
		return nil
	}
	a, issues := c.env.Parse(text)
	if err := issues.Err(); err != nil {
		c.issues(field, text, issues)
		return nil
	}
	e := &expression{field: field, text: text, ast: a}
	info := a.NativeRep().SourceInfo()
	before := len(c.errs)
	e.walk(c, info, a.NativeRep().Expr())
	if len(c.errs) > before {
		return nil
	}
	return e
}

// issues reports what CEL found.
func (c *compiler) issues(field, text string, issues *cel.Issues) {
	for i, e := range issues.Errors() {
		if i == 4 { // what follows the first few is mostly their consequence
			return
		}
		msg := strings.TrimPrefix(e.Message, "Syntax error: ")
		c.addAt(field, offset(text, e.Location.Line(), e.Location.Column()), "%s", msg)
	}
	if len(issues.Errors()) == 0 {
		c.add(field, "%s", issues.Err())
	}
}

// offset is the byte at a line (from 1) and a column (from 0, in characters) of text.
func offset(text string, line, column int) int {
	at := 0
	for ; line > 1; line-- {
		i := strings.IndexByte(text[at:], '\n')
		if i < 0 {
			return at
		}
		at += i + 1
	}
	for ; column > 0 && at < len(text) && text[at] != '\n'; column-- {
		_, n := utf8.DecodeRuneInString(text[at:])
		at += n
	}
	return at
}

// walk collects the uses of call.
func (e *expression) walk(c *compiler, info *ast.SourceInfo, x ast.Expr) {
	if name, ok := qualifiedName(x); ok {
		root := x
		for root.Kind() == ast.SelectKind {
			root = root.AsSelect().Operand()
		}
		if root.AsIdent() == "call" {
			loc := info.GetStartLocation(root.ID())
			e.uses = append(e.uses, use{name, offset(e.text, loc.Line(), loc.Column())})
		}
		return
	}
	switch x.Kind() {
	case ast.CallKind:
		call := x.AsCall()
		if call.IsMemberFunction() {
			e.walk(c, info, call.Target())
		}
		for _, a := range call.Args() {
			e.walk(c, info, a)
		}
	case ast.SelectKind:
		e.walk(c, info, x.AsSelect().Operand())
	case ast.ListKind:
		for _, el := range x.AsList().Elements() {
			e.walk(c, info, el)
		}
	case ast.MapKind:
		for _, en := range x.AsMap().Entries() {
			e.walk(c, info, en.AsMapEntry().Key())
			e.walk(c, info, en.AsMapEntry().Value())
		}
	case ast.StructKind:
		for _, f := range x.AsStruct().Fields() {
			e.walk(c, info, f.AsStructField().Value())
		}
	case ast.ComprehensionKind:
		l := x.AsComprehension()
		if l.IterVar() == "call" || l.IterVar2() == "call" {
			c.add(e.field, "call is the host call and cannot be the name of another variable")
		}
		for _, part := range []ast.Expr{l.IterRange(), l.AccuInit(), l.LoopCondition(), l.LoopStep(), l.Result()} {
			e.walk(c, info, part)
		}
	}
}

// compiledExpression is what an expression becomes for all functions that agree about the types it uses.
type compiledExpression struct {
	ast     *cel.Ast
	program cel.Program
	ok      bool
}

// compile types e for the calls of s. It reports problems, once for functions that share them, and answers false.
func (c *compiler) compile(e *expression, s *schema, want ...kind) (compiledExpression, bool) {
	var sig strings.Builder
	fmt.Fprintf(&sig, "%d %s\n%s\n", c.problems.rule, e.field, e.text)
	for _, u := range e.uses {
		v, ok := s.vars[u.name]
		if !ok {
			key := "unknown\n" + sig.String() + u.name
			if _, said := c.programs[key]; !said {
				c.programs[key] = compiledExpression{}
				c.addAt(e.field, u.offset, "%s has no %s%s It has %s", s.fn.Name, u.name, didYouMeanSentence(nearest.Of(u.name, slices.Sorted(maps.Keys(s.vars)))), s.names())
			}
			return compiledExpression{}, false
		}
		fmt.Fprintf(&sig, "%s %d\n", u.name, v.kind)
	}
	key := sig.String()
	if done, ok := c.programs[key]; ok {
		return done, done.ok
	}
	done := c.check(e, s, want)
	c.programs[key] = done
	return done, done.ok
}

func didYouMeanSentence(name string) string {
	if name == "" {
		return "."
	}
	return ": did you mean " + name + "?"
}

func (c *compiler) check(e *expression, s *schema, want []kind) (none compiledExpression) {
	var opts []cel.EnvOption
	declared := map[string]bool{}
	for _, u := range e.uses {
		if !declared[u.name] {
			declared[u.name] = true
			opts = append(opts, cel.Variable(u.name, s.vars[u.name].kind.cel()))
		}
	}
	env, err := c.env.Extend(opts...)
	if err != nil {
		c.add(e.field, "%s", err)
		return none
	}
	checked, issues := env.Compile(e.text)
	if issues.Err() != nil {
		c.issues(e.field, e.text, issues)
		return none
	}
	if len(want) == 0 {
		if !checked.OutputType().IsExactType(cel.BoolType) {
			c.add(e.field, "yields %s, where a bool is wanted", checked.OutputType())
			return none
		}
	} else if got := checked.OutputType(); !slices.ContainsFunc(want, func(k kind) bool { return got.IsExactType(k.cel()) }) {
		c.add(e.field, "yields %s, where %s is wanted", got, want[0])
		return none
	}
	est, err := env.EstimateCost(checked, sizes{s})
	if err != nil {
		c.add(e.field, "its cost cannot be estimated: %s", err)
		return none
	}
	if est.Min > CostLimit || est.Max > maxEstimate {
		c.add(e.field, "costs up to %d, where one evaluation may cost %d: look at fewer or shorter things", est.Max, CostLimit)
		return none
	}
	prog, err := env.Program(checked, cel.EvalOptions(cel.OptOptimize), cel.CostLimit(CostLimit))
	if err != nil {
		c.add(e.field, "%s", err) // a constant regular expression that is none, for instance
		return none
	}
	return compiledExpression{checked, prog, true}
}

// sizes tells CEL's estimate how long the variables of a call can be.
type sizes struct{ s *schema }

func (z sizes) EstimateSize(n cost.AstNode) *cost.SizeEstimate {
	p := n.Path()
	if len(p) == 0 {
		return nil
	}
	if v, ok := z.s.vars[p[0]]; ok {
		most := v.max
		if len(p) > 1 { // an element of a list
			most = maxText
		}
		return &cost.SizeEstimate{Max: most}
	}
	return nil
}

func (sizes) EstimateCallCost(string, string, *cost.AstNode, []cost.AstNode) *cost.CallEstimate {
	return nil
}

// bind makes a rule's form for one function. False means that it is wrong, and has been reported.
func (c *compiler) bind(p *parsedRule, s *schema) (*boundRule, bool) {
	c.problems.rule = p.index
	name := ruleName(p.index) + ": " + p.do
	b := &boundRule{do: actions[p.do], errno: p.errno, observe: p.observe, name: name, failed: name + ", as it could not be evaluated"}
	b.express = slices.Contains(p.on, s.fn.Name) || slices.Contains(p.on, s.fn.String())
	if b.do != deny && b.do != stop {
		b.failed = ruleName(p.index) + ": deny, as it could not be evaluated"
	}
	ok := true
	if p.when != nil {
		done, compiled := c.compile(p.when, s)
		if ok = compiled; ok {
			if b.when = direct(done.ast.NativeRep().Expr(), s); b.when == nil {
				b.when = interpreted(done.program, s)
			}
			for _, u := range p.when.uses {
				b.objects = b.objects || s.vars[u.name].objects
			}
		}
	}
	for _, arg := range slices.Sorted(maps.Keys(p.set)) {
		e := p.set[arg]
		if e == nil {
			ok = false
			continue
		}
		st, made := c.setter(arg, e, s)
		ok = ok && made
		b.set = append(b.set, st)
	}
	return b, ok
}
