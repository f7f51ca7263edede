package manifest

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/url"
	"reflect"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"

	yamlerrors "github.com/goccy/go-yaml"

	"github.com/ripstop-vm/ripstop/internal/nearest"
	"github.com/ripstop-vm/ripstop/runtime/policy"
)

// maxDepth is how deep a manifest may nest. What it has to say needs five levels.
const maxDepth = 32

// decoder fills a Manifest from YAML, and remembers where each key was written.
type decoder struct {
	src    []byte
	root   ast.Node
	errs   []error
	values map[string]ast.Node // by key; where a value was written
	keys   map[string]ast.Node
	failed map[string]bool // keys whose value could not be read: what else is said of them is only a consequence
}

func (d *decoder) decode(src []byte, into *Manifest) {
	d.src = src
	d.values, d.keys, d.failed = map[string]ast.Node{}, map[string]ast.Node{}, map[string]bool{}
	if len(src) > MaxBytes {
		d.errs = append(d.errs, &Error{Line: 1, Column: 1, Msg: fmt.Sprintf("%d bytes, at most %d are allowed", len(src), MaxBytes)})
		return
	}
	if !utf8.Valid(src) {
		d.errs = append(d.errs, &Error{Line: 1, Column: 1, Msg: "is not UTF-8 text"})
		return
	}
	if line := tooDeep(src); line > 0 {
		d.errs = append(d.errs, &Error{Line: line, Column: 1, Msg: "is nested too deeply"})
		return
	}
	file, err := parser.ParseBytes(src, 0)
	if err != nil {
		d.errs = append(d.errs, syntaxError(err))
		return
	}
	var body ast.Node
	for _, doc := range file.Docs {
		if doc.Body == nil || doc.Body.Type() == ast.CommentType || doc.Body.Type() == ast.CommentGroupType {
			continue
		}
		if body != nil {
			d.fail(doc.Body, "", "a second document: a manifest is one")
			return
		}
		body = doc.Body
	}
	if body == nil {
		return // an empty manifest is one that leaves out everything
	}
	d.root = body
	d.value(body, reflect.ValueOf(into).Elem(), "", 0)
}

// tooDeep finds text that would make the parser recurse deeply, or take time that grows with the square of it, and
// answers its line. It counts brackets, and marks of nesting that follow each other on a line, whatever they stand in:
// nothing that a manifest says comes near the bounds.
func tooDeep(src []byte) int {
	depth, line, marks := 0, 1, 0
	for i, b := range src {
		switch b {
		case '\n', ',':
			marks = 0
			if b == '\n' {
				line++
			}
		case '[', '{', '(':
			depth++
		case ']', '}', ')':
			depth = max(0, depth-1)
		case '-', '?', ':':
			if i+1 < len(src) && (src[i+1] == ' ' || src[i+1] == '\t') {
				marks++
			}
		case '&', '!', '*': // an anchor, a tag, an alias: at the begin of a word
			if (i == 0 || src[i-1] == ' ' || src[i-1] == '\n') && i+1 < len(src) && src[i+1] > ' ' && src[i+1] != b {
				marks++
			}
		}
		if depth > 200 || marks > 200 {
			return line
		}
	}
	// Block collections nest by indentation.
	var indents []int
	for i, l := range bytes.Split(src, []byte("\n")) {
		text := bytes.TrimLeft(l, " ")
		if len(bytes.TrimSpace(text)) == 0 {
			continue
		}
		n := len(l) - len(text)
		for len(indents) > 0 && indents[len(indents)-1] >= n {
			indents = indents[:len(indents)-1]
		}
		indents = append(indents, n)
		if len(indents) > 200 {
			return i + 1
		}
	}
	return 0
}

func syntaxError(err error) *Error {
	var y yamlerrors.Error
	if errors.As(err, &y) {
		e := &Error{Line: 1, Column: 1, Msg: y.GetMessage()}
		if t := y.GetToken(); t != nil && t.Position != nil {
			e.Line, e.Column = t.Position.Line, t.Position.Column
		}
		return e
	}
	first, _, _ := strings.Cut(err.Error(), "\n")
	return &Error{Line: 1, Column: 1, Msg: first}
}

func (d *decoder) fail(n ast.Node, key, format string, args ...any) {
	d.failed[key] = true
	line, column := place(n)
	d.errs = append(d.errs, &Error{Line: line, Column: column, Key: key, Msg: fmt.Sprintf(format, args...)})
}

