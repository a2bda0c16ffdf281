// Package lifecycle runs the parts of a process together and stops them in the right order.
//
// A binary lists its components in the order in which they depend on each other, the one that others
// need first:
//
//	lifecycle.Run(ctx, cfg.ShutdownTimeout, log,
//		lifecycle.Component{Name: "ops", Run: ops.Run},         // stops last: readiness can be asked until the end
//		lifecycle.Component{Name: "publisher", Run: pub.Run},
//		lifecycle.Component{Name: "http", Run: server.Run},     // stops first: nothing new comes in
//	)
//
// It guarantees that a component's context ends only after everything listed behind it has returned, that
// one failing component stops all the others, and that stopping is bounded. It does not restart anything:
// what can heal does so inside its own Run, and what can't ends the process, which its supervisor restarts.
package lifecycle
