package policy

import (
	"errors"
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"

	"github.com/ripstop-vm/ripstop/runtime/hostcall"
)

// condition decides whether a rule matches a call.
type condition func(*hostcall.Call) (bool, error)

// activation gives a CEL program the variables of one call.
type activation struct {
	schema *schema
	call   *hostcall.Call
	// failed is the first error of a getter. CEL hands it on as a value of its own, without its identity.
	failed error
}

func (a *activation) Parent() cel.Activation { return nil }

func (a *activation) ResolveName(name string) (any, bool) {
	v, ok := a.schema.vars[name]
	if !ok {
		return nil, false
	}
	switch v.kind {
	case kindInt:
		return types.Int(v.num(a.call)), true
	case kindFloat:
		return types.Double(v.float(a.call)), true
	case kindString:
		s, err := v.str(a.call)
		if err != nil {
			return a.fail(err), true
		}
		return types.String(strings.Clone(s)), true // a program may keep parts of it in its result
	}
	list, err := v.strs(a.call)
	if err != nil {
		return a.fail(err), true
	}
	return types.NewStringList(types.DefaultTypeAdapter, list), true
}

func (a *activation) fail(err error) any {
	if a.failed == nil {
		a.failed = err
	}
	return types.NewErr("%s", err)
}

var errCondition = errors.New("the condition could not be evaluated")

// interpreted evaluates a compiled program.
func interpreted(p cel.Program, s *schema) condition {
	return func(c *hostcall.Call) (bool, error) {
		a := activation{schema: s, call: c}
		out, _, err := p.Eval(&a)
		if err != nil {
			if a.failed != nil {
				return false, a.failed
			}
			return false, errCondition
		}
		b, ok := out.(types.Bool)
		if !ok {
			return false, errCondition
		}
		return bool(b), nil
	}
}

// direct turns the common shapes of conditions into closures that neither allocate nor interpret: boolean operators over
// comparisons of variables with constants, startsWith, endsWith, contains, and membership of constant lists. It answers
// nil for any other shape, which CEL then interprets; both give the same result.
func direct(e ast.Expr, s *schema) condition {
	switch e.Kind() {
	case ast.LiteralKind:
		if b, ok := e.AsLiteral().(types.Bool); ok {
			return func(*hostcall.Call) (bool, error) { return bool(b), nil }
		}
	case ast.CallKind:
		return directCall(e.AsCall(), s)
	}
	return nil
}

func directCall(call ast.CallExpr, s *schema) condition {
	args := call.Args()
	switch name := call.FunctionName(); name {
	case operators.LogicalNot:
		of := direct(args[0], s)
		if of == nil {
			return nil
		}
		return func(c *hostcall.Call) (bool, error) {
			b, err := of(c)
			return !b, err
		}
	case operators.LogicalAnd, operators.LogicalOr:
		var parts []condition
		for _, a := range args {
			p := direct(a, s)
			if p == nil {
				return nil
			}
			parts = append(parts, p)
		}
		return junction(parts, name == operators.LogicalOr)
	case operators.Equals, operators.NotEquals, operators.Less, operators.LessEquals, operators.Greater, operators.GreaterEquals:
		return comparison(name, args[0], args[1], s)
	case operators.In:
		return membership(args[0], args[1], s)
	case "startsWith", "endsWith", "contains":
		if !call.IsMemberFunction() || len(args) != 1 {
			return nil
		}
		v, w := stringVariable(call.Target(), s), constantString(args[0])
		if v == nil || w == nil {
			return nil
		}
		test := map[string]func(string, string) bool{"startsWith": strings.HasPrefix, "endsWith": strings.HasSuffix, "contains": strings.Contains}[name]
		want := *w
		return func(c *hostcall.Call) (bool, error) {
			have, err := v.str(c)
			return err == nil && test(have, want), err
		}
	}
	return nil
}

