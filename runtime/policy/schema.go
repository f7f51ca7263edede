package policy

import (
	"errors"
	"maps"
	"math"
	"net/url"
	"path"
	"slices"
	"strings"
	"unicode/utf8"
	"unsafe"

	"cel.dev/cel-go/cel"

	"github.com/ripstop-vm/ripstop/runtime/hostcall"
)

// errNoValue reports that a call has no value for a variable: text that is not UTF-8, a URL that cannot be read.
var errNoValue = errors.New("an argument cannot be read")

// kind is the type of a variable.
type kind uint8

const (
	kindInt kind = iota
	kindFloat
	kindString
	kindStrings
)

func (k kind) String() string { return [...]string{"int", "double", "string", "list(string)"}[k] }

func (k kind) cel() *cel.Type {
	return [...]*cel.Type{cel.IntType, cel.DoubleType, cel.StringType, cel.ListType(cel.StringType)}[k]
}

// variable is what a rule can ask of a call. One of the getters is set, by kind.
type variable struct {
	kind    kind
	objects bool   // it is derived from what Call.Resolve names
	max     uint64 // longest string, or most elements
	num     func(*hostcall.Call) int64
	float   func(*hostcall.Call) float64
	str     func(*hostcall.Call) (string, error) // valid only during the call
	strs    func(*hostcall.Call) ([]string, error)
	bits    []string // of kindStrings: the names of num's bits
}

// schema is what rules can ask of the calls of one function.
type schema struct {
	fn   *hostcall.Func
	vars map[string]*variable // by whole name, "call.fd.path"
}

// maxText is what is assumed of a text argument without a bound of its own when a rule's cost is estimated.
const maxText = 4096

func newSchema(fn *hostcall.Func) *schema {
	s := &schema{fn: fn, vars: map[string]*variable{}}
	s.constant("call.function", fn.Name)
	s.constant("call.module", fn.Module)
	var paths, fds []int
	for i := range fn.Args {
		a := &fn.Args[i]
		name := "call." + a.Name
		switch {
		case a.Dir == hostcall.Out || a.Secret:
			// What the call writes is not there yet, and a secret is nobody's to judge. Sizes are.
			if a.Kind == hostcall.Bytes || a.Kind == hostcall.Vectors || a.Dir == hostcall.In {
				s.size(a, i, name)
			}
		case a.Kind == hostcall.Path:
			paths = append(paths, i)
			s.vars[name] = &variable{kind: kindString, objects: true, max: maxText, str: func(c *hostcall.Call) (string, error) { return object(c, i) }}
			s.vars[name+"_text"] = textVariable(i, a.Max)
			v := s.vars[name]
			s.vars[name+"_name"] = &variable{kind: kindString, objects: true, max: 255, str: base(v.str)}
		case a.Kind == hostcall.Text:
			s.vars[name] = textVariable(i, a.Max)
			s.size(a, i, name)
			if a.Name == "url" {
				s.url(i)
			}
		case a.Kind == hostcall.Bytes, a.Kind == hostcall.Vectors, a.Kind == hostcall.Record:
			s.size(a, i, name)
		default:
			s.scalar(a, i, name)
			if a.Kind == hostcall.FD {
				fds = append(fds, i)
				s.vars[name+".path"] = &variable{kind: kindString, objects: true, max: maxText, str: func(c *hostcall.Call) (string, error) { return object(c, i) }}
			}
		}
	}
	if v := s.vars["call.path"]; v != nil && v.objects {
		s.vars["call.name"] = s.vars["call.path_name"]
	}
	about := paths
	if len(about) == 0 {
		about = fds
	}
	s.vars["call.paths"] = &variable{kind: kindStrings, objects: len(about) > 0, max: uint64(len(about)), strs: func(c *hostcall.Call) ([]string, error) {
		list := make([]string, len(about))
		for j, i := range about {
			o, err := object(c, i)
			if err != nil {
				return nil, err
			}
			list[j] = o
		}
		return list, nil
	}}
	return s
}

