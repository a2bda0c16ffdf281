package servers

import (
	"context"
	"fmt"
	"os"

	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
)

// Wipe ends the server as [Process.Kill] does and removes its data, as the loss of a disk would. [Process.Start] then
// starts it with nothing in it, at the same address and with the same login.
func (p *Process) Wipe(ctx context.Context) error {
	switch server := p.server.(type) {
	case nil:
		return backing.ErrExternal
	case *nativeServer:
		if err := server.kill(ctx); err != nil {
			return err
		}
		if err := os.RemoveAll(server.data); err != nil {
			return fmt.Errorf("remove the data of %s: %w", p.name, err)
		}
		return nil
	default:
		return server.discard(ctx)
	}
}
