package translate

// TickFuel is the most fuel between two ticks: a few microseconds of ordinary code.
const TickFuel = 10_000

// Meter is the host's side of a translated module's fuel: it hands out the fuel of a budget tick by tick and knows how
// much was used. The zero value has no fuel. One goroutine uses it at a time.
//
// Before the outermost call into an instance, its fuel global is set to Begin(budget), and its depth global to the bound in bytes. When the
// call has returned, by whatever way, Used(fuel global) is what it took.
type Meter struct {
	// Step is the fuel up to the tick after the next, for a guest whose fuel takes longer than most; 0 means TickFuel, which bounds it. It changes
	// nothing of how much fuel there is.
	Step          int64
	budget, given int64
}

func (m *Meter) step() int64 {
	if m.Step <= 0 {
		return TickFuel
	}
	return min(m.Step, TickFuel)
}

// Begin starts a budget of fuel, which is not negative, and answers what the fuel global has to be set to.
func (m *Meter) Begin(budget int64) int64 {
	m.budget, m.given = budget, min(budget, m.step())
	return m.given
}

// Tick is what the imported tick function does with its first parameter: it answers what to return, or false if the budget
// is used up and the guest has to end. The second parameter is the depth: if it is negative the guest has to end, too,
// because its stack is.
func (m *Meter) Tick(fuel int64) (grant int64, ok bool) {
	left := m.budget - m.Used(fuel)
	if left < 0 {
		return 0, false
	}
	grant = min(left, m.step())
	m.given += grant - fuel
	return grant, true
}

// Used is the fuel that was taken from the budget, when the fuel global is fuel. It may exceed the budget by what is charged
// between two checks.
func (m *Meter) Used(fuel int64) int64 { return m.given - fuel }
