package members

import (
	"crypto/sha256"
	"encoding/binary"

	"github.com/google/uuid"
)

// Share is how many of the workers of a tenant belong to instance, which is one of instances, each of which is named once. It
// follows from its arguments alone, so that instances that know of the same ones need not agree on anything.
//
// The instances are ranked for each tenant by rendezvous hashing (Thaler and Ravishankar, "Using name-based mappings to
// increase hit rates", 1998): each has as many workers as the others, and the first ones in the rank one more until none is
// left. So the shares sum up to workers; with fewer workers than instances the first ones have one each and the others none; and
// when an instance comes or goes, no share moves but to it or from it.
func Share(tenant uuid.UUID, workers int, instance string, instances []string) int {
	if len(instances) == 0 || workers <= 0 {
		return 0
	}
	own := weight(tenant, instance)
	rank, named := 0, false
	for _, other := range instances {
		if other == instance {
			named = true
			continue
		}
		if w := weight(tenant, other); w > own || w == own && other > instance {
			rank++
		}
	}
	if !named {
		return 0
	}
	share := workers / len(instances)
	if rank < workers%len(instances) {
		share++
	}
	return share
}

// Owner is the first of instances in the rank of a tenant, the one that has a worker if there is one at all; "" without instances.
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
