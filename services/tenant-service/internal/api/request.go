package api

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/google/uuid"

	"github.com/srireskianita/multi-tenant-messaging/libs/auth"
	"github.com/srireskianita/multi-tenant-messaging/libs/problem"
	"github.com/srireskianita/multi-tenant-messaging/libs/rest"
	"github.com/srireskianita/multi-tenant-messaging/services/tenant-service/internal/tenant"
)

// target is the tenant that a request under /tenants/{id} is about. Another tenant than that of the token is not found.
// A tenant_id in the query is needless here; one that disagrees is refused like everywhere else. parameters are those that the query may
// have beside it.
func target(c *fiber.Ctx, parameters ...string) (uuid.UUID, error) {
	if err := rest.UnknownQuery(c, append(parameters, "tenant_id")...); err != nil {
		return uuid.Nil, err
	}
	id, err := rest.UUID("id", c.Params("id"))
	if err != nil {
		return uuid.Nil, err
	}
	if c.Context().QueryArgs().Has("tenant_id") {
		named, err := auth.Tenant(c)
		if err != nil {
			return uuid.Nil, err
		}
		if named != id {
			return uuid.Nil, problem.New(http.StatusBadRequest, "tenant_mismatch", "the query names another tenant than the path").
				WithField("tenant_id", "must be the tenant in the path")
		}
	}
	if identity := auth.From(c); identity.Bound() && identity.TenantID != id {
		return uuid.Nil, notFound()
	}
	return id, nil
}

// orOwn lets a request pass whose token is bound to a tenant and has any scope; others must get past admin.
func orOwn(admin fiber.Handler) fiber.Handler {
	return func(c *fiber.Ctx) error {
		if identity := auth.From(c); identity.Bound() && hasScope(identity) {
			return c.Next()
		}
		return admin(c)
	}
}

// hasScope reports whether a token may do anything at all.
func hasScope(identity auth.Identity) bool {
	return slices.ContainsFunc([]auth.Scope{
		auth.ScopeTenantsAdmin, auth.ScopeMessagesRead, auth.ScopeMessagesWrite, auth.ScopeDeadLettersManage,
	}, identity.Has)
}

func notFound() *problem.Problem {
	return problem.New(http.StatusNotFound, "tenant_not_found", "there is no such tenant")
}

func invalid() *problem.Problem {
	return problem.New(http.StatusBadRequest, "validation_failed", "a value is outside of what is allowed")
}

// asProblem gives the errors of the domain their HTTP status. What is left is a fault of this program.
func asProblem(err error) error {
	var values *tenant.ValidationError
	switch {
	case errors.As(err, &values):
		p := invalid()
		for _, field := range values.Fields {
			p = p.WithField(field.Field, field.Detail)
		}
		return p
	case errors.Is(err, tenant.ErrNotFound):
		return notFound()
	case errors.Is(err, tenant.ErrExists):
		return problem.New(http.StatusConflict, "tenant_exists", "there is a tenant with this id").WithField("id", "must be unused")
	case errors.Is(err, tenant.ErrRetired):
		return problem.New(http.StatusConflict, "tenant_id_retired", "the id belonged to a tenant that was deleted; it is never used again").
			WithField("id", "must be unused")
	case errors.Is(err, tenant.ErrDeleting):
		return problem.New(http.StatusConflict, "tenant_deleting", "the tenant is being deleted and cannot be changed any more")
	case errors.Is(err, tenant.ErrUnavailable):
		// Wrapped, so that the cause is in the log.
		return fmt.Errorf("%w: %w", problem.New(http.StatusServiceUnavailable, "registry_unavailable",
			"the registry of tenants cannot be reached now").WithRetryAfter(time.Second), err)
	}
	return err
}
