// Package openapi_test makes clients from the OpenAPI documents that the services serve, with two generators, and runs the
// scenario of the README with them against the built services: what a document says of a request or an answer and the service
// does otherwise is a fault for everybody who has a generated client.
//
// The scenario is in testdata/clients. It is put, together with what the generators write, into a module of its own, which requires
// what tools/apispec requires; nothing is looked up that `go mod download` there has not fetched. Generated code is not committed.
package openapi_test