// place is where a node begins.
func place(n ast.Node) (line, column int) {
	var t *token.Token
	switch n := n.(type) {
	case nil:
		return 1, 1
	case *ast.MappingNode:
		if !n.IsFlowStyle && len(n.Values) > 0 {
			return place(n.Values[0].Key)
		}
		t = n.Start
	case *ast.MappingValueNode:
		return place(n.Key)
	case *ast.MappingKeyNode:
		t = n.Start
	default:
		t = n.GetToken()
	}
	if t == nil || t.Position == nil {
		return 1, 1
	}
	return max(1, t.Position.Line), max(1, t.Position.Column)
}

// without drops problems of keys whose value could not even be read, but for the first: the rest are its consequences.
func (d *decoder) without(errs []error) []error {
	var kept []error
	for i, err := range errs {
		e, ok := err.(*Error)
		if ok && i >= len(d.errs) {
			drop := false
			for key := e.Key; key != ""; key = parent(key) {
				drop = drop || d.failed[key]
			}
			// Rules and capabilities with a hole in them are not judged further.
			for key := range d.failed {
				drop = drop || e.Key != "" && strings.HasPrefix(key, e.Key)
			}
			if drop {
				continue
			}
		}
		kept = append(kept, err)
	}
	return kept
}

// parent is the key one level up: "a.b[1].c" → "a.b[1]" → "a.b" → "a" → "".
func parent(key string) string {
	return key[:max(0, strings.LastIndexAny(key, ".["))]
}

// position finds where a key was written; offset counts bytes into its text, -1 for its begin.
func (d *decoder) position(key string, offset int) (line, column int) {
	for k := key; ; k = parent(k) {
		if n, ok := d.values[k]; ok {
			if k == key && offset >= 0 {
				return d.inText(n, offset)
			}
			return place(n)
		}
		if k == "" {
			return 1, 1
		}
	}
}

// inText finds a byte of a scalar's text in the source. Quoting, escapes and folding move it: text and source are read
// side by side, and what the source has more (quotes, backslashes, indentation) is passed over.
func (d *decoder) inText(n ast.Node, offset int) (line, column int) {
	line, column = place(n)
	text, ok := scalarText(n)
	if !ok {
		return line, column
	}
	p := d.offset(line, column)
	if lit, ok := n.(*ast.LiteralNode); ok && lit.Start != nil { // content begins after the header's line
		if i := bytes.IndexByte(d.src[p:], '\n'); i >= 0 {
			p += i + 1
		}
	}
	space := func(b byte) bool { return b == ' ' || b == '\n' || b == '\t' || b == '\r' }
	skip := func() {
		for p < len(d.src) && space(d.src[p]) {
			p++
		}
	}
	offset = min(offset, len(text))
	skip()
	for i := 0; i < offset; i++ {
		if space(text[i]) {
			for i+1 < offset && space(text[i+1]) {
				i++
			}
			skip()
			continue
		}
		for p < len(d.src) && d.src[p] != text[i] {
			p++
		}
		p++
	}
	if offset < len(text) && !space(text[offset]) {
		for p < len(d.src) && d.src[p] != text[offset] {
			p++
		}
	}
	p = min(p, len(d.src))
	before := d.src[:p]
	return bytes.Count(before, []byte("\n")) + 1, utf8.RuneCount(before[bytes.LastIndexByte(before, '\n')+1:]) + 1
}

// offset is the byte at a line and column.
func (d *decoder) offset(line, column int) int {
	at := 0
	for ; line > 1; line-- {
		i := bytes.IndexByte(d.src[at:], '\n')
		if i < 0 {
			return len(d.src)
		}
		at += i + 1
	}
	for ; column > 1 && at < len(d.src); column-- {
		_, n := utf8.DecodeRune(d.src[at:])
		at += n
	}
	return at
}

// scalarText is the text of a scalar node, whatever YAML takes it for.
func scalarText(n ast.Node) (string, bool) {
	switch n := n.(type) {
	case *ast.StringNode:
		return n.Value, true
	case *ast.LiteralNode:
		if n.Value == nil {
			return "", true
		}
		return n.Value.Value, true
	case *ast.IntegerNode:
		return n.Token.Value, true
	case *ast.FloatNode:
		return n.Token.Value, true
	case *ast.BoolNode:
		return n.Token.Value, true
	case *ast.InfinityNode:
		return n.Token.Value, true
	case *ast.NanNode:
		return n.Token.Value, true
	}
	return "", false
}

var (
	sizeType     = reflect.TypeFor[Size]()
	durationType = reflect.TypeFor[Duration]()
	goDuration   = reflect.TypeFor[time.Duration]()
	timeType     = reflect.TypeFor[time.Time]()
	fetchType    = reflect.TypeFor[policy.Fetch]()
	manyType     = reflect.TypeFor[policy.OneOrMany]()
)