func (s *schema) constant(name, value string) {
	s.vars[name] = &variable{kind: kindString, max: uint64(len(value)), str: func(*hostcall.Call) (string, error) { return value, nil }}
}

func (s *schema) size(a *hostcall.Arg, i int, name string) {
	if a.Kind == hostcall.Vectors {
		s.vars[name+"_count"] = &variable{kind: kindInt, num: func(c *hostcall.Call) int64 { return int64(c.Value(i).Len) }}
		s.vars[name+"_size"] = &variable{kind: kindInt, num: func(c *hostcall.Call) int64 {
			n := int64(0)
			for _, v := range c.Value(i).Vecs {
				n += int64(v.Len)
			}
			return n
		}}
		return
	}
	s.vars[name+"_size"] = &variable{kind: kindInt, num: func(c *hostcall.Call) int64 { return int64(len(c.Value(i).Data)) }}
}

func (s *schema) scalar(a *hostcall.Arg, i int, name string) {
	typ := s.fn.Params[a.Param]
	switch {
	case typ == hostcall.F64:
		s.vars[name] = &variable{kind: kindFloat, float: func(c *hostcall.Call) float64 { return math.Float64frombits(c.Num(i)) }}
		return
	case typ == hostcall.F32:
		s.vars[name] = &variable{kind: kindFloat, float: func(c *hostcall.Call) float64 { return float64(math.Float32frombits(uint32(c.Num(i)))) }}
		return
	case a.Kind == hostcall.Int && typ == hostcall.I32:
		s.vars[name] = &variable{kind: kindInt, num: func(c *hostcall.Call) int64 { return int64(int32(c.Num(i))) }}
	case a.Kind == hostcall.Int:
		s.vars[name] = &variable{kind: kindInt, num: func(c *hostcall.Call) int64 { return int64(c.Num(i)) }}
	case typ == hostcall.I32:
		s.vars[name] = &variable{kind: kindInt, num: func(c *hostcall.Call) int64 { return int64(uint32(c.Num(i))) }}
	default:
		// CEL's int has 63 bits and a sign. What is above is as much as it can say.
		s.vars[name] = &variable{kind: kindInt, num: func(c *hostcall.Call) int64 { return int64(min(c.Num(i), math.MaxInt64)) }}
	}
	num := s.vars[name].num
	switch a.Kind {
	case hostcall.Flags:
		s.vars[name+"_names"] = flagsVariable(a.Names, num)
	case hostcall.Enum:
		names := a.Names
		s.vars[name+"_name"] = &variable{kind: kindString, max: 64, str: func(c *hostcall.Call) (string, error) {
			if n := num(c); n >= 0 && n < int64(len(names)) {
				return names[n], nil
			}
			return "", nil
		}}
	}
}

func flagsVariable(names []string, num func(*hostcall.Call) int64) *variable {
	return &variable{kind: kindStrings, max: uint64(len(names)), bits: names, num: num, strs: func(c *hostcall.Call) ([]string, error) {
		list := []string{}
		for b, n := 0, num(c); b < len(names); b++ {
			if n&(1<<b) != 0 {
				list = append(list, names[b])
			}
		}
		return list, nil
	}}
}

func textVariable(i int, most uint32) *variable {
	if most == 0 {
		most = maxText
	}
	return &variable{kind: kindString, max: uint64(most), str: func(c *hostcall.Call) (string, error) {
		b := c.Text(i)
		if !utf8.Valid(b) {
			return "", errNoValue
		}
		// The bytes are the call's own copy and stay as they are while it is judged.
		return unsafe.String(unsafe.SliceData(b), len(b)), nil
	}}
}

func base(of func(*hostcall.Call) (string, error)) func(*hostcall.Call) (string, error) {
	return func(c *hostcall.Call) (string, error) {
		p, err := of(c)
		if err != nil {
			return "", err
		}
		return path.Base(p), nil
	}
}

