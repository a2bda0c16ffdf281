// Package api is the HTTP API of ingest-service: it takes in messages, one by one or in batches, and gives access to
// the dead letters of a tenant. An administrator erases single messages.
//
// 202 for a message means that the broker has confirmed it: it will be stored, or become a dead letter with a reason. Any
// other answer comes within the time of the request and says whether the message may have been accepted all the same; it
// is always safe to send it again under the same id, since a message is stored once per id.
package api

import _ "embed"

// swagger is the OpenAPI 2.0 document, made from the comments of the handlers, and of main.go for its head, by `make generate`.
//
//go:embed swagger.json
var swagger []byte
