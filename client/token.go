package client

import "context"

// TokenSource gives the bearer token of each request. It is called from many goroutines at once.
type TokenSource interface {
	// Token returns the token to send. refused is empty, or the token that a service has just refused with 401: a source
	// that keeps tokens then fetches a new one, and the request is sent once more if that is a different one. An error ends
	// the request; the client does not repeat it.
	Token(ctx context.Context, refused string) (string, error)
}

// StaticToken is a TokenSource with one token for ever.
func StaticToken(token string) TokenSource {
	return TokenFunc(func(context.Context, string) (string, error) { return token, nil })
}

// TokenFunc is a function as a TokenSource.
type TokenFunc func(ctx context.Context, refused string) (string, error)

// Token calls f.
func (f TokenFunc) Token(ctx context.Context, refused string) (string, error) { return f(ctx, refused) }