// url offers what of a URL decides where a request goes, normalized as the grants see it.
func (s *schema) url(i int) {
	parse := func(c *hostcall.Call) (fetchTarget, *url.URL, error) {
		u, err := url.Parse(string(c.Text(i)))
		if err != nil {
			return fetchTarget{}, nil, errNoValue
		}
		t, err := target(u)
		return t, u, err
	}
	part := func(f func(fetchTarget, *url.URL) string) *variable {
		return &variable{kind: kindString, max: maxText, str: func(c *hostcall.Call) (string, error) {
			t, u, err := parse(c)
			if err != nil {
				return "", err
			}
			return f(t, u), nil
		}}
	}
	s.vars["call.scheme"] = part(func(t fetchTarget, _ *url.URL) string { return t.scheme })
	s.vars["call.host"] = part(func(t fetchTarget, _ *url.URL) string { return t.host })
	s.vars["call.url_path"] = part(func(_ fetchTarget, u *url.URL) string { return u.Path })
	s.vars["call.port"] = &variable{kind: kindInt, num: func(c *hostcall.Call) int64 {
		t, _, err := parse(c)
		if err != nil {
			return 0
		}
		return int64(t.port)
	}}
}

// object is what argument i stands for.
func object(c *hostcall.Call, i int) (string, error) {
	c.Resolve()
	if o := c.Value(i).Object; o != "" {
		return o, nil
	}
	if c.Unresolved != hostcall.Success {
		return "", c.Unresolved
	}
	if c.Func.Args[i].Kind == hostcall.FD {
		return "", nil // a stream or a socket: nothing that has a path
	}
	return "", errNoValue
}

// names lists the variables, for messages.
func (s *schema) names() string {
	return strings.Join(slices.Sorted(maps.Keys(s.vars)), ", ")
}

// asOpen is how a rename or link is judged by the rules for path_open: like an open of its i-th path. Whatever else an
// open would say is all zero, or all set, as ones says: a rule must not be escaped by what a rename has no words for.
func asOpen(open *schema, pathArg, fdArg int, ones bool) *schema {
	s := &schema{fn: open.fn, vars: map[string]*variable{}}
	for name, v := range open.vars {
		w := *v
		switch {
		case v.kind == kindInt || v.bits != nil:
			n := int64(0)
			if ones {
				n = math.MaxInt64
			}
			w.num = func(*hostcall.Call) int64 { return n }
			if v.bits != nil {
				w = *flagsVariable(v.bits, w.num)
			}
		case name == "call.function" || name == "call.module":
		case v.kind == kindString:
			w.str = func(*hostcall.Call) (string, error) { return "", nil }
		}
		s.vars[name] = &w
	}
	obj := func(i int) func(*hostcall.Call) (string, error) {
		return func(c *hostcall.Call) (string, error) { return object(c, i) }
	}
	put := func(name string, str func(*hostcall.Call) (string, error), objects bool) {
		if _, ok := s.vars[name]; ok {
			s.vars[name] = &variable{kind: kindString, objects: objects, max: maxText, str: str}
		}
	}
	put("call.path", obj(pathArg), true)
	put("call.name", base(obj(pathArg)), true)
	put("call.path_name", base(obj(pathArg)), true)
	put("call.path_text", textVariable(pathArg, 0).str, false)
	put("call.fd.path", obj(fdArg), true)
	if v, ok := s.vars["call.fd"]; ok && v.kind == kindInt {
		s.vars["call.fd"] = &variable{kind: kindInt, num: func(c *hostcall.Call) int64 { return int64(c.Uint32(fdArg)) }}
	}
	s.vars["call.paths"] = &variable{kind: kindStrings, objects: true, max: 1, strs: func(c *hostcall.Call) ([]string, error) {
		o, err := object(c, pathArg)
		return []string{o}, err
	}}
	return s
}
