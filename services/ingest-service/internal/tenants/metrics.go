package tenants

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
)

// Collector exports what the tenants of a controller count. It reads live state at each scrape and asks nobody: the
// series of a deleted tenant are gone with the tenant. Only counters and gauges have a tenant label.
type Collector struct {
	controller *Controller

	consumers, queue, workers, desired, instances, healed *prometheus.Desc
	stored, duplicates, retried, deadLettered, withoutID  *prometheus.Desc
	held, full, typesIgnored                              *prometheus.Desc
}

// NewCollector returns the collector of c.
func NewCollector(c *Controller) *Collector {
	tenant := []string{"tenant_id"}
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(name, help, labels, nil)
	}
	return &Collector{
		controller:   c,
		consumers:    desc("mtm_consumers", "Tenants of this instance by the observed state of their consumer.", "state"),
		queue:        desc("mtm_queue_messages", "Messages in a tenant's queue: ready, as of the last round of reading, and unacked by this instance.", "tenant_id", "state"),
		workers:      desc("mtm_workers", "Workers of a tenant on this instance: busy writing a batch, or idle.", "tenant_id", "state"),
		desired:      desc("mtm_workers_desired", "Workers that a tenant is to have on this instance: its share.", tenant...),
		instances:    desc("mtm_ingest_instances", "Instances among which workers are divided, as this one knows; 0 while it is cut off from the others."),
		healed:       desc("mtm_registry_corrections_total", "Tenants of which the control channel had said something else than the registry.", "disagreement"),
		stored:       desc("mtm_messages_stored_total", "Messages committed to the database for the first time.", tenant...),
		duplicates:   desc("mtm_messages_duplicate_total", "Messages that were stored before and changed nothing.", tenant...),
		retried:      desc("mtm_messages_retried_total", "Messages sent to a retry tier.", tenant...),
		deadLettered: desc("mtm_messages_dead_lettered_total", "Messages that became dead letters.", "tenant_id", "reason"),
		held:         desc("mtm_messages_waiting_for_rate", "Messages of a tenant that were delivered to this instance and wait for its limit per second; more may wait in the queue.", tenant...),
		full:         desc("mtm_tenant_storage_full", "1 for a tenant that has stored as much as it may, as this instance knows; its messages wait in the queue.", tenant...),
		typesIgnored: desc("mtm_messages_type_ignored_total", "Messages whose AMQP property type is longer than 255 bytes, not UTF-8 or has control characters, and is not stored.", tenant...),
		withoutID:    desc("mtm_messages_without_id_total", "Messages that came without an id and are stored at least once.", tenant...),
	}
}

// Describe implements prometheus.Collector.
func (c *Collector) Describe(ch chan<- *prometheus.Desc) {
	for _, desc := range []*prometheus.Desc{
		c.consumers, c.queue, c.workers, c.desired, c.instances, c.healed, c.stored, c.duplicates, c.retried, c.deadLettered, c.withoutID, c.typesIgnored, c.held,
		c.full,
	} {
		ch <- desc
	}
}

// Collect implements prometheus.Collector.
func (c *Collector) Collect(ch chan<- prometheus.Metric) {
	states := make(map[contract.ConsumerState]int)
	for _, t := range c.controller.tenants.all() {
		s := t.current()
		states[s.observed.state]++
		if s.observed.state != contract.StateDeleted {
			c.collectTenant(ch, t, s)
		}
	}
	for _, state := range []contract.ConsumerState{
		contract.StateProvisioning, contract.StateRunning, contract.StateStorageFull, contract.StatePaused, contract.StateSuspended,
		contract.StateDeleting, contract.StateDeleted, contract.StateFailed,
	} {
		ch <- prometheus.MustNewConstMetric(c.consumers, prometheus.GaugeValue, float64(states[state]), string(state))
	}
	ch <- prometheus.MustNewConstMetric(c.instances, prometheus.GaugeValue, float64(c.controller.env.members.Size()))
	for _, how := range disagreements() {
		ch <- prometheus.MustNewConstMetric(c.healed, prometheus.CounterValue, float64(c.controller.env.corrections.counts[how].Load()), string(how))
	}
}

func (c *Collector) collectTenant(ch chan<- prometheus.Metric, t *tenant, s state) {
	id := t.id.String()
	gauge := func(desc *prometheus.Desc, value int64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, float64(value), append([]string{id}, labels...)...)
	}
	counter := func(desc *prometheus.Desc, value int64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(desc, prometheus.CounterValue, float64(value), append([]string{id}, labels...)...)
	}
	if ready := s.depth.Ready; ready >= 0 {
		gauge(c.queue, ready, "ready")
	}
	gauge(c.queue, t.counts.Unacked(), "unacked")
	if n := t.counts.Held.Load(); n > 0 { // series of tenants that do not wait would be most of all series
		gauge(c.held, n)
	}
	if s.full {
		gauge(c.full, 1)
	}
	busy, running := t.counts.Busy.Load(), int64(0)
	if t.counts.Consuming.Load() {
		running = t.counts.Workers.Load()
	}
	gauge(c.workers, busy, "busy")
	gauge(c.workers, max(running-busy, 0), "idle")
	gauge(c.desired, int64(s.share))
	counter(c.stored, t.counts.Stats.Stored.Load())
	counter(c.duplicates, t.counts.Stats.Duplicates.Load())
	counter(c.retried, t.counts.Stats.Retried.Load())
	counter(c.withoutID, t.counts.WithoutID.Load())
	if n := t.counts.TypesIgnored.Load(); n > 0 {
		counter(c.typesIgnored, n)
	}
	for _, reason := range contract.Reasons() {
		// Series of reasons that have not occurred would be most of all series.
		if n := t.counts.Stats.DeadLettered(reason).Load(); n > 0 {
			counter(c.deadLettered, n, string(reason))
		}
	}
}
