package redis

import (
	"fmt"
	"strings"
	"testing"

	"github.com/ripstop-vm/ripstop/broker"
	"github.com/ripstop-vm/ripstop/internal/redistest"
)

func TestAServerIsReachedOverTLSWithACertificate(t *testing.T) {
	t.Parallel()
	cert, key := redistest.Certificate(t)
	server := redistest.StartTLS(t, "tls-cert-file "+cert, "tls-key-file "+key, "tls-ca-cert-file "+cert)
	url := fmt.Sprintf("rediss://%s", server.Addr())
	everyContract(t, mustOpen(t, fmt.Sprintf("%s?ca=%s&cert=%s&key=%s", url, cert, cert, key), Options{}))
	refuses(t, url+"?ca="+cert, Options{}, broker.ErrUnavailable) // the server wants a certificate, and hangs up
	refuses(t, url, Options{}, broker.ErrUnavailable, "certificate")
	refuses(t, strings.Replace(url, "rediss", "redis", 1), Options{}, broker.ErrUnavailable)
}
