package fault

import (
	"slices"
	"time"

	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
	"github.com/srireskianita/multi-tenant-messaging/testkit/stack"
)

// Kind names a fault.
type Kind string

// The kinds of faults.
const (
	KillTenantService     Kind = "kill-tenant-service"
	KillIngestService     Kind = "kill-ingest-service"
	KillQueryService      Kind = "kill-query-service"
	TermTenantService     Kind = "term-tenant-service"
	TermIngestService     Kind = "term-ingest-service"
	TermQueryService      Kind = "term-query-service"
	KillRabbitMQ          Kind = "kill-rabbitmq"
	CloseAMQPConnections  Kind = "close-amqp-connections"
	StopPostgresImmediate Kind = "stop-postgres-immediate"
	FreezePostgres        Kind = "freeze-postgres"
	TerminateBackends     Kind = "terminate-backends"
	KillNATS              Kind = "kill-nats"
	WipeNATS              Kind = "wipe-nats"
	ChannelDisagrees      Kind = "channel-disagrees"
	Latency               Kind = "latency"
	Bandwidth             Kind = "bandwidth"
	HalfOpen              Kind = "half-open"
	Cut                   Kind = "cut"
	ResizeStorm           Kind = "resize-storm"
	TenantChurn           Kind = "tenant-churn"
	SuspendResume         Kind = "suspend-resume"
	DeletedTenantInRetry  Kind = "deleted-tenant-in-retry"
	ForeignTransaction    Kind = "foreign-transaction"
)

// FreezeLasts is longer than everything that waits for PostgreSQL: 5 s for a connection, 10 s for a request and for the
// commit of a batch (ingest.write_timeout), 15 s for a statement (database.statement_timeout), 16 s in the registry.
const FreezeLasts = 18 * time.Second

// Kinds are all kinds, in the order in which a report shows them.
func Kinds() []Kind {
	kinds := make([]Kind, 0, len(table()))
	for _, row := range table() {
		kinds = append(kinds, row.kind)
	}
	return kinds
}

// Networks are the kinds that are put before the server which [Event.Param] chooses.
func Networks() []Kind { return []Kind{Latency, Bandwidth, HalfOpen, Cut} }

// resource is what a fault concerns; a set of them, one bit each.
type resource uint

const (
	postgres resource = 1 << iota
	rabbitmq
	nats
	tenantService
	ingestService
	queryService
	tenants
)

// traits are what a schedule has to know of a kind.
type traits struct {
	kind Kind
	// disturbs is what it takes away, and needs what must not be taken away meanwhile.
	disturbs, needs resource
	// least and most bound how long it is kept up; long is the upper bound in a run that has room for it.
	least, most, long time.Duration
	// work is what bringing it about and undoing it takes beside that, on two cores. It may turn out to be more.
	work time.Duration
}

