// Package platform_test drives the built binaries of the three services from outside, on real backing services, as
// operators, producers and readers do. Each test says what a user would lose if it failed.
//
// With MTM_E2E_STACK set to the path of a stack.env file (`make up` writes .local/stack.env), the tests that start and
// stop nothing run against that stack instead of one of their own.
package platform_test
