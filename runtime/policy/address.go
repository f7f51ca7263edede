package policy

import (
	"context"
	"net/netip"
	"syscall"
)

// notPublic are the ranges that a fetch may not reach unless the grant says so: what is not globally reachable by the
// IANA special-purpose registries (RFC 6890 and its updates), and every range that embeds an IPv4 address behind a
// translator or tunnel, since those lead back to the ranges above them.
var notPublic = []struct {
	prefix netip.Prefix
	what   string
}{
	{netip.MustParsePrefix("0.0.0.0/8"), "this network"},
	{netip.MustParsePrefix("10.0.0.0/8"), "private"},
	{netip.MustParsePrefix("100.64.0.0/10"), "shared by a carrier (CGNAT)"},
	{netip.MustParsePrefix("127.0.0.0/8"), "loopback"},
	{netip.MustParsePrefix("169.254.0.0/16"), "link-local"},
	{netip.MustParsePrefix("172.16.0.0/12"), "private"},
	{netip.MustParsePrefix("192.0.0.0/24"), "for protocol assignments"},
	{netip.MustParsePrefix("192.0.2.0/24"), "for documentation"},
	{netip.MustParsePrefix("192.31.196.0/24"), "an AS112 address"},
	{netip.MustParsePrefix("192.52.193.0/24"), "for AMT relays"},
	{netip.MustParsePrefix("192.88.99.0/24"), "a 6to4 relay"},
	{netip.MustParsePrefix("192.168.0.0/16"), "private"},
	{netip.MustParsePrefix("192.175.48.0/24"), "an AS112 address"},
	{netip.MustParsePrefix("198.18.0.0/15"), "for benchmarking"},
	{netip.MustParsePrefix("198.51.100.0/24"), "for documentation"},
	{netip.MustParsePrefix("203.0.113.0/24"), "for documentation"},
	{netip.MustParsePrefix("224.0.0.0/4"), "multicast"},
	{netip.MustParsePrefix("240.0.0.0/4"), "reserved"},
	{netip.MustParsePrefix("::/96"), "unspecified, loopback or an IPv4-compatible address"},
	{netip.MustParsePrefix("::ffff:0:0/96"), "an IPv4-mapped address"},
	{netip.MustParsePrefix("::ffff:0:0:0/96"), "an IPv4-translated address"},
	{netip.MustParsePrefix("64:ff9b::/96"), "a NAT64 address"},
	{netip.MustParsePrefix("64:ff9b:1::/48"), "a local NAT64 address"},
	{netip.MustParsePrefix("100::/64"), "for discarding"},
	{netip.MustParsePrefix("100:0:0:1::/64"), "for discarding"},
	{netip.MustParsePrefix("2001::/23"), "for protocol assignments (Teredo among them)"},
	{netip.MustParsePrefix("2001:db8::/32"), "for documentation"},
	{netip.MustParsePrefix("2002::/16"), "a 6to4 address"},
	{netip.MustParsePrefix("3fff::/20"), "for documentation"},
	{netip.MustParsePrefix("5f00::/16"), "for segment routing"},
	{netip.MustParsePrefix("fc00::/7"), "private (ULA)"},
	{netip.MustParsePrefix("fe80::/10"), "link-local"},
	{netip.MustParsePrefix("fec0::/10"), "site-local"},
	{netip.MustParsePrefix("ff00::/8"), "multicast"},
}

// NotPublic says what kind of address a is if it is not a public one; empty if it is. An IPv4-mapped address is judged as
// the IPv4 address it stands for.
func NotPublic(a netip.Addr) string {
	a = a.Unmap().WithZone("")
	for _, r := range notPublic {
		if r.prefix.Contains(a) {
			return r.what
		}
	}
	return ""
}

// Address reports whether a may be dialled. The error is a *RefusedError.
func (f FetchGrant) Address(a netip.Addr) error {
	if !a.IsValid() {
		return &RefusedError{What: "address", Name: "", Why: "it is none"}
	}
	a = a.Unmap()
	what := NotPublic(a)
	switch {
	case what == "" || f.private || f.addr.IsValid() && f.addr == a:
		return nil
	default:
		return &RefusedError{What: "address", Name: a.String(), Why: "it is " + what}
	}
}

// Control is a net.Dialer's Control: it refuses the connection when the resolved address is not covered.
func (f FetchGrant) Control(network, address string, _ syscall.RawConn) error {
	switch network {
	case "tcp", "tcp4", "tcp6":
	default:
		return &RefusedError{What: "address", Name: address, Why: network + " is not spoken"}
	}
	ap, err := netip.ParseAddrPort(address)
	if err != nil {
		return &RefusedError{What: "address", Name: address, Why: "it is none"}
	}
	return f.Address(ap.Addr())
}

// fetchKey is where a request's context carries its FetchGrant to the dialler.
type fetchKey struct{}

// controlContext is a net.Dialer's ControlContext: it judges by the grant in ctx, and without one refuses.
func controlContext(ctx context.Context, network, address string, c syscall.RawConn) error {
	f, ok := ctx.Value(fetchKey{}).(FetchGrant)
	if !ok {
		return &RefusedError{What: "address", Name: address, Why: "no grant was looked up for it"}
	}
	return f.Control(network, address, c)
}
