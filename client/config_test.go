package client_test

import (
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/client"
)

// configOf is an answer with limits.
func configOf(override, etag string) step {
	return answer(200, `{"effective":{"workers":3,"weight":1,"publish_rate":5},"override":`+override+`}`, "ETag", etag)
}

func TestTenantConfig(t *testing.T) {
	c, s := play(t, nil, configOf(`{"publish_rate":5}`, `"7"`), configOf(`{}`, `W/"8"`), answer(200, `{"effective":{},"override":{}}`))
	config, err := c.TenantConfig(t.Context(), fixed(1))
	require.NoError(t, err)
	require.Equal(t, client.TenantConfig{
		Effective:  map[client.Limit]int64{client.LimitWorkers: 3, client.LimitWeight: 1, client.LimitPublishRate: 5},
		Override:   map[client.Limit]int64{client.LimitPublishRate: 5},
		Generation: 7,
	}, config)
	require.Equal(t, "GET /tenants/"+fixed(1).String()+"/config", s.sent[0].method+" "+s.sent[0].path)
	config, err = c.TenantConfig(t.Context(), fixed(1))
	require.NoError(t, err)
	require.EqualValues(t, 8, config.Generation)
	_, err = c.TenantConfig(t.Context(), fixed(1))
	require.ErrorIs(t, err, client.ErrUnexpectedAnswer, "without a generation nothing could be changed safely")
}

func TestPatchTenantConfig(t *testing.T) {
	c, s := play(t, nil, configOf(`{"publish_rate":5}`, `"8"`), configOf(`{}`, `"8"`), refuse(412, "generation_mismatch"))
	patch := client.LimitPatch{client.LimitPublishRate: new(int64(5)), client.LimitWorkers: nil}
	config, err := c.PatchTenantConfig(t.Context(), fixed(1), patch, client.IfGeneration(7))
	require.NoError(t, err)
	require.EqualValues(t, 8, config.Generation)
	require.Equal(t, "PATCH /tenants/"+fixed(1).String()+`/config {"publish_rate":5,"workers":null}`, s.sent[0].method+" "+s.sent[0].path+" "+s.sent[0].body)
	require.Equal(t, "application/merge-patch+json", s.sent[0].header.Get("Content-Type"))
	require.Equal(t, `"7"`, s.sent[0].header.Get("If-Match"))
	_, err = c.PatchTenantConfig(t.Context(), fixed(1), nil)
	require.NoError(t, err)
	require.Equal(t, `{}`, s.sent[1].body)
	require.Empty(t, s.sent[1].header.Get("If-Match"))
	_, err = c.PatchTenantConfig(t.Context(), fixed(1), patch, client.IfGeneration(7))
	require.ErrorIs(t, err, client.ErrGenerationMismatch)
}

// A patch that was carried out, and whose answer was lost, is not reported as the change of somebody else, nor the other way round.
func TestPatchWhoseAnswerIsLost(t *testing.T) {
	patch := client.LimitPatch{client.LimitPublishRate: new(int64(5)), client.LimitWorkers: nil}
	for override, done := range map[string]bool{
		`{"publish_rate":5}`: true, `{"publish_rate":5,"weight":2}`: true, `{"publish_rate":6}`: false, `{}`: false, `{"publish_rate":5,"workers":4}`: false,
	} {
		synctest.Test(t, func(t *testing.T) {
			c, _ := play(t, nil, cut, refuse(412, "generation_mismatch"), configOf(override, `"8"`))
			config, err := c.PatchTenantConfig(t.Context(), fixed(1), patch, client.IfGeneration(7))
			if done {
				require.NoError(t, err, override)
				require.EqualValues(t, 8, config.Generation)
			} else {
				require.ErrorIs(t, err, client.ErrGenerationMismatch, override)
			}
		})
	}
}

// A caller that waits for limits can rely on them afterwards.
func TestPatchIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s := play(t, nil, configOf(`{"publish_rate":5}`, `"2"`), tenantOf(200, "active", "running", 2, 1), tenantOf(200, "active", "running", 2, 2))
		_, err := c.PatchTenantConfig(t.Context(), fixed(1), client.LimitPatch{client.LimitPublishRate: new(int64(5))}, client.Wait())
		require.NoError(t, err)
		require.Equal(t, "wait=30", s.sent[0].header.Get("Prefer"))
	})
}

// The pages of a search may be empty before the end.
func TestSearchForTenants(t *testing.T) {
	c, s := play(t, nil, answer(200, `{"data":[],"next_cursor":"c","has_more":true}`), answer(200, `{"data":[{"name":"acme"}],"next_cursor":"d","has_more":false}`))
	var names []string
	for tenant, err := range c.Tenants(client.TenantQuery{Search: "a&b", State: client.TenantSuspended}).All(t.Context()) {
		require.NoError(t, err)
		names = append(names, tenant.Name)
	}
	require.Equal(t, []string{"acme"}, names)
	require.Equal(t, "/tenants?q=a%26b&state=suspended", s.sent[0].path)
	require.Equal(t, "/tenants?cursor=c&q=a%26b&state=suspended", s.sent[1].path)
}