// value reads n into v, which is at key.
func (d *decoder) value(n ast.Node, v reflect.Value, key string, depth int) {
	d.values[key] = n
	if depth > maxDepth {
		d.fail(n, key, "is nested too deeply")
		return
	}
	switch n.(type) {
	case *ast.AnchorNode, *ast.AliasNode, *ast.MergeKeyNode:
		d.fail(n, key, "anchors, aliases and merges are not supported: write it out")
		return
	case *ast.TagNode:
		d.fail(n, key, "tags are not supported")
		return
	case *ast.NullNode:
		return // as if left out
	}
	switch v.Type() {
	case sizeType:
		scalar(d, n, v, key, "a size such as 64MiB", ParseSize)
		return
	case durationType:
		scalar(d, n, v, key, "a duration such as 10s", ParseDuration)
		return
	case goDuration:
		scalar(d, n, v, key, "a duration such as 10s", func(s string) (time.Duration, error) {
			t, err := ParseDuration(s)
			return time.Duration(t), err
		})
		return
	case timeType:
		scalar(d, n, v, key, "a time such as 2026-01-02T15:04:05Z", func(s string) (time.Time, error) {
			t, err := time.Parse(time.RFC3339Nano, s)
			if err != nil {
				return t, fmt.Errorf("%s is no time: write it like 2026-01-02T15:04:05Z", quote(s))
			}
			return t.UTC(), nil
		})
		return
	case fetchType:
		if s, ok := n.(*ast.StringNode); ok {
			f, err := parseFetch(s.Value)
			if err != nil {
				d.fail(n, key, "%s", err)
				return
			}
			v.Set(reflect.ValueOf(f))
			return
		}
	case manyType:
		if s, ok := scalarText(n); ok {
			v.Set(reflect.ValueOf(policy.OneOrMany{s}))
			return
		}
	}
	switch v.Kind() {
	case reflect.Struct:
		d.structure(n, v, key, depth)
	case reflect.Map:
		d.mapping(n, v, key)
	case reflect.Slice:
		seq, ok := n.(*ast.SequenceNode)
		if !ok {
			d.fail(n, key, "a list is wanted, not %s", describe(n))
			return
		}
		list := reflect.MakeSlice(v.Type(), len(seq.Values), len(seq.Values))
		for i, e := range seq.Values {
			at := fmt.Sprintf("%s[%d]", key, i)
			if _, null := e.(*ast.NullNode); null || e == nil {
				d.fail(seq, at, "an entry is empty")
				continue
			}
			d.value(e, list.Index(i), at, depth+1)
		}
		v.Set(list)
	case reflect.Pointer:
		p := reflect.New(v.Type().Elem())
		d.value(n, p.Elem(), key, depth+1)
		v.Set(p)
	case reflect.String:
		switch n.(type) {
		case *ast.StringNode, *ast.LiteralNode:
			s, _ := scalarText(n)
			v.SetString(s)
		default:
			if s, ok := scalarText(n); ok {
				d.fail(n, key, "a text is wanted, not %s: put quotes around %s", describe(n), s)
				return
			}
			d.fail(n, key, "a text is wanted, not %s", describe(n))
		}
	case reflect.Bool:
		b, ok := n.(*ast.BoolNode)
		if !ok {
			d.fail(n, key, "true or false is wanted, not %s", describe(n))
			return
		}
		v.SetBool(b.Value)
	default: // the integers
		i, ok := n.(*ast.IntegerNode)
		if !ok {
			d.fail(n, key, "a whole number is wanted, not %s", describe(n))
			return
		}
		switch x := i.Value.(type) {
		case int64:
			if v.CanUint() && x >= 0 && !v.OverflowUint(uint64(x)) {
				v.SetUint(uint64(x))
				return
			}
			if v.CanInt() && !v.OverflowInt(x) {
				v.SetInt(x)
				return
			}
		case uint64:
			if v.CanUint() && !v.OverflowUint(x) {
				v.SetUint(x)
				return
			}
			if v.CanInt() && x < 1<<63 && !v.OverflowInt(int64(x)) {
				v.SetInt(int64(x))
				return
			}
		}
		d.fail(n, key, "%s is out of range", i.Token.Value)
	}
}

// scalar reads text into v by parse.
func scalar[T any](d *decoder, n ast.Node, v reflect.Value, key, want string, parse func(string) (T, error)) {
	s, ok := scalarText(n)
	if !ok {
		d.fail(n, key, "%s is wanted, not %s", want, describe(n))
		return
	}
	x, err := parse(s)
	if err != nil {
		d.fail(n, key, "%s", err)
		return
	}
	v.Set(reflect.ValueOf(x))
}

