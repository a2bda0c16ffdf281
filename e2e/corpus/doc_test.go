// Package corpus_test sends edge cases of JSON through the built services on real servers, over every way in: one
// message over HTTP, a line of a batch, and AMQP. What is valid has to come back equal in meaning, digit by digit; what
// is not has to be told apart with its reason, without touching what came with it.
//
// The corpus is in valid_test.go and invalid_test.go. docs/reliability.md says what it shows.
package corpus_test
