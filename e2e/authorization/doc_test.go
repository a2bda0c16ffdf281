// Package authorization_test tries every operation of api/openapi.yaml with every token, tenant and method that must not get
// through, against the built services with an RSA key. The operations come from the document, and what each demands from a table,
// rules: an operation without a line there, or a line without an operation, fails the tests. Every answer is checked against the
// document, and after all attacks the registry, the messages and the dead letters are what they were.
package authorization_test
