package guest

import (
	"github.com/ripstop-vm/ripstop/runtime/hostcall"
	"github.com/ripstop-vm/ripstop/runtime/wasi"
)

// Libraries is what a runtime for jobs offers its guests: WASI and the task ABI.
func Libraries() []*hostcall.Library {
	return []*hostcall.Library{wasi.Library(), TaskLibrary()}
}