// table has the traits of all kinds.
//
// An orderly end needs PostgreSQL and RabbitMQ, since that is what it promises to be orderly with. What tenants go through
// needs both, since it would otherwise do no more than wait for the end of the other fault.
func table() []traits {
	const ms, s = time.Millisecond, time.Second
	const working = postgres | rabbitmq
	return []traits{
		{kind: KillTenantService, disturbs: tenantService, least: 200 * ms, most: 600 * ms, long: 3 * s, work: 300 * ms},
		{kind: KillIngestService, disturbs: ingestService, least: 200 * ms, most: 600 * ms, long: 3 * s, work: 300 * ms},
		{kind: KillQueryService, disturbs: queryService, least: 200 * ms, most: 600 * ms, long: 3 * s, work: 300 * ms},
		{kind: TermTenantService, disturbs: tenantService, needs: working, least: 0, most: 200 * ms, long: 3 * s, work: s},
		{kind: TermIngestService, disturbs: ingestService, needs: working, least: 0, most: 200 * ms, long: 3 * s, work: s},
		{kind: TermQueryService, disturbs: queryService, needs: working, least: 0, most: 200 * ms, long: 3 * s, work: s},
		{kind: KillRabbitMQ, disturbs: rabbitmq, least: 200 * ms, most: 600 * ms, long: 5 * s, work: queueAge + 6*s},
		{kind: CloseAMQPConnections, disturbs: rabbitmq, work: 500 * ms},
		{kind: StopPostgresImmediate, disturbs: postgres, least: 300 * ms, most: s, long: 10 * s, work: 1500 * ms},
		{kind: FreezePostgres, disturbs: postgres, least: FreezeLasts, most: FreezeLasts, long: FreezeLasts + 7*s, work: 300 * ms},
		{kind: TerminateBackends, disturbs: postgres, work: 300 * ms},
		{kind: KillNATS, disturbs: nats, least: 200 * ms, most: s, long: 10 * s, work: s},
		{kind: WipeNATS, disturbs: nats, least: 200 * ms, most: s, long: 5 * s, work: 1500 * ms},
		{kind: ChannelDisagrees, disturbs: nats, work: 500 * ms},
		{kind: Latency, least: 1500 * ms, most: 2500 * ms, long: 10 * s, work: 100 * ms},
		{kind: Bandwidth, least: 1500 * ms, most: 2500 * ms, long: 10 * s, work: 100 * ms},
		// In a long run longer than two heartbeats, so that they notice it rather than the end of it.
		{kind: HalfOpen, least: 1500 * ms, most: 2500 * ms, long: 25 * s, work: 100 * ms},
		{kind: Cut, least: 500 * ms, most: 1500 * ms, long: 8 * s, work: 100 * ms},
		{kind: ResizeStorm, disturbs: tenants, needs: working, work: 2500 * ms},
		{kind: TenantChurn, disturbs: tenants, needs: working, work: 2500 * ms},
		{kind: SuspendResume, disturbs: tenants, needs: working, work: 2500 * ms},
		{kind: DeletedTenantInRetry, disturbs: tenants, needs: working, work: 2500 * ms},
		{kind: ForeignTransaction, disturbs: postgres, least: 5 * s, most: 5500 * ms, long: 10 * s, work: 100 * ms},
	}
}

// traitsOf are those of a kind; of an unknown one they are empty.
func traitsOf(kind Kind) traits {
	all := table()
	if i := slices.IndexFunc(all, func(row traits) bool { return row.kind == kind }); i >= 0 {
		return all[i]
	}
	return traits{kind: kind}
}

// server is the one that a fault of the network is put before.
func (e Event) server() backing.Name {
	names := backing.Names()
	return names[int(uint64(e.Param)%uint64(len(names)))]
}

// disturbs is what the event takes away.
func (e Event) disturbs() resource {
	if !slices.Contains(Networks(), e.Kind) {
		return traitsOf(e.Kind).disturbs
	}
	return resourceOf(e.server())
}

func resourceOf(name backing.Name) resource {
	return map[backing.Name]resource{
		backing.ServicePostgres: postgres, backing.ServiceRabbitMQ: rabbitmq, backing.ServiceNATS: nats,
	}[name]
}

// CutsOff reports whether a service may be without a server, or lose its connections to it, while the event is in force.
func (e Event) CutsOff(name backing.Name) bool {
	return e.Kind != ForeignTransaction && e.disturbs() == resourceOf(name)
}

// conflict reports whether two events must not be in force at the same time: one would hide the other or undo it.
func conflict(a, b Event) bool {
	return conflicting(a.disturbs(), traitsOf(a.Kind).needs, b.disturbs(), traitsOf(b.Kind).needs)
}

func conflicting(aDisturbs, aNeeds, bDisturbs, bNeeds resource) bool {
	return aDisturbs&(bDisturbs|bNeeds) != 0 || bDisturbs&aNeeds != 0
}

// breaks reports whether nothing can be expected to work for everybody while the event is in force. What happens to some
// tenants is no reason for anything else not to work.
func (e Event) breaks() bool { return e.disturbs() != tenants }

// service is the one that a kind kills or asks to end, or "".
func (k Kind) service() string {
	switch k {
	case KillTenantService, TermTenantService:
		return stack.TenantService
	case KillIngestService, TermIngestService:
		return stack.IngestService
	case KillQueryService, TermQueryService:
		return stack.QueryService
	default:
		return ""
	}
}

// concernsNATS reports whether the control channel is gone for a while, and with it the way that changes of tenants take.
func (k Kind) concernsNATS() bool { return k == KillNATS || k == WipeNATS }
