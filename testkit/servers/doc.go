// Package servers starts and stops PostgreSQL, RabbitMQ and NATS, for tests (through package backing, which says where each
// of them is taken from) and for commands such as make up.
//
// PostgreSQL and RabbitMQ run in Docker or, unprivileged, from programs of this machine; NATS runs in Docker or is this very
// program, started again with nats-server in it. Programs that are missing are installed with apt-get where that is possible
// (root on Debian or Ubuntu); elsewhere one line says what to install. What was taken is always said, and an engine that has
// to be passed over is, too.
//
// Whatever this package starts listens on 127.0.0.1 alone, on ports below 32768, with passwords made for it.
//
// [Start] starts what is missing. With a Dir the servers outlive the caller, keep their data, and are found again by that
// folder: a second [Start] restarts just those that have died, [Stop] stops them, [Reset] removes their data. In a [Scratch]
// they end with the caller, even if that is killed. An [Agent] starts them for tests in other processes.
//
// It secures nothing beyond this machine, does not upgrade data from one major version of PostgreSQL to the next, and
// does not run on Windows.
package servers
