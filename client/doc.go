// Package client is the Go client of the multi-tenant messaging platform.
//
// The idea: every message has an id before it is sent, and the platform stores a message once per id. So a publish whose
// answer was lost, or that was refused for the moment, can be repeated, and this client does that until the context ends.
//
// The guarantee: [Client.Publish] returns without an error once the broker has the message on disk; from then on it is
// stored, or it is a dead letter with a reason. An error means that the message was refused, or that its fate is unknown.
// Then publishing it again under the id that was returned is safe.
//
//	c, err := client.New(client.URLs{
//		Tenant: "http://localhost:8081",
//		Ingest: "http://localhost:8082",
//		Query:  "http://localhost:8083",
//	}, client.StaticToken(token))
//	if err != nil {
//		return err
//	}
//	defer c.Close()
//
//	id, err := c.Publish(ctx, client.Publishing{Payload: order})
//
// [Client.PublishBatch] publishes many messages at once. A [Publisher] gathers messages of many goroutines into batches.
// [Client.Messages] reads: each message exactly once, in the order in which they were stored, and resumes from a cursor.
// The methods on tenants and on dead letters are for operators.
//
// # Repeats
//
// A request is repeated when it got no answer, or one that asks to come back: 408, 425, 429, 502, 503, 504, or any with
// Retry-After. Of a batch only the lines that ask for it are repeated. Between two attempts the client waits as long as
// Retry-After says, or with exponential backoff, both with jitter. It stops when the context ends or when the next attempt
// would come after its deadline; without a deadline, after
// [Retry.For]. Every request of this client is safe to repeat: a message or tenant without an id gets one here, and
// everything else is idempotent on the server. [WithRetry] changes the policy, [WithObserver] sees every attempt.
//
// # Errors
//
// What a service refuses is a [*Problem], to be examined by its code:
//
//	if errors.Is(err, client.ErrQueueFull) {
//
// All other errors are those of the transport and of the context, wrapped.
//
// # Payloads
//
// A payload is anything that encoding/json can encode, or a [json.RawMessage]. It is encoded once, before the first
// attempt. What is read is a [json.RawMessage] with every digit of every number as it is stored; decode it with
// [json.Decoder.UseNumber] where float64 is too narrow.
package client
