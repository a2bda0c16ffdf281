// Package backing gives PostgreSQL, RabbitMQ and NATS to tests, chaos runs and benchmarks.
//
// # Where they come from
//
// Each of the three is looked for in this order, and each may come from somewhere else than the others:
//
//  1. An address in the environment: DATABASE_URL, RABBITMQ_URL (with RABBITMQ_MANAGEMENT_URL), NATS_URL.
//  2. A Docker engine that has the image or can pull it.
//  3. Programs of this machine.
//
// BACKING=external, docker or native forces one of the three. This package starts nothing itself: it asks the program of
// package servers, so that tests link neither a Docker client nor a NATS server. "backing run -- go test work" is that
// program and has it ready for all packages; without it, each process of tests builds it, if need be, and starts its own.
//
// # For tests
//
// [Postgres], [RabbitMQ] and [NATS] give a test a database, a virtual host and a NATS server of its own, so that tests and
// packages run in parallel. PostgreSQL and RabbitMQ are shared: by all packages where "backing run -- go test work"
// has started them, else by the tests of one process, which starts them when the first test asks. [Dedicated] starts
// servers for one test, which may kill, pause and restart them. A service that cannot be had fails the test.
//
// # For other programs
//
// [Start] starts servers that end with the caller, even if that is killed, and [StartOwn] those that it may disturb.
package backing
