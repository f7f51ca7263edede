package module_test

import (
	"bytes"
	"slices"
	"testing"

	"github.com/ripstop-vm/ripstop/runtime/module"
)

func TestOnlyWellFormedNamesAreLeftOfCustomSections(t *testing.T) {
	header := []byte("\x00asm\x01\x00\x00\x00")
	section := func(content string) []byte { return append([]byte{0, byte(len(content))}, content...) }
	const (
		moduleName = "\x00\x02\x01m"
		functions  = "\x01\x06\x02\x00\x01f\x01\x00"
		locals     = "\x02\x06\x01\x00\x01\x00\x01x"
	)
	for name, test := range map[string]struct{ in, want []byte }{
		"names stay":                           {section("\x04name" + moduleName + functions), section("\x04name" + moduleName + functions)},
		"names of locals go":                   {section("\x04name" + functions + locals), section("\x04name" + functions)},
		"other sections go":                    {slices.Concat(section("\x05other123"), section("\x04name"+moduleName)), section("\x04name" + moduleName)},
		"a second one goes":                    {slices.Concat(section("\x04name"+moduleName), section("\x04name"+functions)), section("\x04name" + moduleName)},
		"a malformed one leaves the second":    {slices.Concat(section("\x04name\x01\x01\x09"), section("\x04name"+functions)), section("\x04name" + functions)},
		"more names counted than there are":    {section("\x04name\x01\x05\xff\xff\xff\xff\x0f"), nil},
		"a subsection longer than its section": {section("\x04name\x01\x7f\x01\x00\x01f"), nil},
		"a subsection with something left":     {section("\x04name\x01\x05\x01\x00\x01fx"), nil},
		"subsections out of order":             {section("\x04name" + functions + moduleName), nil},
		"a name that is not UTF-8":             {section("\x04name\x00\x02\x01\xff"), nil},
		"nothing in it":                        {section("\x04name"), nil},
		"a name of the section that ends":      {section("\x09nam"), nil},
	} {
		t.Run(name, func(t *testing.T) {
			if got, want := module.PlainNames(slices.Concat(header, test.in)), slices.Concat(header, test.want); !bytes.Equal(got, want) {
				t.Errorf("%x becomes %x, want %x", test.in, got, want)
			}
		})
	}
}
