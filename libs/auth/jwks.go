package auth

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
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
	// askEvery bounds the refreshes that tokens with unknown keys cause, which anyone can make up. A new key
	// is therefore known after this time at the latest.
	askEvery = 5 * time.Second
	// askWait is how long a request waits for such a refresh.
	askWait = 2 * time.Second
	// fetchTimeout bounds one attempt.
	fetchTimeout = 3 * time.Second
	// maxKeySet is in bytes; a set of a hundred RSA certificates has a third of it.
	maxKeySet = 1 << 20
)

// errNoKeys means that no token can be judged, as no key set was ever loaded. That is not the client's
// fault.
var errNoKeys = errors.New("no key set has been loaded yet")

// pace is how often the set is fetched; tests change it.
type pace struct{ refresh, retry, ask time.Duration }

// keySet is a JSON Web Key Set (RFC 7517) that is kept up to date by run.
//
// The fetching is our own, small as it is: the refreshing goroutine of jwkset can't be waited for, it reads
// without a limit, and with its defaults a rotation is noticed once in five minutes.
type keySet struct {
	url    string
	client *http.Client
	log    *zap.Logger
	pace   pace
	asks   chan struct{} // wakes run; capacity 1: one refresh serves all who ask meanwhile

	generation atomic.Uint64 // rises with each set that is loaded

	mu    sync.Mutex
	keys  map[string]any // by kid; nil until the first load; replaced, never changed
	next  chan struct{}  // closed when the next refresh is over
	last  time.Time      // of the last attempt
	asked bool           // a refresh has been asked for and is not over
}

func newKeySet(url string, log *zap.Logger) *keySet {
	return &keySet{
		url:    url,
		client: &http.Client{Timeout: fetchTimeout},
		log:    log,
		pace:   pace{refresh: refreshEvery, retry: retryEvery, ask: askEvery},
		asks:   make(chan struct{}, 1),
		next:   make(chan struct{}),
	}
}

// run refreshes until ctx ends.
func (k *keySet) run(ctx context.Context) error {
	defer k.client.CloseIdleConnections()
	pause := k.pace.refresh
	if k.empty() {
		pause = k.pace.retry
	}
	timer := time.NewTimer(pause)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		case <-k.asks:
		}
		pause = k.pace.refresh
		if err := k.refresh(ctx); err != nil {
			pause = k.pace.retry
			k.log.Warn("key set could not be refreshed, the known keys stay in use", zap.Error(err))
		}
		timer.Reset(pause)
	}
}

// refresh fetches the set once. On an error the old keys stay.
func (k *keySet) refresh(ctx context.Context) error {
	keys, err := k.fetch(ctx)

	k.mu.Lock()
	defer k.mu.Unlock()
	if err == nil {
		k.keys = keys
		k.generation.Add(1)
	}
	k.last, k.asked = time.Now(), false
	close(k.next)
	k.next = make(chan struct{})
	return err
}

func (k *keySet) fetch(ctx context.Context) (map[string]any, error) {
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
	var set jwkset.JWKSMarshal
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxKeySet)).Decode(&set); err != nil {
		return nil, fmt.Errorf("decode key set: %w", err)
	}
	return k.usable(set)
}

// usable keeps the keys that can verify a token. The others are no error, since a set may serve many
// purposes, but a set without any is.
func (k *keySet) usable(set jwkset.JWKSMarshal) (map[string]any, error) {
	keys := make(map[string]any, len(set.Keys))
	for _, m := range set.Keys {
		key, err := verificationKey(m)
		if err != nil {
			k.log.Debug("key of the key set is not used", zap.String("kid", m.KID), zap.Error(err))
			continue
		}
		if _, twice := keys[m.KID]; !twice {
			keys[m.KID] = key
		}
	}
	if len(keys) == 0 {
		return nil, errors.New("key set has no key that can be used")
	}
	return keys, nil
}

// verificationKey turns a JWK into a public key, if it is for signatures of the algorithm that we accept
// for its type. Symmetric keys have no place in a published set.
func verificationKey(m jwkset.JWKMarshal) (any, error) {
	if m.KID == "" {
		return nil, errors.New("it has no kid")
	}
	if m.USE != "" && m.USE != jwkset.UseSig {
		return nil, fmt.Errorf("it is for %q", m.USE)
	}
	jwk, err := jwkset.NewJWKFromMarshal(m, jwkset.JWKMarshalOptions{}, jwkset.JWKValidateOptions{})
	if err != nil {
		return nil, fmt.Errorf("read key: %w", err)
	}
	alg, err := algorithm(jwk.Key())
	if err != nil {
		return nil, err
	}
	if _, symmetric := jwk.Key().([]byte); symmetric {
		return nil, errors.New("it is symmetric")
	}
	if m.ALG != "" && m.ALG.String() != alg {
		return nil, fmt.Errorf("it is for %s, only %s is accepted for its type", m.ALG, alg)
	}
	return jwk.Key(), nil
}

func (k *keySet) empty() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.keys == nil
}

// keyfunc finds the key that a token names. Without a name every key would have to be tried.
func (k *keySet) keyfunc(token *jwt.Token) (any, error) {
	kid, ok := token.Header["kid"].(string)
	if !ok {
		return nil, fmt.Errorf("%w: no kid", errKey)
	}
	key, err := k.find(kid)
	if err != nil {
		return nil, err
	}
	return fits(token, key)
}

// find looks a key up and, where it is not known, asks for a refresh and waits for it, unless there has
// just been one.
func (k *keySet) find(kid string) (any, error) {
	if key, err := k.known(kid); err == nil {
		return key, nil
	}
	if refreshed := k.ask(); refreshed != nil {
		timer := time.NewTimer(askWait)
		defer timer.Stop()
		select {
		case <-refreshed:
		case <-timer.C:
		}
	}
	return k.known(kid)
}

func (k *keySet) known(kid string) (any, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.keys == nil {
		return nil, errNoKeys
	}
	if key, ok := k.keys[kid]; ok {
		return key, nil
	}
	return nil, fmt.Errorf("%w: unknown kid", errKey)
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
