// Package stack runs the platform under test: the binaries of the three services, as processes of their own, against
// given PostgreSQL, RabbitMQ and NATS. End-to-end tests, chaos tests and benchmarks drive it from outside, as clients do.
//
// The binaries are built once per test process, with the race detector if the test has it; a race that a service reports
// fails the test. The services listen on free ports of 127.0.0.1 that they keep across restarts. They end with the test,
// and with the test process even if that is killed. What they log is kept in files, and shown when the test has failed.
package stack
