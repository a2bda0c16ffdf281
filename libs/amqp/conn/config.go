package conn

import "time"

// What reads deliveries.
const (
	// ReaderWire reads the frames of deliveries itself: ten times as fast, and whatever the broker delivers
	// (docs/adr/0010-deliveries-are-read-below-the-library.md).
	ReaderWire = "wire"
	// ReaderLibrary leaves them to amqp091-go. That gives the connection up over a table or array that lies in more than 32
	// others, one with more than 8,192 elements, and properties that have grown beyond a frame.
	ReaderLibrary = "library"
)

// Config is the section rabbitmq of a service's configuration.
type Config struct {
	// URL is amqp:// or amqps://, with user, password and virtual host. The virtual host "/" is named by no path at all or by
	// /%2F. Here a path of "/" names it, too, while strict clients take that for the virtual host without a name.
	URL string `koanf:"url" validate:"required,url" secret:"true" usage:"AMQP URL of the broker, amqp://user:password@host:5672/vhost"`
	// Connections is how many connections the consumers of an instance share. A connection carries at most 2,047
	// channels, and a consumer takes one: the default is enough for ten thousand tenants, and for half as many more.
	Connections int `koanf:"connections" validate:"min=1,max=64" usage:"connections that the consumers of this instance share"`
	// Heartbeat is the interval agreed with the broker, in whole seconds. A silent broker is given up after 1.5 times
	// this interval.
	Heartbeat time.Duration `koanf:"heartbeat" validate:"min=1s,max=5m" usage:"heartbeat interval; a silent broker is given up after 1.5 times as long"`
	// ConnectTimeout bounds one attempt to connect, the handshakes included.
	ConnectTimeout time.Duration `koanf:"connect_timeout" validate:"min=100ms,max=1m" usage:"limit of one attempt to connect"`
	// ManagementURL is that of the management API, with login unless it is that of URL. The login needs the tag policymaker. It may be empty.
	ManagementURL string `koanf:"management_url" validate:"omitempty,url" secret:"true" usage:"URL of the broker's management API, whose login may write policies (tag policymaker), to enforce limits of queues and notice messages that are stuck; without it neither is done"`
	// Reader is [ReaderWire] or [ReaderLibrary].
	Reader string `koanf:"reader" validate:"oneof=wire library" usage:"what reads deliveries: wire (the frames as they are) or library (amqp091-go, slower; it loses the connection over headers beyond its limits)"`
	// Screen is for the service that declares what producers publish to; a connection has no use for it.
	Screen string `koanf:"screen" validate:"oneof=auto on off" usage:"refuse messages with a header x-death, which a broker below 4.0 cannot dead-letter: auto (by its version), on or off"`
}

// Default is the configuration without an URL.
func Default() Config {
	return Config{Connections: 8, Heartbeat: 10 * time.Second, ConnectTimeout: 5 * time.Second, Reader: ReaderWire, Screen: "auto"}
}

// withDefaults fills what is zero, for callers that were not configured by hand.
func (c Config) withDefaults() Config {
	d := Default()
	if c.Connections <= 0 {
		c.Connections = d.Connections
	}
	if c.Heartbeat <= 0 {
		c.Heartbeat = d.Heartbeat
	}
	if c.ConnectTimeout <= 0 {
		c.ConnectTimeout = d.ConnectTimeout
	}
	if c.Reader == "" {
		c.Reader = d.Reader
	}
	return c
}
