package authorization_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/srireskianita/multi-tenant-messaging/testkit/openapi"
)

// attackers is how many requests are sent at a time.
const attackers = 16

// attack is a request and how it has to be answered.
type attack struct {
	name        string
	method, url string
	header      http.Header
	body        string
	// want are the answers that are right, each a status and the code of a problem document; empty for one that gives no
	// problem and nothing of the victim.
	want []string
}

// Whoever gets through here reads, changes or removes what is another tenant's.
func TestAttacks(t *testing.T) {
	w := newWorld(t)
	document, err := openapi.Platform()
	require.NoError(t, err)
	var attacks []attack
	for _, route := range document.Routes() {
		rule, ok := rules()[route.Operation]
		require.True(t, ok, "%s has no line in rules()", route.Operation)
		o := &operation{world: w, route: route, rule: rule}
		if !rule.public {
			attacks = append(attacks, o.unauthenticated()...)
			attacks = append(attacks, o.unauthorized()...)
			attacks = append(attacks, o.foreign()...)
		}
	}
	attacks = append(attacks, w.methods(document.Routes())...)
	before, began := w.state(t), time.Now()

	var group errgroup.Group
	group.SetLimit(attackers)
	for _, a := range attacks {
		group.Go(func() error {
			if err := w.carryOut(t.Context(), a); err != nil {
				t.Errorf("%s: %s %s: %v", a.name, a.method, a.url, err)
			}
			return nil
		})
	}
	require.NoError(t, group.Wait())
	t.Logf("%d attacks on %d operations in %s", len(attacks), len(document.Routes()), time.Since(began))

	last := w.publish(t) // whatever was let into the victim's queue came before it
	require.Len(t, w.rows(t, `DELETE FROM messages WHERE tenant_id = $1 AND id = $2 RETURNING id::text`, w.victim, last), 1)
	require.Equal(t, before, w.state(t), "nothing has changed")
}

// carryOut sends an attack and says what is wrong with the answer.
func (w *world) carryOut(ctx context.Context, a attack) error {
	request, err := http.NewRequestWithContext(ctx, a.method, a.url, strings.NewReader(a.body))
	if err != nil {
		return err
	}
	request.Header = a.header.Clone()
	response, err := w.transport.RoundTrip(request)
	if err != nil {
		return err
	}
	body, err := io.ReadAll(response.Body)
	if err := response.Body.Close(); err != nil {
		return err
	}
	if err != nil {
		return err
	}
	if len(a.want) == 0 {
		refused := response.StatusCode >= http.StatusBadRequest && code(body) != "replay_running"
		if refused || bytes.Contains(body, []byte(w.victim.String())) || bytes.Contains(body, []byte("of the victim")) {
			return fmt.Errorf("%d %.300s", response.StatusCode, body)
		}
		return nil
	}
	got := fmt.Sprint(response.StatusCode)
	if a.method != http.MethodHead {
		got += " " + code(body)
	}
	if !slices.Contains(a.want, got) {
		return fmt.Errorf("got %s, want %s: %.300s", got, strings.Join(a.want, " or "), body)
	}
	if challenge := response.Header.Get("WWW-Authenticate"); response.StatusCode == http.StatusUnauthorized && !strings.HasPrefix(challenge, "Bearer") {
		return fmt.Errorf("WWW-Authenticate is %q", challenge)
	}
	return nil
}
