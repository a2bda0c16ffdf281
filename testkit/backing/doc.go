// Package backing gives PostgreSQL, RabbitMQ and NATS to tests and to commands such as make up.
//
// # Where they come from
//
// Each of the three is looked for in this order, and each may come from somewhere else than the others:
//
//  1. An address in the environment: DATABASE_URL, RABBITMQ_URL (with RABBITMQ_MANAGEMENT_URL), NATS_URL.
//  2. A Docker engine that has the image or can pull it within [PullTimeout].
//  3. Programs of this machine. PostgreSQL and RabbitMQ run unprivileged in a scratch folder, NATS is this very
//     program, started again with nats-server in it. Programs that are missing are installed with apt-get where that is
//     possible (root on Debian or Ubuntu); elsewhere one line says what to install.
//
// BACKING=external, docker or native forces one of the three. What was taken is always said, and an engine that has to
// be passed over is, too.
//
// Whatever this package starts listens on 127.0.0.1 alone, on ports below 32768, with passwords made for it.
//
// # For commands
//
// [Start] starts what is missing. With Persistent the servers outlive the caller, keep their data, and are found again
// by the folder they belong to: a second [Start] restarts just those that have died, [Stop] stops them, [Reset] removes
// their data. Without it they are scratch servers that end with the caller, even if that is killed.
//
// # For tests
//
// [Postgres], [RabbitMQ] and [NATS] give a test a database, a virtual host and a NATS server of its own, so that tests and
// packages run in parallel. PostgreSQL and RabbitMQ are shared: by all packages where "backing run -- go test work"
// has started them, else by the tests of one process, which starts them when the first test asks. [Dedicated] starts
// servers for one test, which may kill, pause and restart them. A service that cannot be had fails the test.
//
// # What it does not do
//
// It secures nothing beyond this machine, does not upgrade data from one major version of PostgreSQL to the next, and
// does not run on Windows.
package backing
