// Package model is what the API's requests and answers hold: the types of openapi.yaml's schemas, which generate it. Server and
// client share them.
package model

import "strings"

// Error makes a problem an error, as a client sees it.
func (p *Problem) Error() string {
	if p.Detail == "" {
		return strings.ToLower(p.Title)
	}
	return p.Detail
}
