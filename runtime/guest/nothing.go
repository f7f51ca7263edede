package guest

import (
	"context"
	"net/http"

	"github.com/ripstop-vm/ripstop/runtime/hostcall"
)

// nothing is Services without a world.
type nothing struct{}

func (nothing) Fetch(context.Context, *http.Request) (*http.Response, error) {
	return nil, hostcall.ENOSYS
}
func (nothing) Invoke(context.Context, string, *http.Request) (*http.Response, error) {
	return nil, hostcall.ENOSYS
}
func (nothing) Enqueue(context.Context, QueuedRequest) (Enqueued, error) {
	return Enqueued{}, hostcall.ENOSYS
}
func (nothing) KVGet(context.Context, string, string) ([]byte, uint64, error) {
	return nil, 0, hostcall.ENOSYS
}
func (nothing) KVPut(context.Context, string, string, []byte, *uint64) (uint64, error) {
	return 0, hostcall.ENOSYS
}
func (nothing) KVDelete(context.Context, string, string, *uint64) error { return hostcall.ENOSYS }
func (nothing) KVList(context.Context, string, string, string, int) ([]KVItem, error) {
	return nil, hostcall.ENOSYS
}
func (nothing) Config(string) (string, bool)                   { return "", false }
func (nothing) Secret(context.Context, string) ([]byte, error) { return nil, hostcall.ENOSYS }
func (nothing) Log(context.Context, Line)                      {}
func (nothing) Metric(context.Context, string, string, float64) {
}
