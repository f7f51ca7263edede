package sdk

import "net/http"

// contentType is http.DetectContentType. Most bodies are text that begins like nothing else, which a look at each byte shows: asking
// net/http's dozens of signatures takes a sandbox longer than many a handler does.
func contentType(p []byte) string {
	const most = 512 // what net/http looks at
	p = p[:min(len(p), most)]
	if len(p) == 0 {
		return http.DetectContentType(p)
	}
	// What begins with one of these, or has the mark of a font, may be something else.
	switch c := p[0]; {
	case c <= ' ', c >= 0x7f:
		return http.DetectContentType(p)
	case c == '<', c == '%', c == 'B', c == 'G', c == 'R', c == 'F', c == 'O', c == 'M', c == 'I', c == 'P', c == 'w', c == 't':
		return http.DetectContentType(p)
	}
	if len(p) >= 36 && p[34] == 'L' && p[35] == 'P' {
		return http.DetectContentType(p)
	}
	for _, c := range p {
		if c < ' ' && c != '\n' && c != '\r' && c != '\t' {
			return http.DetectContentType(p)
		}
	}
	return "text/plain; charset=utf-8"
}
