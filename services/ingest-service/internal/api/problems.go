package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/google/uuid"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/conn"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/publish"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/libs/problem"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/deadletter"
)

// When a client is asked to come back.
const (
	retryProvisioning = time.Second      // a queue and a partition are made in well under a second
	retryUnavailable  = 2 * time.Second  // a restart of a server takes a few seconds
	retryBlocked      = 10 * time.Second // an alarm of the broker lasts until memory or disk is free again
	retryFull         = 5 * time.Second  // a queue empties as fast as the tenant's workers store
	retryTimeout      = time.Second
)

// open refuses a tenant for which nothing can be published now. A suspended tenant takes messages: they wait.
func (a *api) open(ctx context.Context, tenant uuid.UUID) (contract.Limits, error) {
	spec, provisioned, ok := a.deps.Tenants.Lookup(ctx, tenant)
	switch {
	case !ok:
		return spec.Limits, problem.New(http.StatusNotFound, "tenant_not_found", "there is no such tenant")
	case spec.State == contract.DesiredDeleting:
		return spec.Limits, problem.New(http.StatusConflict, "tenant_deleting", "the tenant is being deleted and takes no more messages")
	case !provisioned:
		return spec.Limits, problem.New(http.StatusServiceUnavailable, "tenant_provisioning", "the tenant is still being provisioned").
			WithRetryAfter(retryProvisioning)
	}
	return spec.Limits, nil
}

// publishProblem words what became of a message, under the id with which it is safe to try again.
func publishProblem(err error, id string) *problem.Problem {
	unavailable := func(code, detail string, after time.Duration) *problem.Problem {
		return problem.New(http.StatusServiceUnavailable, code, detail).WithRetryAfter(after)
	}
	const maybeAccepted = "; it may or may not have been accepted, and is safe to repeat with the same id "
	switch {
	case errors.Is(err, conn.ErrBlocked):
		return unavailable("broker_blocked", "the broker has an alarm and takes no messages"+maybeAccepted+id, retryBlocked).WithField("id", id)
	case errors.Is(err, publish.ErrUnroutable):
		return unavailable("queue_missing", "the tenant's queue is not there at the moment; the message was not accepted", retryUnavailable)
	case errors.Is(err, publish.ErrRejected):
		return unavailable("queue_full", "the tenant's queue takes no more messages until some are stored; the message was not accepted", retryFull)
	case errors.Is(err, conn.ErrUnanswered):
		return unavailable("queue_unanswered", "the broker is there and the tenant's queue does not answer"+maybeAccepted+id, retryUnavailable).WithField("id", id)
	case errors.Is(err, conn.ErrUnavailable):
		return unavailable("broker_unavailable", "there is no connection to the broker, or it was lost"+maybeAccepted+id, retryUnavailable).WithField("id", id)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return unavailable("confirm_timeout", "the broker has not confirmed the message in time"+maybeAccepted+id, retryTimeout).WithField("id", id)
	default:
		return problem.New(http.StatusInternalServerError, "internal", "an internal error; the request id leads to its cause in the log")
	}
}

// payloadProblem words why a payload cannot be stored.
func payloadProblem(err error) error {
	var refused *contract.PayloadError
	if !errors.As(err, &refused) {
		return err
	}
	return problem.New(http.StatusBadRequest, "payload_"+string(refused.Reason), refused.Error()).
		WithField("payload", refused.Detail)
}

// deadLetterProblem words the errors of dead letters. Whatever is not known is the database's.
func deadLetterProblem(err error) error {
	switch {
	case errors.Is(err, deadletter.ErrNotFound):
		return problem.New(http.StatusNotFound, "dead_letter_not_found", "there is no such dead letter")
	case errors.Is(err, deadletter.ErrBusy):
		return problem.New(http.StatusConflict, "replay_running", "a replay of this tenant's dead letters is running already").
			WithRetryAfter(retryTimeout)
	}
	p := problem.New(http.StatusServiceUnavailable, "database_unavailable", "dead letters can't be read at the moment").
		WithRetryAfter(retryUnavailable)
	return fmt.Errorf("%w: %w", p, err)
}

// replayProblem words the errors of a replay.
func replayProblem(err error, id string) error {
	var refused *contract.PayloadError
	var over *deadletter.RateError
	var envelope *contract.EnvelopeError
	switch {
	case errors.As(err, &envelope):
		return problem.New(http.StatusUnprocessableEntity, string(contract.ReasonBadEnvelope),
			envelope.Error()+"; replayed as it is it would be a dead letter again: replay it with another type, key and attributes")
	case errors.As(err, &over):
		return problem.New(http.StatusTooManyRequests, "rate_limited", "the tenant replays more dead letters than its limit a second").
			WithRetryAfter(max(over.Wait, time.Second))
	case errors.As(err, &refused):
		return problem.New(http.StatusUnprocessableEntity, "payload_"+string(refused.Reason),
			refused.Error()+"; replayed as it is it would be a dead letter again: replay it with an edited payload")
	case isPublishError(err):
		return fmt.Errorf("%w: %w", publishProblem(err, id), err)
	default:
		return deadLetterProblem(err)
	}
}

func isPublishError(err error) bool {
	for _, known := range []error{
		conn.ErrBlocked, publish.ErrUnroutable, publish.ErrRejected, conn.ErrUnavailable, publish.ErrInvalid,
		publish.ErrUnconfirmed,
	} {
		if errors.Is(err, known) {
			return true
		}
	}
	return false
}
