// Package translate rewrites modules so that a host can bound and see what they do: binary translation, once, before a
// module is compiled. What a module means does not change; the specification's test suites give the same results
// before and after it, and so do generated modules.
//
// Translate is a pure function over a valid module. Whoever calls it has an engine validate the original first and the
// result afterwards. It knows no engine.
//
// # Fuel
//
// Instructions have a cost (about one for a cycle or less), and code is charged region by region: when the first
// instruction of a region is reached, the cost of all of it is taken off the exported global FuelExport. A region is what is run
// whole unless the guest ends within, so it goes on behind blocks, ifs and loops that no branch leaves. This makes fuel a
// matter of the module and its inputs alone: it is the same for any engine, each time. A guest that ends within a
// region, by a trap or because a host call ended it, was charged for the whole region; so was each of its callers.
//
// The charge itself never ends a guest. It is checked, and the imported function TickName called if the fuel is below zero:
//
//   - at the head of each loop, in each turn, where the call itself is outside of the loop if no other is within;
//   - at the entry of each function that calls functions of the module or through a table;
//   - wherever otherwise more than 4,096 fuel could go by without a check, or more than 128 after a call.
//
// So a host that gives TickFuel at a time gets control after at most TickFuel and about 4,096 more, or a chunk of 64 KiB, whatever
// the guest does: it checks flags and deadlines there, and ends the guest once its budget is used up. Meter does the arithmetic.
//
// memory.copy, memory.fill, memory.init, table.copy, table.fill and table.init are charged by length, a fuel for each 8
// bytes or table entry, and done in chunks of at most 64 KiB: bounds are checked for the whole first, and a trap changes
// nothing, as the specification says. memory.grow and table.grow are charged by what was added, after it was. A guest that
// is ended by a tick may leave one of these half done.
//
// # Depth
//
// The exported global DepthExport counts down bytes of frames: a function that calls others takes off its frame at its entry, and
// gives it back when it returns or makes a tail call. A frame has 64 bytes, 8 for each parameter, local, and value of its operand
// stack at its highest, and 8 more for each local that is a v128. It is checked at the entry together with the fuel; the tick sees
// a negative depth and ends the guest. Functions that call only imports, or nothing, count from a frame of 1 KiB; so the stack is
// larger than the bound by at most one small frame. After a trap the global stays as it was: the host sets it before each
// outermost call, and keeps it over calls into the guest from a host call.
//
// # State
//
// Mutable globals are exported. Active data segments become Result.Image. The start function becomes the export StartExport. Tables
// can't grow past a bound. DirtyExport is 1 once an instruction wrote to a table or dropped a segment, or was about to:
// no engine hands out such state, so a sandbox of which it is 1 is not returned to its image.
//
// # Order at instantiation
//
// Instantiate Result.Wasm, write Result.Image into the memory, set fuel and depth, call StartExport if Result.Start says so. This is
// the order of the specification (core specification, 4.5.4), since element segments come before data.
//
// # Names and debug information
//
// Functions keep their names; those that were added have names that begin with Prefix. DWARF and other sections that speak of
// places in the code are dropped.
package translate
