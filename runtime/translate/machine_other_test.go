//go:build !(wasmtime && cgo)

package translate_test

func otherVariants() []variant { return nil }
