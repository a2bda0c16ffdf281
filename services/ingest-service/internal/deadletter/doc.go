// Package deadletter makes dead letters something that one can work with: what could not be stored goes from the broker's
// queues into the table dead_letters, where it is listed, replayed and dropped, per tenant.
//
// The way there is at least once. Workers publish a dead letter with confirms ([Publishing]) before they acknowledge the
// message; the [Recorder] acknowledges it when it is committed. A dead letter that takes a part of the way twice is one row:
// its id follows from tenant, message id, reason and content ([EntryID]), and the second time only raises its version.
// Faults of the database make the recorder wait; nothing but the dead letters of deleted tenants is ever discarded, and those
// are counted.
//
// A replay publishes the message again under its id, and removes the dead letter only if it is still the version that was
// replayed: if the message failed again in the meantime, its dead letter stays. A message is stored once per id, whatever
// is replayed how often.
package deadletter
