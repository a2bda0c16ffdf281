// Package api is the HTTP API of tenant-service: it parses and checks requests, calls the registry once, and renders
// the tenant together with what is observed of it.
//
// Access: a token without tenant_id and with the scope tenants:admin acts on every tenant. A token that is
// bound to a tenant sees that tenant alone; every other one is 404, as if it did not exist. With tenants:admin it may
// also change and delete its own, but neither create nor list tenants.
//
// A change answers as soon as it is in the registry. What it becomes of is in the status of the tenant; a client that
// wants to wait for it says so with "Prefer: wait=10" (RFC 7240).
package api

import _ "embed"

// document is the OpenAPI document, made by `make generate` from the comments of the handlers, and of main.go for its head.
//
//go:embed swagger.json
var document []byte
