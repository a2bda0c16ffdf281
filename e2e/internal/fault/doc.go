// Package fault disturbs a platform and measures how it recovers.
//
// [Schedule] turns a seed into a list of events: kills, frozen servers, wiped data, cut connections, tenants that come and
// go. An [Injector] makes them happen, undoes each of them, also when it is stopped in the middle, and measures how long
// the platform takes until it works again for everybody. Nothing here repairs anything beyond undoing its own fault: a
// server is started again, a process too, but no connection is reset and no state is touched up.
//
// It does not know whether a message was lost: that is for the one that keeps a ledger, as package traffic does.
package fault
