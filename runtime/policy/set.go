package policy

import (
	"math"
	"slices"
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"

	"github.com/ripstop-vm/ripstop/internal/nearest"
	"github.com/ripstop-vm/ripstop/runtime/hostcall"
)

// setter changes one argument.
type setter struct {
	arg     int
	kind    hostcall.Kind
	typ     hostcall.ValueType
	max     uint32
	dir     int // the descriptor that a Path is relative to; -1: none
	program cel.Program
}

// setter checks that arg can be changed and that e gives something it can become.
func (c *compiler) setter(arg string, e *expression, s *schema) (setter, bool) {
	i := s.fn.Arg(arg)
	if i < 0 || !settable(s.fn, i) {
		var names []string
		for j := range s.fn.Args {
			if settable(s.fn, j) {
				names = append(names, s.fn.Args[j].Name)
			}
		}
		if i >= 0 {
			c.add(e.field, "the argument %s of %s cannot be set: it is no text and no number that goes in", quoteShort(arg), s.fn.Name)
		} else {
			c.add(e.field, "%s has no argument %s to set%s", s.fn.Name, quoteShort(arg), didYouMean(nearest.Of(arg, names)))
		}
		return setter{}, false
	}
	a := &s.fn.Args[i]
	st := setter{arg: i, kind: a.Kind, typ: s.fn.Params[a.Param], max: a.Max, dir: -1}
	want := kindInt
	switch {
	case a.Kind == hostcall.Path || a.Kind == hostcall.Text:
		want = kindString
	case st.typ == hostcall.F32 || st.typ == hostcall.F64:
		want = kindFloat
	}
	if a.Kind == hostcall.Path {
		if st.max == 0 {
			st.max = maxPath
		}
		for j := range i {
			if b := &s.fn.Args[j]; b.Kind == hostcall.FD && b.Dir == hostcall.In {
				st.dir = j
			}
		}
	}
	done, ok := c.compile(e, s, want)
	st.program = done.program
	return st, ok
}

func settable(fn *hostcall.Func, i int) bool {
	a := &fn.Args[i]
	return a.Dir == hostcall.In && !a.Secret && a.Kind <= hostcall.Text
}

// change is what a setter found, before any argument is touched.
type change struct {
	text []byte
	num  uint64
}

func (st *setter) eval(c *hostcall.Call, s *schema) (change, error) {
	a := activation{schema: s, call: c}
	out, _, err := st.program.Eval(&a)
	if err != nil {
		if a.failed != nil {
			return change{}, a.failed
		}
		return change{}, errCondition
	}
	switch v := out.(type) {
	case types.String:
		text := string(v)
		if strings.ContainsRune(text, 0) {
			return change{}, errCondition
		}
		if st.kind == hostcall.Path && strings.HasPrefix(text, "/") {
			if text, err = st.relative(c, text); err != nil {
				return change{}, err
			}
		}
		if st.max != 0 && len(text) > int(st.max) {
			return change{}, errCondition
		}
		return change{text: []byte(text)}, nil
	case types.Int:
		switch {
		case st.kind == hostcall.Int && st.typ == hostcall.I32:
			if v < math.MinInt32 || v > math.MaxInt32 {
				return change{}, errCondition
			}
		case st.kind == hostcall.Int:
		case v < 0, st.typ == hostcall.I32 && v > math.MaxUint32:
			return change{}, errCondition
		}
		return change{num: uint64(v)}, nil
	case types.Double:
		if st.typ == hostcall.F32 {
			return change{num: uint64(math.Float32bits(float32(v)))}, nil
		}
		return change{num: math.Float64bits(float64(v))}, nil
	}
	return change{}, errCondition
}

// relative makes a guest-absolute path what the call takes: one below the directory it is relative to.
func (st *setter) relative(c *hostcall.Call, text string) (string, error) {
	if st.dir < 0 {
		return text, nil
	}
	c.Resolve()
	dir := c.Value(st.dir).Object
	switch {
	case dir == "":
		return "", errCondition
	case text == dir:
		return ".", nil
	case dir == "/":
		return strings.TrimLeft(text, "/"), nil
	case below(dir, text):
		return text[len(dir)+1:], nil
	}
	return "", errCondition
}

func (st *setter) apply(c *hostcall.Call, ch change) {
	if st.kind == hostcall.Path || st.kind == hostcall.Text {
		c.SetText(st.arg, slices.Clip(ch.text))
		return
	}
	c.SetNum(st.arg, ch.num)
}
