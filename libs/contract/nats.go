package contract

// Subjects of plain NATS, not JetStream.

// RateSubject is that on which an instance of ingest-service lends tokens of the limits of publishing of the tenants that it owns
// (package libs/rate): "mtm.rate.<instance>".
func RateSubject(instance string) string { return "mtm.rate." + instance }

// ReplayRateSubject is the same for the limit of replays of dead letters: "mtm.rate.replay.<instance>".
func ReplayRateSubject(instance string) string { return "mtm.rate.replay." + instance }

// ReadRateSubject is the same for the limit of reading, on instances of services that read: "mtm.rate.read.<instance>".
func ReadRateSubject(instance string) string { return "mtm.rate.read." + instance }

// ReadersSubject is where the instances that share the limits of reading announce themselves, whichever service they are of.
const ReadersSubject = "mtm.readers"
