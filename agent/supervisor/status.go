package supervisor

import "github.com/ripstop-vm/ripstop/internal/wire"

// The states of a job's version in the worker.
const (
	StateReady    = "ready"    // it answers
	StateStarting = "starting" // the worker gets it ready, or is itself not there yet
	StateFailed   = "failed"   // it could not be started, or the worker died while it ran in it and has not started it since
)

// status is how a job's version is in the worker.
type status struct {
	version       uint64
	state, reason string
}

// Status is how a version of a job is: one of the states, and why it is not ready where that is known.
func (s *Supervisor) Status(job string, version uint64) (state, reason string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st, ok := s.statuses[job]
	if !ok || st.version != version { // its order is under way
		return StateStarting, ""
	}
	return st.state, st.reason
}

// assigned notes that the worker was told to serve a version. One that failed stays so until it is started.
func (s *Supervisor) assigned(job string, version uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if st, ok := s.statuses[job]; !ok || st.version != version || st.state == StateReady {
		s.statuses[job] = status{version: version, state: StateStarting}
	}
}

// started notes what a worker made of a version that it was told to serve.
func (s *Supervisor) started(w *worker, r wire.Report) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st, ok := s.statuses[r.Job]
	if !ok || st.version != r.Version || s.worker != w {
		return // it was not told so, or is about to be told otherwise
	}
	st.state, st.reason = StateReady, ""
	if p := sane(r.Problem); p != nil {
		st.state, st.reason = StateFailed, p.Detail
	}
	s.statuses[r.Job] = st
}

// restartLocked notes that nothing is served any more: the worker is gone.
func (s *Supervisor) restartLocked() {
	for job, st := range s.statuses {
		if st.state == StateReady {
			st.state = StateStarting
			s.statuses[job] = st
		}
	}
}

// blame notes that the worker died while a job ran in it.
func (s *Supervisor) blame(job, reason string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if st, ok := s.statuses[job]; ok {
		st.state, st.reason = StateFailed, reason
		s.statuses[job] = st
	}
}
