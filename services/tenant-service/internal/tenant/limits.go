package tenant

import (
	"fmt"
	"maps"

	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
)

// Config is what bounds a tenant: its workers, its attempts, and the limits. A weight of 1 is written as 0, so that a tenant of an
// installation without limits has none to be told of.
type Config struct {
	Workers     int64 `json:"workers,omitempty"`
	MaxAttempts int64 `json:"max_attempts,omitempty"`
	contract.Limits
}

// Overrides are the limits that a tenant has of its own, by their names. What is absent follows the defaults of the installation.
// Names that this version does not know are those of a newer one, and are kept.
type Overrides map[string]int64

// Patch changes overrides, by the names of the limits: a value is the tenant's own from now on, nil is the default again, and what
// is absent stays.
type Patch map[string]*int64

// The highest values that a limit may have: more than any installation can do, and exact where numbers are of double precision.
const (
	maxPerSecond = 1_000_000_000
	maxBytes     = 1 << 50 // 1 PiB
	maxMessages  = 1_000_000_000_000
	maxSeconds   = 100 * 366 * 24 * 60 * 60
	// maxPayload is the largest limit that ingest-service can be configured with.
	maxPayload = 16_000_000
	// maxPerTenant is how many subscriptions, and streams, the platform allows a tenant.
	maxPerTenant = 100
	maxWeight    = 100
)

// The names of the limits that the columns of a tenant have as well.
const (
	workersLimit     = "workers"
	maxAttemptsLimit = "max_attempts"
)

// The names of the limits that the broker holds queues to.
const (
	queueMaxMessages = "queue_max_messages"
	queueMaxBytes    = "queue_max_bytes"
)

// limit is one of the limits, with the range of what a tenant may have of its own.
type limit struct {
	name     string
	min, max int64
	of       func(*Config) *int64
}

// limits are all limits, in the order of the contract.
func (p Policy) limits() []limit {
	return []limit{
		{workersLimit, 1, int64(p.MaxWorkers), func(c *Config) *int64 { return &c.Workers }},
		{maxAttemptsLimit, 1, MaxAttemptsLimit, func(c *Config) *int64 { return &c.MaxAttempts }},
		{"weight", 1, maxWeight, func(c *Config) *int64 { return &c.Weight }},
		{"publish_rate", 0, maxPerSecond, func(c *Config) *int64 { return &c.PublishRate }},
		{"publish_bytes", 0, maxBytes, func(c *Config) *int64 { return &c.PublishBytes }},
		{"max_payload", 0, maxPayload, func(c *Config) *int64 { return &c.MaxPayload }},
		{queueMaxMessages, 0, maxMessages, func(c *Config) *int64 { return &c.QueueMaxMessages }},
		{queueMaxBytes, 0, maxBytes, func(c *Config) *int64 { return &c.QueueMaxBytes }},
		{"stored_max_bytes", 0, maxBytes, func(c *Config) *int64 { return &c.StoredMaxBytes }},
		{"retention_seconds", 0, maxSeconds, func(c *Config) *int64 { return &c.RetentionSeconds }},
		{"retention_bytes", 0, maxBytes, func(c *Config) *int64 { return &c.RetentionBytes }},
		{"dead_letter_retention_seconds", 0, maxSeconds, func(c *Config) *int64 { return &c.DeadLetterRetentionSeconds }},
		{"max_subscriptions", 0, maxPerTenant, func(c *Config) *int64 { return &c.MaxSubscriptions }},
		{"max_streams", 0, maxPerTenant, func(c *Config) *int64 { return &c.MaxStreams }},
		{"read_bytes", 0, maxBytes, func(c *Config) *int64 { return &c.ReadBytes }},
		{"replay_rate", 0, maxPerSecond, func(c *Config) *int64 { return &c.ReplayRate }},
	}
}

// contradictions are pairs of limits of which the first must not be above the second: what the first lets through, the second
// would never. 0, which is no limit, contradicts nothing.
func contradictions() [][2]string {
	return [][2]string{
		{"retention_bytes", "stored_max_bytes"}, // it would refuse before the oldest are removed
		{"max_payload", "publish_bytes"},
		{"max_payload", queueMaxBytes},
		{"max_payload", "stored_max_bytes"},
		{"max_payload", "retention_bytes"},
	}
}

func (l limit) check(value int64, wrong *ValidationError) {
	if value < l.min || value > l.max {
		wrong.add(l.name, fmt.Sprintf("must be between %d and %d", l.min, l.max))
	}
}

// Check says what is wrong with the defaults of the installation. The error is a [*ValidationError].
func (p Policy) Check() error {
	var wrong ValidationError
	c := p.inForce(nil)
	for _, l := range p.limits() {
		if value := *l.of(&c); value != 0 || l.name == workersLimit { // else it is left out: none, or that of the instances
			l.check(value, &wrong)
		}
	}
	p.contradict(c, func(string) bool { return true }, &wrong)
	return wrong.orNil()
}

