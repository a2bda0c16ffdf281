package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/google/uuid"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/publish"
	"github.com/srireskianita/multi-tenant-messaging/libs/problem"
	"github.com/srireskianita/multi-tenant-messaging/libs/rate"
)

// Rates hold the limits per second of tenants; [rate.Limiter] does.
type Rates interface {
	// Take lets the first messages of costs pass, and tells how many and what is left.
	Take(ctx context.Context, tenant uuid.UUID, limits rate.Amounts, costs []rate.Amounts) (passed int, q rate.Quota)
	// GiveBack returns what was taken for messages that were not accepted.
	GiveBack(tenant uuid.UUID, tokens rate.Amounts)
}

// The names of the two limits in RateLimit and RateLimit-Policy.
const (
	policyMessages = "messages"
	policyBytes    = "bytes"
)

// maxInteger is the largest integer of a structured field (RFC 9651, section 3.3.1).
const maxInteger = 999_999_999_999_999

// errRateLimited is what becomes of a message that is over a rate.
var errRateLimited = errors.New("over the rate of the tenant")

// cost is what a message takes of them. Its bytes are those of the JSON that it came as: payload and envelope.
func cost(message []byte) rate.Amounts {
	return rate.Amounts{rate.Messages: 1, rate.Bytes: int64(len(message))}
}

// pass takes what messages need of the tenant's rates, and returns how many of them, from the first one on, may be published; what the
// client is to know of the rates goes into the header of the answer. The others are refused with what refusal says.
func (a *api) pass(
	ctx context.Context, c *fiber.Ctx, tenant uuid.UUID, limits rate.Amounts, costs []rate.Amounts,
) (passed int, refusal *problem.Problem) {
	passed, quota := a.deps.Rates.Take(ctx, tenant, limits, costs)
	window := max(int64((quota.Wait+time.Second-1)/time.Second), 1)
	describe(c, limits, quota, window)
	if passed == len(costs) {
		return passed, nil
	}
	return passed, problem.New(http.StatusTooManyRequests, "rate_limited", overRate(limits)).WithRetryAfter(time.Duration(window) * time.Second)
}

// overRate says which limits there are.
func overRate(limits rate.Amounts) string {
	messages, volume := limits[rate.Messages], limits[rate.Bytes]
	const beyond = "the tenant publishes more than its limit of "
	switch {
	case volume == 0:
		return fmt.Sprintf(beyond+"%d messages a second; the message was not accepted", messages)
	case messages == 0:
		return fmt.Sprintf(beyond+"%d bytes a second; the message was not accepted", volume)
	default:
		return fmt.Sprintf(beyond+"%d messages or %d bytes a second; the message was not accepted", messages, volume)
	}
}

// describe sets the fields RateLimit-Policy and RateLimit (draft-ietf-httpapi-ratelimit-headers-11, sections 3 and 4). A unit of the
// policy "messages" is one message: a batch counts as its lines. window is in seconds.
func describe(c *fiber.Ctx, limits rate.Amounts, quota rate.Quota, window int64) {
	var policy, state []byte
	for kind, limit := range limits {
		if limit <= 0 {
			continue
		}
		if len(policy) > 0 {
			policy, state = append(policy, ", "...), append(state, ", "...)
		}
		name, unit := policyMessages, ""
		if rate.Kind(kind) == rate.Bytes {
			name, unit = policyBytes, `;qu="content-bytes"`
		}
		policy = strconv.AppendInt(append(strconv.AppendQuote(policy, name), ";q="...), min(limit, maxInteger), 10)
		policy = append(append(policy, unit...), ";w=1"...)
		state = strconv.AppendInt(append(strconv.AppendQuote(state, name), ";r="...), min(quota.Left[kind], maxInteger), 10)
		state = strconv.AppendInt(append(state, ";t="...), window, 10)
	}
	c.Set("RateLimit-Policy", string(policy))
	c.Set("RateLimit", string(state))
}

// giveBack returns what a message took that was certainly not accepted.
func (a *api) giveBack(tenant uuid.UUID, taken rate.Amounts, err error) {
	if errors.Is(err, publish.ErrRejected) || errors.Is(err, publish.ErrUnroutable) || errors.Is(err, publish.ErrInvalid) {
		a.deps.Rates.GiveBack(tenant, taken)
	}
}

// checkSize refuses a payload that is larger than the tenant's may be; 0 is no limit.
func checkSize(payload []byte, limit int64) error {
	if limit <= 0 || int64(len(payload)) <= limit {
		return nil
	}
	detail := fmt.Sprintf("the payload has %d bytes, the limit of the tenant is %d", len(payload), limit)
	return problem.New(http.StatusRequestEntityTooLarge, "payload_too_large", detail).WithField("payload", detail)
}
