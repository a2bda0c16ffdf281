package platform

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"time"

	toxiproxy "github.com/Shopify/toxiproxy/v2"
	"github.com/rs/zerolog"

	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
	"github.com/srireskianita/multi-tenant-messaging/testkit/port"
	"github.com/srireskianita/multi-tenant-messaging/testkit/stack"
)

// networkTimeout bounds a change of a proxy. It takes milliseconds, but a connection whose other end does not read holds
// up the removal of a toxic for 5 s.
const networkTimeout = 30 * time.Second

// startProxies starts a proxy before each server, and returns what makes a stack use them.
func startProxies(ctx context.Context, services *backing.Services) (map[backing.Name]*toxiproxy.Proxy, stack.Options, error) {
	// It logs through a global logger as well, one line a connection.
	zerolog.SetGlobalLevel(zerolog.Disabled)
	server := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop())
	ports, err := port.Free(ctx, len(backing.Names()))
	if err != nil {
		return nil, stack.Options{}, err
	}
	opts := stack.On(services)
	addresses := map[backing.Name]*string{
		backing.ServicePostgres: &opts.DatabaseURL, backing.ServiceRabbitMQ: &opts.RabbitMQURL, backing.ServiceNATS: &opts.NATSURL,
	}
	proxies := make(map[backing.Name]*toxiproxy.Proxy, len(ports))
	for i, name := range backing.Names() {
		listen := net.JoinHostPort("127.0.0.1", strconv.Itoa(ports[i]))
		address, err := url.Parse(*addresses[name])
		if err != nil {
			return proxies, opts, fmt.Errorf("read the address of %s: %w", name, err)
		}
		proxy := toxiproxy.NewProxy(server, string(name), listen, address.Host)
		if err := proxy.Start(); err != nil {
			return proxies, opts, fmt.Errorf("start the proxy before %s: %w", name, err)
		}
		proxies[name] = proxy
		address.Host = listen
		*addresses[name] = address.String()
	}
	return proxies, opts, nil
}

// directions are those of the data on a connection, as toxiproxy names them.
func directions() []string { return []string{"upstream", "downstream"} }

// Delay makes data take latency, give or take jitter, on every connection to a server, in both directions.
func (p *Platform) Delay(ctx context.Context, name backing.Name, latency, jitter time.Duration) error {
	return p.poison(ctx, name, "latency", map[string]int64{"latency": latency.Milliseconds(), "jitter": jitter.Milliseconds()})
}

// Throttle limits every connection to a server to so many kilobytes a second, in both directions.
func (p *Platform) Throttle(ctx context.Context, name backing.Name, rate int64) error {
	return p.poison(ctx, name, "bandwidth", map[string]int64{"rate": rate})
}

// HalfOpen swallows the data of every connection to a server. The connections stay open, and new ones open, too.
func (p *Platform) HalfOpen(ctx context.Context, name backing.Name) error {
	return p.poison(ctx, name, halfOpen, map[string]int64{"timeout": 0})
}

// halfOpen is toxiproxy's name of a toxic that swallows data.
const halfOpen = "timeout"

// Cut closes every connection to a server and refuses new ones.
func (p *Platform) Cut(ctx context.Context, name backing.Name) error {
	return p.change(ctx, name, func(proxy *toxiproxy.Proxy) error {
		proxy.Stop()
		return nil
	})
}

// Heal undoes what has been done to the connections to a server. It keeps them open, unless data has been swallowed.
func (p *Platform) Heal(ctx context.Context, name backing.Name) error {
	return p.change(ctx, name, func(proxy *toxiproxy.Proxy) error {
		for _, direction := range directions() {
			if proxy.Toxics.GetToxic(toxicName(halfOpen, direction)) != nil {
				proxy.Stop() // what was swallowed does not come again, so neither may what follows it
			}
		}
		proxy.Toxics.ResetToxics(context.WithoutCancel(ctx)) // for its logger alone
		if err := proxy.Start(); err != nil && !errors.Is(err, toxiproxy.ErrProxyAlreadyStarted) {
			return err
		}
		return nil
	})
}

func toxicName(toxic, direction string) string { return toxic + "_" + direction }

// poison adds a toxic in both directions.
func (p *Platform) poison(ctx context.Context, name backing.Name, toxic string, attributes map[string]int64) error {
	return p.change(ctx, name, func(proxy *toxiproxy.Proxy) error {
		for _, direction := range directions() {
			body, err := json.Marshal(map[string]any{
				"name": toxicName(toxic, direction), "type": toxic, "stream": direction, "attributes": attributes,
			})
			if err != nil {
				return fmt.Errorf("encode the toxic: %w", err)
			}
			if _, err := proxy.Toxics.AddToxicJson(bytes.NewReader(body)); err != nil {
				return err
			}
		}
		return nil
	})
}

// change makes a change of the proxy before a server. Toxiproxy takes no deadline: a change that hangs is left behind,
// and its error ends the run.
func (p *Platform) change(ctx context.Context, name backing.Name, do func(*toxiproxy.Proxy) error) error {
	ctx, cancel := context.WithTimeout(ctx, networkTimeout)
	defer cancel()
	done := make(chan error, 1) // room for the answer that nobody waits for any more
	go func() { done <- do(p.Proxies[name]) }()
	select {
	case err := <-done:
		if err != nil {
			return fmt.Errorf("change the proxy before %s: %w", name, err)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("change the proxy before %s: %w", name, ctx.Err())
	}
}
