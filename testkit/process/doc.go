// Package process starts programs that outlive the command that started them, and finds, signals and stops them again.
//
// Everything that is known of a process lives in one folder:
//
//	<dir>/run/<name>.pid   the pid and nothing else, for people and scripts
//	<dir>/run/<name>.json  which process that is: boot and start time, and how it wants to be stopped
//	<dir>/log/<name>.log   what it wrote to stdout and stderr, appended to
//
// A pid alone is never trusted. It is compared with the start time that was recorded, so that a pid which the
// kernel has given to somebody else meanwhile is neither taken for a running process nor killed.
//
// The package owns no goroutine: a process is started, released and looked at through the kernel. Tests that watch for
// leaked goroutines are therefore not disturbed by servers that run on.
//
// Linux is what it is made for. On other systems processes are identified through ps, and
// [Process.SignalTree] reaches the process alone.
package process
