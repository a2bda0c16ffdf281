// Package smoke compiles the client that oapi-codegen makes of api/openapi.yaml and tries it against the examples of that document.
// `make verify` makes client.gen.go, which is not committed, and runs the test; e2e/openapi runs the whole scenario against the
// services.
package smoke

//go:generate ../../../bin/oapi-codegen -generate types,client -package smoke -o client.gen.go ../../../api/openapi.yaml
