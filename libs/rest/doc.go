// Package rest is the base of every HTTP API: a Fiber application with what each of them needs alike.
//
// Every request gets an id, a context with a deadline in c.UserContext(), a line in the access log and a
// sample in mtm_http_request_duration_seconds. Every error becomes an RFC 9457 problem document, also
// those that never reach a route: a request that can't be parsed, a body over the limit, an unknown path,
// a method that the path does not have, a panic. What a handler did not mean to show is not shown: an
// error without a problem.Problem in its chain is a 500 whose cause is in the log only.
//
// Handlers parse with DecodeJSON, UUID, Limit, PreferWait and UnknownQuery, call once, and render. They
// return errors and never write one. A handler must finish before it returns: its context ends then.
//
// The server stops in order: it stops accepting, lets what is in flight finish, closes idle connections,
// and returns. It bounds that itself, since clients that do not read would hold it up for ever.
//
// The package does not know about tokens; package auth tells it the tenant of a request with SetTenant,
// for the log.
package rest
