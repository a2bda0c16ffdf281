package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
)

// Limit is the name of a limit of a tenant. Each holds for all instances together; 0 is no limit, where that is allowed.
type Limit string

// The limits of a tenant. A service may know others.
const (
	LimitWorkers                    Limit = "workers"                       // concurrent writers, from 1 to the maximum of the installation
	LimitMaxAttempts                Limit = "max_attempts"                  // tries of a message before it is a dead letter, 1 to 100
	LimitWeight                     Limit = "weight"                        // share of what is scarce, 1 to 100
	LimitPublishRate                Limit = "publish_rate"                  // messages a second
	LimitPublishBytes               Limit = "publish_bytes"                 // bytes a second
	LimitMaxPayload                 Limit = "max_payload"                   // bytes of the largest payload
	LimitQueueMaxMessages           Limit = "queue_max_messages"            // that wait in the queue
	LimitQueueMaxBytes              Limit = "queue_max_bytes"               // that wait in the queue
	LimitStoredMaxBytes             Limit = "stored_max_bytes"              // more is refused, see [ErrStorageFull]
	LimitRetentionSeconds           Limit = "retention_seconds"             // older messages are removed
	LimitRetentionBytes             Limit = "retention_bytes"               // beyond them the oldest messages are removed
	LimitDeadLetterRetentionSeconds Limit = "dead_letter_retention_seconds" // after the last failure
	LimitMaxSubscriptions           Limit = "max_subscriptions"             // up to 100; 0 is 100
	LimitMaxStreams                 Limit = "max_streams"                   // up to 100; 0 is 100
	LimitReadBytes                  Limit = "read_bytes"                    // bytes a second, of all kinds of reading
	LimitReplayRate                 Limit = "replay_rate"                   // dead letters a second
)

// TenantConfig is what bounds a tenant.
type TenantConfig struct {
	// Effective is what is in force. Without [LimitMaxAttempts] each instance of ingest-service tries as often as it is configured to.
	Effective map[Limit]int64 `json:"effective"`
	// Override is what of it the tenant has of its own. The rest are the defaults of the installation.
	Override map[Limit]int64 `json:"override"`
	// Generation is that of the tenant, for [IfGeneration].
	Generation int64 `json:"-"`
}

// LimitPatch changes limits: a value is the tenant's own from now on, nil is the default of the installation again, and what is not
// named stays.
type LimitPatch map[Limit]*int64

// made reports whether config may have come about by p.
func (p LimitPatch) made(config TenantConfig) bool {
	for name, value := range p {
		now, own := config.Override[name]
		if own != (value != nil) || own && now != *value {
			return false
		}
	}
	return true
}

// TenantConfig returns the limits of a tenant. A token that is bound to it is enough.
func (c *Client) TenantConfig(ctx context.Context, id ID) (config TenantConfig, err error) {
	request := call{service: tenantService, method: http.MethodGet, path: "/tenants/" + id.String() + "/config"}
	if _, err := c.configCall(ctx, request, &config); err != nil {
		return TenantConfig{}, fmt.Errorf("get the limits of tenant %s: %w", id, err)
	}
	return config, nil
}

// PatchTenantConfig changes limits of a tenant and returns all of them. With [IfGeneration] it fails with [ErrGenerationMismatch] if the
// tenant has been changed since; with [Wait] it returns when the change has come about.
func (c *Client) PatchTenantConfig(ctx context.Context, id ID, patch LimitPatch, opts ...TenantOption) (config TenantConfig, err error) {
	maybeDone, err := c.patchConfig(ctx, id, patch, opts, &config)
	if maybeDone && errors.Is(err, ErrGenerationMismatch) {
		// Most likely by the attempt whose answer was lost.
		if found, getErr := c.TenantConfig(ctx, id); getErr == nil && patch.made(found) {
			config, err = found, nil
		}
	}
	if err == nil && waits(opts) {
		var t Tenant
		if t, err = c.Tenant(ctx, id); err == nil {
			err = c.awaitTenant(ctx, &t, opts)
		}
	}
	if err != nil {
		return config, fmt.Errorf("change the limits of tenant %s: %w", id, err)
	}
	return config, nil
}

func (c *Client) patchConfig(ctx context.Context, id ID, patch LimitPatch, opts []TenantOption, config *TenantConfig) (maybeDone bool, err error) {
	if patch == nil {
		patch = LimitPatch{} // not null
	}
	request, err := tenantCall(ctx, http.MethodPatch, "/tenants/"+id.String()+"/config", patch, opts)
	if err != nil {
		return false, err
	}
	request.contentType = "application/merge-patch+json"
	if generation := options(opts).generation; generation != 0 {
		request.ifMatch = strconv.Quote(strconv.FormatInt(generation, 10))
	}
	return c.configCall(ctx, request, config)
}

// configCall makes a request that is answered with limits.
func (c *Client) configCall(ctx context.Context, request call, config *TenantConfig) (maybeDone bool, err error) {
	var tag string
	request.etag = &tag
	if maybeDone, err = c.do(ctx, request, config); err != nil {
		return maybeDone, err
	}
	// A proxy that compresses answers makes the tag a weak one.
	config.Generation, err = strconv.ParseInt(strings.Trim(strings.TrimPrefix(tag, "W/"), `"`), 10, 64)
	if err != nil {
		return maybeDone, fmt.Errorf("%w: the ETag %q is no generation", ErrUnexpectedAnswer, tag)
	}
	return maybeDone, nil
}

// tenantCall is a request that changes a tenant.
func tenantCall(ctx context.Context, method, path string, body any, opts []TenantOption) (request call, err error) {
	request = call{service: tenantService, method: method, path: path}
	if body != nil {
		if request.body, err = json.Marshal(body); err != nil {
			return request, fmt.Errorf("encode the request: %w", err)
		}
		request.contentType = "application/json"
	}
	if waits(opts) {
		request.wait = waitFor(ctx)
	}
	return request, nil
}
