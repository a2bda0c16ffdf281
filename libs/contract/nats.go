package contract

// RateSubject is the NATS subject on which an instance of ingest-service lends tokens of the limits of the tenants that it owns
// (package libs/rate): "mtm.rate.<instance>". It is plain NATS, not JetStream.
func RateSubject(instance string) string { return "mtm.rate." + instance }
