package auth

import (
	"context"
	"net/http"
	"time"
)

// SetPace changes how often the key set is tried again after a failure, and how often unknown keys may
// cause a refresh. It is called before Run.
func (v *Verifier) SetPace(retry, ask time.Duration) {
	v.set.pace.retry, v.set.pace.ask = retry, ask
}

// RefreshWith fetches the key set once with the transport of another client, such as one that trusts a test's certificate.
func (v *Verifier) RefreshWith(ctx context.Context, client *http.Client) error {
	v.set.client.Transport = client.Transport
	return v.set.refresh(ctx)
}
