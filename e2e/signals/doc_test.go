// Package signals starts the built services as a supervisor, a terminal or a shell does, and looks at what becomes of them when
// their log is no longer read, when the terminal is closed, and when they are told to stop. They need no servers for that:
// each of them starts without.
package signals
