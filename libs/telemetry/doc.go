// Package telemetry is what operators see of a process: its metrics, its health and its profiles, all on
// a listener of their own, so that none of it is ever reachable on the public one.
//
// Metrics are registered on an injected registry; there is no global one. Health is a set of named
// checks that the components report into. It answers two different questions. /healthz: is the process
// alive? Always 200 while it can answer, since restarting it does not bring PostgreSQL back. /readyz:
// should it get work? 503 while any check fails, before the first report, and from the moment the process
// begins to stop.
package telemetry
