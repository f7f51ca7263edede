package module

// Bounds are what a module may hold. A zero field means the default in brackets. The defaults keep compilation within
// seconds, mostly, and leave real programs room: the test binary of net/http (21 MB, 12,000 functions) has at most 21 locals,
// 1,000 nested blocks and 1,400 jump targets in a function, 375,000 targets and 2.6 million blocks × locals in all; a debug build
// in Rust 813 locals and 58,000 blocks × locals in a function. An engine's time grows with that product, with the depth of nesting,
// and with the square of a jump table (1 s for 50,000 targets).
//
// The last three bounds are on what wazero repeats in a function (see graph), and each is some 2 s of its time. Of 50 programs in Go, C, Rust, Zig
// and Haskell, debug builds among them, the tests of net/http have the most once they are translated: 10 million climbs, 17 million lookups
// and 200 million comparisons, a tenth, a sixth and a twentieth of what is allowed. No single function had more than 100,000, 180,000 and
// 25 million.
type Bounds struct {
	Size         int // bytes of the binary [64 MiB]
	Types        int // [100,000]
	Imports      int // [10,000]
	Functions    int // defined here [200,000]
	Globals      int // [100,000]
	Exports      int // [100,000]
	Tables       int // [64]
	Elements     int // element segments [100,000]
	DataSegments int // [200,000]

	TableElements  uint64 // minima of all tables together [262,144]; engines make a table in one go
	ElementEntries int    // entries of all element segments together [1,000,000]
	MemoryPages    uint64 // a memory's minimum, in pages of 64 KiB [65,536]
	Values         int    // parameters and results of a type together [1,000]

	FunctionBytes  int    // of one body [4 MiB]
	FunctionLocals int    // of one function, parameters included [20,000]
	Locals         int    // of all functions together [4,000,000]
	BlockLocals    uint64 // blocks × locals of one function [4,000,000]
	AllBlockLocals uint64 // the same of all functions together [40,000,000]
	Nesting        int    // blocks open at once in one function [5,000]
	Labels         int    // targets of all jump tables of one function [32,768]
	AllLabels      int    // the same of all functions together [1,000,000]

	// AllReloads is for globals: calls × mutable globals, of all functions together [10,000,000]. After each call wazero loads
	// all of them anew, and then leaves out what nobody needs: 0.7 s for a million. net/http's tests, translated, have 1.8 million.
	AllReloads uint64
	// AllClimbs is for blocks that follow one another: steps from each block up its dominators, of all functions together [100,000,000].
	// One function may have 10,000 br_if, 7,000 if or 7,000 empty loops in a row; 3,300 loops when they are to be translated.
	AllClimbs uint64
	// AllLookups is for blocks between where a local is set and where ways meet: blocks looked at for each value, of all functions
	// together [100,000,000]. One may have 1,000 br_if in a row to the same label, and 200 locals.
	AllLookups uint64
	// AllComparisons is for values that loops keep: ways between blocks × locals² × loops in one another, of all functions
	// together [4,000,000,000]. One may have 440 nested loops and 100 locals; 310 loops when they are to be translated.
	AllComparisons uint64
}

// DefaultBounds is the platform's bounds.
func DefaultBounds() Bounds { return Bounds{}.Filled() }

// Filled is b with the defaults in place of zeros.
func (b Bounds) Filled() Bounds {
	fill(&b.Size, 64<<20)
	fill(&b.Types, 100_000)
	fill(&b.Imports, 10_000)
	fill(&b.Functions, 200_000)
	fill(&b.Globals, 100_000)
	fill(&b.Exports, 100_000)
	fill(&b.Tables, 64)
	fill(&b.Elements, 100_000)
	fill(&b.DataSegments, 200_000)
	fill(&b.TableElements, 1<<18)
	fill(&b.ElementEntries, 1_000_000)
	fill(&b.MemoryPages, maxPages)
	fill(&b.Values, 1000)
	fill(&b.FunctionBytes, 4<<20)
	fill(&b.FunctionLocals, 20_000)
	fill(&b.Locals, 4_000_000)
	fill(&b.BlockLocals, 4_000_000)
	fill(&b.AllBlockLocals, 40_000_000)
	fill(&b.Nesting, 5_000)
	fill(&b.Labels, 32_768)
	fill(&b.AllLabels, 1_000_000)
	fill(&b.AllReloads, 10_000_000)
	fill(&b.AllClimbs, 100_000_000)
	fill(&b.AllLookups, 100_000_000)
	fill(&b.AllComparisons, 4_000_000_000)
	return b
}

func fill[T int | uint64](field *T, standard T) {
	if *field == 0 {
		*field = standard
	}
}

// maxPages is the whole of a 32-bit address space.
const maxPages = 65_536
