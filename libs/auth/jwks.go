package auth

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/MicahParks/jwkset"
	"github.com/golang-jwt/jwt/v5"
	"go.uber.org/zap"
)

const (
	// refreshEvery is how long a key that was taken out of the set stays good.
	refreshEvery = 5 * time.Minute
	// retryEvery is the pace while there is no key set, or the last attempt has failed.
	retryEvery = 5 * time.Second
	// askEvery bounds the refreshes that tokens cause which no key fits, and which anyone can make up. A new key
	// is therefore known after this time at the latest.
	askEvery = 5 * time.Second
	// askWait is how long a request waits for such a refresh.
	askWait = 2 * time.Second
	// fetchTimeout bounds one attempt.
	fetchTimeout = 3 * time.Second
	// maxKeySet is in bytes; a set of a hundred RSA certificates has a third of it.
	maxKeySet = 1 << 20
	// maxRedirects is how often the set may be somewhere else.
	maxRedirects = 5
)

var (
	// errNoKeys means that no token can be judged, as no key set was ever loaded. That is not the client's fault.
	errNoKeys = errors.New("no key set has been loaded yet")
	// errUnknownKey means that a key of the kind that a token needs is not in the set, which a newer set may have.
	errUnknownKey = fmt.Errorf("%w: no such key in the set", errKey)
	// errForOthers stands for a key of the set that is well formed and for another purpose.
	errForOthers = errors.New("it is not for verifying tokens")
)

// pace is how often the set is fetched; tests change it.
type pace struct{ refresh, retry, ask time.Duration }

// publicKey is a key that can verify tokens.
type publicKey struct {
	id  string // kid, "" if there is none; several keys may have the same
	alg string // the only algorithm that it is good for
	key any
}

// keySet is a JSON Web Key Set (RFC 7517) that is kept up to date by run.
//
// The fetching is our own, small as it is: the refreshing goroutine of jwkset can't be waited for, it reads
// without a limit, and with its defaults a rotation is noticed once in five minutes.
type keySet struct {
	url    string
	client *http.Client
	log    *zap.Logger
	pace   pace
	asks   chan struct{} // wakes run; capacity 1: one refresh serves all requests meanwhile

	document   []byte // the last that was read, and why it was of no use; owned by the goroutine that refreshes
	refused    error
	generation atomic.Uint64 // rises with each set that differs from the one before

	mu    sync.Mutex
	keys  []publicKey   // nil until the first load; replaced, never changed
	next  chan struct{} // closed when the next refresh is over
	last  time.Time     // of the last attempt
	asked bool          // a refresh has been asked for and is not over
}

func newKeySet(url string, log *zap.Logger) *keySet {
	return &keySet{
		url:    url,
		client: &http.Client{Timeout: fetchTimeout, CheckRedirect: sameOrBetter},
		log:    log,
		pace:   pace{refresh: refreshEvery, retry: retryEvery, ask: askEvery},
		asks:   make(chan struct{}, 1),
		next:   make(chan struct{}),
	}
}

// run refreshes until ctx ends.
func (k *keySet) run(ctx context.Context) {
	defer k.client.CloseIdleConnections()
	pause := k.pace.refresh
	if k.current() == nil {
		pause = k.pace.retry
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		case <-k.asks:
		}
		pause = k.pace.refresh
		if err := k.refresh(ctx); err != nil {
			pause = k.pace.retry
			k.log.Warn("key set could not be refreshed, the known keys stay in use", zap.Error(err))
		}
	}
}

// refresh fetches the set once. On an error the old keys stay.
func (k *keySet) refresh(ctx context.Context) error {
	keys, err := k.fetch(ctx)

	k.mu.Lock()
	defer k.mu.Unlock()
	if err == nil && keys != nil {
		k.keys = keys
		k.generation.Add(1)
	}
	k.last, k.asked = time.Now(), false
	close(k.next)
	k.next = make(chan struct{})
	return err
}

// fetch returns the keys of the set, nil if it is the one that is known.
func (k *keySet) fetch(ctx context.Context) ([]publicKey, error) {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, k.url, http.NoBody)
	if err != nil {
		return nil, fmt.Errorf("key set: %w", err)
	}
	resp, err := k.client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("fetch key set: %w", err)
	}
	defer resp.Body.Close() //nolint:errcheck // only read from
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("fetch key set: status %d", resp.StatusCode)
	}
	document, err := io.ReadAll(io.LimitReader(resp.Body, maxKeySet+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("fetch key set: %w", err)
	case len(document) > maxKeySet:
		return nil, fmt.Errorf("key set has more than %d bytes", maxKeySet)
	case bytes.Equal(document, k.document):
		return nil, k.refused
	}
	keys, err := k.usable(document)
	k.document, k.refused = document, err
	return keys, err
}

