//go:build !wasip1

package sdk

// Outside a sandbox there is no host to ask.

func logText(uint32, []byte) error                              { return ErrNoHost }
func configGet(string, []byte) (int, error)                     { return 0, ErrNoHost }
func secretGet(string) (stream, error)                          { return nil, ErrNoHost }
func kvGet(string, string) (stream, error)                      { return nil, ErrNoHost }
func kvPut(string, string, []byte, uint64) (stream, error)      { return nil, ErrNoHost }
func kvDelete(string, string, uint64) (stream, error)           { return nil, ErrNoHost }
func kvList(string, string, string, uint32) (stream, error)     { return nil, ErrNoHost }
func fetch(string, string, []byte, uint64) (stream, error)      { return nil, ErrNoHost }
func invoke(_, _, _ string, _ []byte, _ uint64) (stream, error) { return nil, ErrNoHost }
func enqueue(*queued) (stream, error)                           { return nil, ErrNoHost }
func metric(uint32, string, string) error                       { return ErrNoHost }