func describe(n ast.Node) string {
	switch n.(type) {
	case *ast.MappingNode, *ast.MappingValueNode:
		return "a mapping"
	case *ast.SequenceNode:
		return "a list"
	case *ast.IntegerNode, *ast.FloatNode, *ast.InfinityNode, *ast.NanNode:
		return "a number"
	case *ast.BoolNode:
		return "a truth value"
	case *ast.StringNode, *ast.LiteralNode:
		return "a text"
	}
	return n.Type().YAMLName()
}

// entries lists the pairs of a mapping. YAML's parser has one of its own for a mapping of a single pair.
func (d *decoder) entries(n ast.Node, key string) ([]*ast.MappingValueNode, bool) {
	switch n := n.(type) {
	case *ast.MappingNode:
		return n.Values, true
	case *ast.MappingValueNode:
		return []*ast.MappingValueNode{n}, true
	}
	d.fail(n, key, "a mapping is wanted, not %s", describe(n))
	return nil, false
}

// each calls f for every pair of a mapping, once for each key.
func (d *decoder) each(n ast.Node, key string, f func(name string, e *ast.MappingValueNode)) {
	list, ok := d.entries(n, key)
	if !ok {
		return
	}
	seen := map[string]bool{}
	for _, e := range list {
		name, ok := scalarText(e.Key)
		if !ok {
			d.fail(e.Key, key, "a key is wanted, not %s", describe(e.Key))
			continue
		}
		if seen[name] {
			d.fail(e.Key, join2(key, name), "is there twice")
			continue
		}
		seen[name] = true
		d.keys[join2(key, name)] = e.Key
		f(name, e)
	}
}

func join2(key, name string) string {
	if key == "" {
		return name
	}
	return key + "." + name
}

func (d *decoder) mapping(n ast.Node, v reflect.Value, key string) {
	m := reflect.MakeMap(v.Type())
	d.each(n, key, func(name string, e *ast.MappingValueNode) {
		at := join2(key, name)
		d.values[at] = e.Value
		switch e.Value.(type) {
		case *ast.NullNode:
			m.SetMapIndex(reflect.ValueOf(name), reflect.ValueOf(""))
			return
		}
		// Numbers and truth values are texts here, as they are written: PORT: 8080.
		s, ok := scalarText(e.Value)
		if !ok {
			d.fail(e.Value, at, "a text is wanted, not %s", describe(e.Value))
			return
		}
		m.SetMapIndex(reflect.ValueOf(name), reflect.ValueOf(s))
	})
	v.Set(m)
}

func (d *decoder) structure(n ast.Node, v reflect.Value, key string, depth int) {
	names := fields(v.Type())
	d.each(n, key, func(name string, e *ast.MappingValueNode) {
		for i, f := range names {
			if f == name {
				d.value(e.Value, v.Field(i), join2(key, name), depth+1)
				return
			}
		}
		msg := "there is no such key"
		if near := nearest.Of(name, names); near != "" {
			msg += ": did you mean " + near + "?"
		} else {
			msg += ": known are " + strings.Join(names, ", ")
		}
		d.failed[key+"?"] = true
		line, column := place(e.Key)
		d.errs = append(d.errs, &Error{Line: line, Column: column, Key: join2(key, name), Msg: msg})
	})
}

// fields are the keys of a struct, in the order of its fields.
func fields(t reflect.Type) []string {
	var names []string
	for i := range t.NumField() {
		name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
		names = append(names, name)
	}
	return names
}

// parseFetch reads the short form of a fetch grant: scheme://host[:port].
func parseFetch(s string) (policy.Fetch, error) {
	const how = "write it like https://api.example.com, http://10.0.0.7:8080 or https://*.example.com"
	scheme, rest, ok := strings.Cut(s, "://")
	if !ok {
		return policy.Fetch{}, fmt.Errorf("%s has no scheme: %s", quote(s), how)
	}
	if strings.ContainsAny(rest, "/?#") {
		return policy.Fetch{}, fmt.Errorf("%s has a path: a grant is of a whole server; use a rule to judge paths", quote(s))
	}
	u, err := url.Parse(s)
	if err != nil || u.User != nil || u.Opaque != "" {
		return policy.Fetch{}, fmt.Errorf("%s is no server: %s", quote(s), how)
	}
	f := policy.Fetch{Scheme: scheme, Host: rest}
	if host, port, err := net.SplitHostPort(rest); err == nil {
		n, err := strconv.Atoi(port)
		if err != nil || n < 1 || n > 65535 {
			return policy.Fetch{}, fmt.Errorf("%s is no port in %s", quote(port), quote(s))
		}
		f.Host, f.Port = host, n
	}
	f.Host = strings.TrimSuffix(strings.TrimPrefix(f.Host, "["), "]")
	return f, nil
}
