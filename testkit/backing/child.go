package backing

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

// childEnv makes a program that contains this package be one of its helper processes instead of itself.
const childEnv = "MTM_BACKING_CHILD"

const (
	childGuard = "guard"
	childNATS  = "nats"
)

// init turns a process that this package has started from its own program into what it was started for, before the
// program's own main begins. House rules forbid init; here it is what makes the package usable from every test: a test
// binary is the one program that is certain to be there, and its TestMain belongs to the test.
func init() { //nolint:gochecknoinits // see above
	var err error
	switch os.Getenv(childEnv) {
	case "":
		return
	case childGuard:
		err = watch(os.Args[len(os.Args)-1])
	case childNATS:
		err = natsFromEnv()
	default:
		err = fmt.Errorf("%s=%s is unknown", childEnv, os.Getenv(childEnv))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// untilStopped is a context that ends with SIGTERM or SIGINT.
func untilStopped() (context.Context, context.CancelFunc) {
	return signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
}