// sameOrBetter keeps a redirect from leading from https to where anybody on the way can put in keys.
func sameOrBetter(req *http.Request, via []*http.Request) error {
	if len(via) > maxRedirects {
		return fmt.Errorf("more than %d redirects", maxRedirects)
	}
	if req.URL.Scheme != "https" && via[0].URL.Scheme == "https" {
		return errors.New("redirect from https to " + req.URL.Scheme)
	}
	return nil
}

// usable keeps the keys that can verify a token. The others are no error, since a set may serve many
// purposes, and what one of them is like says nothing about its neighbours; but a set without any is. What is not used is logged
// once for each set, as the same set is not read again.
func (k *keySet) usable(document []byte) ([]publicKey, error) {
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(document, &set); err != nil {
		return nil, fmt.Errorf("decode key set: %w", err)
	}
	var keys []publicKey
	for i, member := range set.Keys {
		key, err := verificationKey(member)
		switch {
		case err == nil:
			keys = append(keys, key)
		case errors.Is(err, errForOthers):
			k.log.Debug("key of the key set is for others", zap.Int("index", i), zap.String("kid", key.id), zap.Error(err))
		default:
			k.log.Warn("key of the key set can't be used", zap.Int("index", i), zap.String("kid", key.id), zap.Error(err))
		}
	}
	if len(keys) == 0 {
		return nil, errors.New("key set has no key that can be used")
	}
	return keys, nil
}

// verificationKey turns a JWK into a public key, if it is for signatures of the algorithm that we accept
// for its type. Symmetric keys have no place in a published set, and a private key that is published has been given away. The id is
// returned with an error, too, as far as it could be read.
func verificationKey(member json.RawMessage) (publicKey, error) {
	var m jwkset.JWKMarshal
	if err := json.Unmarshal(member, &m); err != nil {
		return publicKey{}, fmt.Errorf("read key: %w", err)
	}
	key := publicKey{id: m.KID}
	switch {
	case m.USE != "" && m.USE != jwkset.UseSig:
		return key, fmt.Errorf("%w: use is %q", errForOthers, m.USE)
	case m.KEYOPS != nil && !slices.Contains(m.KEYOPS, jwkset.KeyOpsVerify):
		return key, fmt.Errorf("%w: key_ops has no verify", errForOthers)
	case m.KTY == jwkset.KtyOct || m.K != "":
		return key, errors.New("it is symmetric")
	case m.D != "":
		return key, errors.New("it is a private key")
	}
	if m.KTY == jwkset.KtyOKP && (m.ALG == ed25519Alg || m.ALG == "") {
		m.ALG = jwkset.AlgEdDSA // the one that jwkset knows
	}
	jwk, err := jwkset.NewJWKFromMarshal(m, jwkset.JWKMarshalOptions{}, jwkset.JWKValidateOptions{SkipKeyOps: true})
	if err != nil {
		return key, fmt.Errorf("read key: %w", err)
	}
	if key.alg, err = algorithm(jwk.Key()); err != nil {
		return key, err
	}
	if m.ALG != "" && m.ALG.String() != key.alg {
		return key, fmt.Errorf("%w: alg is %q, only %s is accepted for its type", errForOthers, m.ALG, key.alg)
	}
	key.key = jwk.Key()
	return key, nil
}

// current is the keys of the set, nil until it was loaded. They are not to be changed.
func (k *keySet) current() []publicKey {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.keys
}

// keyfunc finds the keys that a token may be signed with: those with the id that it names, of the type that its algorithm
// needs; each of them is tried. A token that names none, or "", is accepted only where the set has a single key (OpenID Connect
// Core 1.0 section 10.1 demands the name wherever there are several).
func (k *keySet) keyfunc(token *jwt.Token) (any, error) {
	known := k.current()
	if known == nil {
		return nil, errNoKeys
	}
	id, _ := token.Header["kid"].(string) // strict has seen to its type
	var fit jwt.VerificationKeySet
	for _, key := range known {
		named := id != "" && id == key.id || id == "" && len(known) == 1
		if named && key.alg == token.Method.Alg() {
			fit.Keys = append(fit.Keys, key.key)
		}
	}
	if len(fit.Keys) == 0 {
		return nil, errUnknownKey
	}
	return fit, nil
}

// ask wakes run, unless it has just refreshed or is about to, and returns the channel that tells the end of
// the refresh that is coming; nil if there will be none.
func (k *keySet) ask() <-chan struct{} {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.asked {
		return k.next
	}
	if time.Since(k.last) < k.pace.ask {
		return nil
	}
	k.asked = true
	select {
	case k.asks <- struct{}{}:
	default: // left over from an ask that a timed refresh has served
	}
	return k.next
}
