package service

// When the circuit breaker opens, and for how long.
const (
	Failures = outagesToOpen
	OpenFor  = openFor
	FairWait = fairWait
)
