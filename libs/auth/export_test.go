package auth

import (
	"context"
	"net/http"
	"time"
)

// SetPace changes how often the key sets are tried again after a failure, and how often unknown keys may
// cause a refresh. It is called before Run.
func (v *Verifier) SetPace(retry, ask time.Duration) {
	for _, set := range v.sets {
		set.pace.retry, set.pace.ask = retry, ask
	}
}

// RefreshWith fetches the key set once with the transport of another client, such as one that trusts a test's certificate.
func (v *Verifier) RefreshWith(ctx context.Context, client *http.Client) error {
	v.sets[0].client.Transport = client.Transport
	return v.sets[0].refresh(ctx)
}