// junction is && or ||, in which (CEL specification, "Logical Operators") one deciding side outweighs an error on the other.
func junction(parts []condition, or bool) condition {
	return func(c *hostcall.Call) (bool, error) {
		var failed error
		for _, p := range parts {
			b, err := p(c)
			switch {
			case err != nil:
				if failed == nil {
					failed = err
				}
			case b == or:
				return or, nil
			}
		}
		return !or && failed == nil, failed
	}
}

func comparison(op string, left, right ast.Expr, s *schema) condition {
	if v, w := stringVariable(left, s), constantString(right); v != nil && w != nil {
		want := *w
		switch op {
		case operators.Equals:
			return func(c *hostcall.Call) (bool, error) {
				have, err := v.str(c)
				return err == nil && have == want, err
			}
		case operators.NotEquals:
			return func(c *hostcall.Call) (bool, error) {
				have, err := v.str(c)
				return err == nil && have != want, err
			}
		}
		return nil
	}
	v := namedVariable(left, s)
	if v == nil || v.kind != kindInt || right.Kind() != ast.LiteralKind {
		return nil
	}
	lit, ok := right.AsLiteral().(types.Int)
	if !ok {
		return nil
	}
	want := int64(lit)
	test := map[string]func(int64) bool{
		operators.Equals:        func(n int64) bool { return n == want },
		operators.NotEquals:     func(n int64) bool { return n != want },
		operators.Less:          func(n int64) bool { return n < want },
		operators.LessEquals:    func(n int64) bool { return n <= want },
		operators.Greater:       func(n int64) bool { return n > want },
		operators.GreaterEquals: func(n int64) bool { return n >= want },
	}[op]
	return func(c *hostcall.Call) (bool, error) { return test(v.num(c)), nil }
}

func membership(elem, list ast.Expr, s *schema) condition {
	if w := constantString(elem); w != nil { // "CREAT" in call.oflags_names
		v := namedVariable(list, s)
		if v == nil || v.bits == nil {
			return nil
		}
		for b, name := range v.bits {
			if name == *w {
				return func(c *hostcall.Call) (bool, error) { return v.num(c)&(1<<b) != 0, nil }
			}
		}
		return func(*hostcall.Call) (bool, error) { return false, nil }
	}
	if list.Kind() != ast.ListKind {
		return nil
	}
	v := namedVariable(elem, s)
	if v == nil {
		return nil
	}
	switch v.kind {
	case kindString:
		set := map[string]bool{}
		for _, e := range list.AsList().Elements() {
			w := constantString(e)
			if w == nil {
				return nil
			}
			set[*w] = true
		}
		return func(c *hostcall.Call) (bool, error) {
			have, err := v.str(c)
			return err == nil && set[have], err
		}
	case kindInt:
		set := map[int64]bool{}
		for _, e := range list.AsList().Elements() {
			if e.Kind() != ast.LiteralKind {
				return nil
			}
			n, ok := e.AsLiteral().(types.Int)
			if !ok {
				return nil
			}
			set[int64(n)] = true
		}
		return func(c *hostcall.Call) (bool, error) { return set[v.num(c)], nil }
	}
	return nil
}

func constantString(e ast.Expr) *string {
	if e.Kind() != ast.LiteralKind {
		return nil
	}
	if s, ok := e.AsLiteral().(types.String); ok {
		return (*string)(&s)
	}
	return nil
}

func stringVariable(e ast.Expr, s *schema) *variable {
	if v := namedVariable(e, s); v != nil && v.kind == kindString {
		return v
	}
	return nil
}

func namedVariable(e ast.Expr, s *schema) *variable {
	name, ok := qualifiedName(e)
	if !ok {
		return nil
	}
	return s.vars[name]
}

// qualifiedName is "a.b.c" of nested selections from an identifier.
func qualifiedName(e ast.Expr) (string, bool) {
	switch e.Kind() {
	case ast.IdentKind:
		return e.AsIdent(), true
	case ast.SelectKind:
		sel := e.AsSelect()
		if sel.IsTestOnly() {
			return "", false
		}
		of, ok := qualifiedName(sel.Operand())
		return of + "." + sel.FieldName(), ok
	}
	return "", false
}
