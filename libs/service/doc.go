// Package service is the part that all services have in common: the command line, the configuration, and what each of them runs
// beside its own work, which is the HTTP API, the operations listener, the database pool and the keys that verify tokens.
//
// A service is its configuration with [Config] embedded, a [Command] that main runs, and a function serve that makes a [Process],
// adds routes and runs it with components of its own.
package service
