package api

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/google/uuid"

	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/libs/problem"
)

// Storage knows how much tenants may still store; quota.Tracker does.
type Storage interface {
	// Room is how many bytes a tenant may still store under a limit of so many; known is false as long as nobody knows.
	Room(tenant uuid.UUID, limit int64) (room int64, known bool)
}

// retryStorage is when a client is asked to come back whose tenant has stored as much as it may, and has a retention: it removes
// messages every few seconds, if any are due.
const retryStorage = 10 * time.Second

// errStorageFull is what becomes of a message of a tenant that has stored as much as it may.
var errStorageFull = errors.New("the storage of the tenant is full")

// storageFull is the refusal of all messages of a tenant that has stored as much as it may, else nil. What is not known, because the
// database does not answer, refuses nobody: the message then waits in the queue.
func (a *api) storageFull(tenant uuid.UUID, limits contract.Limits) *problem.Problem {
	if limits.StoredMaxBytes == 0 {
		return nil
	}
	if room, known := a.deps.Storage.Room(tenant, limits.StoredMaxBytes); !known || room > 0 {
		return nil
	}
	p := problem.New(http.StatusInsufficientStorage, "storage_full",
		fmt.Sprintf("the tenant has stored the %d bytes that it may; the message was not accepted", limits.StoredMaxBytes))
	if limits.RetentionSeconds > 0 || limits.RetentionBytes > 0 {
		return p.WithRetryAfter(retryStorage)
	}
	return p
}
