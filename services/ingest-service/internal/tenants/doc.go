// Package tenants reconciles every tenant to its desired state and reports what it observes.
//
// The control channel tells which tenants there are and what is wanted of each (see [contract.TenantSpec]). Every tenant
// has a goroutine of its own that compares and acts, so that one which cannot be provisioned holds up no other. What is known of a
// tenant is one value, its state, which the tenant owns. Each step can be repeated, and the sequence starts from the beginning
// after any fault and after every restart: there is no state on disk to get out of step.
//
//	active:    partition → queue → bindings, when the queue can be trusted → consumer (resized in place)
//	suspended: partition → queue → bindings, no consumer
//	deleting:  consumer finishes → queue → partition → queue, should another instance have made it again → reported as deleted
//
// At the start the tenants that have a partition are taken as provisioned, so that their messages flow at once, and are
// checked one after the other in the background.
//
// A tenant that disappears from the control channel is left as it is: deletion is a state, not an absence.
package tenants
