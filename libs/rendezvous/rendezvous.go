// Package rendezvous ranks the instances of a service for each tenant by rendezvous hashing (Thaler and Ravishankar, "Using name-based
// mappings to increase hit rates", 1998). The rank follows from its arguments alone, so instances that know of the same ones agree
// without asking each other, and when one comes or goes, nothing moves but to it or from it.
package rendezvous

import (
	"crypto/sha256"
	"encoding/binary"

	"github.com/google/uuid"
)

// Above reports whether other ranks above instance for a tenant.
func Above(tenant uuid.UUID, other, instance string) bool {
	own, w := weight(tenant, instance), weight(tenant, other)
	return w > own || w == own && other > instance
}

// Owner is the first of instances in the rank of a tenant; "" without instances.
func Owner(tenant uuid.UUID, instances []string) (owner string) {
	most := uint64(0)
	for _, instance := range instances {
		if w := weight(tenant, instance); owner == "" || w > most || w == most && instance > owner {
			owner, most = instance, w
		}
	}
	return owner
}

// weight is what instances are ranked by. It must not change: while two versions run side by side, they divide the work.
func weight(tenant uuid.UUID, instance string) uint64 {
	sum := sha256.Sum256(append(tenant[:], instance...))
	return binary.BigEndian.Uint64(sum[:])
}
