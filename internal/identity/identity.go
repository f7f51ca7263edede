// Package identity names who takes part in a cluster. A certificate carries the name as its one URI: ripstop://host/ID.
package identity

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"strings"
)

// Role is what somebody is in a cluster.
type Role string

// The roles.
const (
	Control Role = "control" // a process with the broker's credentials
	Host    Role = "host"    // an agent
	Gateway Role = "gateway" // an ingress
)

// MaxID bounds an ID in bytes.
const MaxID = 63

// ErrInvalid says that something is not an identity.
var ErrInvalid = errors.New("not an identity")

// Identity is a role and an ID: 1 to MaxID lower-case ASCII letters, digits, '-' and '.', beginning and ending with a letter or a digit.
type Identity struct {
	Role Role
	ID   string
}

// String is "role/ID".
func (i Identity) String() string { return string(i.Role) + "/" + i.ID }

// URI is how a certificate names it.
func (i Identity) URI() *url.URL {
	return &url.URL{Scheme: "ripstop", Host: string(i.Role), Path: "/" + i.ID}
}

// Check checks both parts. It fails with ErrInvalid.
func (i Identity) Check() error {
	if i.Role != Control && i.Role != Host && i.Role != Gateway {
		return fmt.Errorf("%w: the role %.40q is none of control, host and gateway", ErrInvalid, string(i.Role))
	}
	bad := i.ID == "" || len(i.ID) > MaxID
	for _, c := range []byte(i.ID) {
		bad = bad || (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '.'
	}
	if bad || strings.Trim(i.ID, "-.") != i.ID {
		return fmt.Errorf("%w: the ID %.80q: it has 1 to %d of a-z, 0-9, '-' and '.', and begins and ends with a letter or a digit", ErrInvalid, i.ID, MaxID)
	}
	return nil
}

// Parse reads what String wrote. It fails with ErrInvalid.
func Parse(s string) (Identity, error) {
	role, id, _ := strings.Cut(s, "/")
	i := Identity{Role(role), id}
	return i, i.Check()
}

// Of answers whom a certificate names. It does not look at who signed it. It fails with ErrInvalid.
func Of(cert *x509.Certificate) (Identity, error) {
	if len(cert.URIs) != 1 {
		return Identity{}, fmt.Errorf("%w: the certificate has %d URIs, not one", ErrInvalid, len(cert.URIs))
	}
	u := cert.URIs[0]
	i := Identity{Role(u.Host), strings.TrimPrefix(u.Path, "/")}
	if err := i.Check(); err != nil {
		return Identity{}, err
	}
	if u.String() != i.URI().String() {
		return Identity{}, fmt.Errorf("%w: the certificate's URI is %.100q", ErrInvalid, u.String())
	}
	return i, nil
}
