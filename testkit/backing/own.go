package backing

import (
	"context"
	"fmt"
)

// StartOwn starts servers that the caller may kill, pause and start again through [Services.Process], as [Dedicated]
// does for a test: addresses in the environment are passed over, and BACKING=external is an error.
func StartOwn(ctx context.Context, opts Options) (*Services, error) {
	mode := opts.Mode
	if mode == ModeAuto {
		var err error
		if mode, err = ModeFromEnv(); err != nil {
			return nil, err
		}
	}
	if mode == ModeExternal {
		return nil, fmt.Errorf("BACKING=external: %w; use docker or native", ErrExternal)
	}
	opts.Mode, opts.ownServers = mode, true
	return Start(ctx, opts)
}
