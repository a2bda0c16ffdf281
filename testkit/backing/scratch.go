package backing

import (
	"context"
	"errors"
	"fmt"

	"github.com/srireskianita/multi-tenant-messaging/testkit/internal/agent"
	"github.com/srireskianita/multi-tenant-messaging/testkit/process"
)

// Scratch is a folder for processes and data that end with this process: the folder is removed, and what runs in it
// through package process is killed, by [Scratch.Remove], or else by the program that starts servers when we are gone.
type Scratch struct {
	// Dir is the folder. Other accounts can pass through it, but not list it.
	Dir    string
	socket string // of the program
	lease  *agent.Lease
}

// NewScratch makes a scratch folder.
func NewScratch(ctx context.Context) (*Scratch, error) {
	socket, err := program.socket(ctx)
	if err != nil {
		return nil, err
	}
	lease, reply, err := agent.Hold(ctx, socket, agent.Request{Do: agent.MakeScratch}, nil)
	if err != nil {
		return nil, fmt.Errorf("make a scratch folder: %w", err)
	}
	return &Scratch{Dir: reply.Dir, socket: socket, lease: lease}, nil
}

// Remove kills what runs in the folder and removes it.
func (s *Scratch) Remove(ctx context.Context) error {
	// Here rather than by the agent: only the parent of a process learns how it has ended.
	running, err := process.All(s.Dir)
	for _, p := range running {
		err = errors.Join(err, p.Kill(ctx))
	}
	return errors.Join(err, s.lease.Release(ctx))
}
