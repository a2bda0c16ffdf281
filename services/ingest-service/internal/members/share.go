package members

import (
	"github.com/google/uuid"

	"github.com/srireskianita/multi-tenant-messaging/libs/rendezvous"
)

// Share is how many of the workers of a tenant belong to instance, which is one of instances, each of which is named once. It
// follows from its arguments alone, so that instances that know of the same ones need not agree on anything.
//
// The instances are ranked for each tenant (package rendezvous): each has as many workers as the others, and the first ones in the
// rank one more until none is left. So the shares sum up to workers; with fewer workers than instances the first ones have one each
// and the others none; and when an instance comes or goes, no share moves but to it or from it.
func Share(tenant uuid.UUID, workers int, instance string, instances []string) int {
	if len(instances) == 0 || workers <= 0 {
		return 0
	}
	rank, named := 0, false
	for _, other := range instances {
		if other == instance {
			named = true
			continue
		}
		if rendezvous.Above(tenant, other, instance) {
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