// Contradictions says which of the limits in force for t contradict each other, as they can after a change of the defaults. The error
// is a [*ValidationError].
func (p Policy) Contradictions(t *Tenant) error {
	var wrong ValidationError
	p.contradict(t.InForce(), func(string) bool { return true }, &wrong)
	return wrong.orNil()
}

// contradict finds the contradictions in c to which a limit belongs that matters.
func (p Policy) contradict(c Config, matters func(name string) bool, wrong *ValidationError) {
	values := p.Values(c)
	for _, pair := range contradictions() {
		low, high := values[pair[0]], values[pair[1]]
		if high > 0 && low > high && (matters(pair[0]) || matters(pair[1])) {
			wrong.add(pair[0], fmt.Sprintf("must not be above %s: %d and %d would be in force", pair[1], low, high))
		}
	}
}

// CheckPatch says which values of a patch no tenant may have. The error is a [*ValidationError].
func (p Policy) CheckPatch(patch Patch) error {
	var wrong ValidationError
	for _, l := range p.limits() {
		if value := patch[l.name]; value != nil {
			l.check(*value, &wrong)
		}
	}
	return wrong.orNil()
}

// NeedsBroker reports whether a patch sets a limit that takes the management API of the broker, which the installation does not have.
func (p Policy) NeedsBroker(patch Patch) bool {
	if p.ManagesBroker {
		return false
	}
	for _, name := range []string{queueMaxMessages, queueMaxBytes} {
		if value := patch[name]; value != nil && *value > 0 {
			return true
		}
	}
	return false
}

// Configure applies a patch, whose values were checked, and brings what is in force up to date. A patch that changes no override
// changes nothing. The error is a [*ValidationError] if limits that the patch names would contradict others.
func (p Policy) Configure(t *Tenant, patch Patch) error {
	if err := t.changeable(); err != nil {
		return err
	}
	before := t.Own()
	own := maps.Clone(before)
	for name, value := range patch {
		if value == nil {
			delete(own, name)
		} else {
			own[name] = *value
		}
	}
	if maps.Equal(own, before) {
		return nil
	}
	c := p.inForce(own)
	var wrong ValidationError
	p.contradict(c, func(name string) bool { _, named := patch[name]; return named }, &wrong)
	if err := wrong.orNil(); err != nil {
		return err
	}
	t.configure(own, c)
	t.touch()
	return nil
}

// Refresh brings what is in force for t up to date with the defaults of the installation. A tenant that is deleted, or is being
// deleted, stays as it is.
func (p Policy) Refresh(t *Tenant) {
	own := t.Own()
	c := p.inForce(own)
	if t.changeable() != nil || c == t.InForce() {
		return
	}
	t.configure(own, c)
	t.touch()
}

// inForce is what the overrides of a tenant add up to with the defaults.
func (p Policy) inForce(own Overrides) Config {
	c := Config{Workers: int64(p.DefaultWorkers), MaxAttempts: int64(p.DefaultMaxAttempts), Limits: p.DefaultLimits}
	for _, l := range p.limits() {
		if value, ok := own[l.name]; ok {
			*l.of(&c) = value
		}
	}
	if c.Weight == 1 {
		c.Weight = 0
	}
	return c
}

// Values are the limits of c by their names: all of them, but for max_attempts where c leaves it to the instances of ingest-service.
func (p Policy) Values(c Config) map[string]int64 {
	c.Weight = max(c.Weight, 1)
	values := make(map[string]int64)
	for _, l := range p.limits() {
		if value := *l.of(&c); value != 0 || l.name != maxAttemptsLimit {
			values[l.name] = value
		}
	}
	return values
}

// InForce is what the instances are told of the tenant's limits.
func (t *Tenant) InForce() Config {
	return Config{Workers: int64(t.Workers), MaxAttempts: int64(t.MaxAttempts), Limits: t.Config.Limits}
}

// Own are the overrides of t, in a map of its own. What a version of the registry has set that knows of no overrides counts as one: it
// changes the number of workers and of attempts alone, and not what was noted of them beside the limits.
func (t *Tenant) Own() Overrides {
	own := make(Overrides, len(t.Overrides)+2)
	maps.Copy(own, t.Overrides)
	if workers := int64(t.Workers); workers != t.Config.Workers {
		own[workersLimit] = workers
	}
	switch attempts := int64(t.MaxAttempts); attempts {
	case t.Config.MaxAttempts:
	case 0:
		delete(own, maxAttemptsLimit)
	default:
		own[maxAttemptsLimit] = attempts
	}
	return own
}

// configure sets the overrides of t and what is in force.
func (t *Tenant) configure(own Overrides, c Config) {
	t.Overrides, t.Config = own, c
	t.Workers, t.MaxAttempts = int(c.Workers), int(c.MaxAttempts)
}
