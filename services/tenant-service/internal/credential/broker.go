package credential

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/management"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
)

// Config is the section rabbitmq of tenant-service, which needs it for credentials alone.
type Config struct {
	// URL names the virtual host, and has the login of the management API if ManagementURL has none.
	URL string `koanf:"url" validate:"required_with=ManagementURL,omitempty,url" secret:"true" usage:"AMQP URL of the broker, amqp://user:password@host:5672/vhost, for the credentials of tenants; needed with management_url"`
	// ManagementURL is that of the management API, whose login needs the tag administrator. Empty: there are no credentials.
	ManagementURL string `koanf:"management_url" validate:"omitempty,url" secret:"true" usage:"URL of the broker's management API, whose login may administrate users; AMQP credentials of tenants cannot be made, and limits of queues not be set, without it"`
	// PublicURL is where producers reach the broker. Its login counts for nothing.
	PublicURL string `koanf:"public_url" validate:"omitempty,url" usage:"AMQP URL at which producers reach the broker, amqps://host:5671, as it is shown with their credentials (default: the host of url)"`
	// CredentialConnections and CredentialChannels are limits of one credential's user.
	CredentialConnections int `koanf:"credential_connections" validate:"min=1,max=100000" usage:"connections of one credential at a time; counts for new ones"`
	CredentialChannels    int `koanf:"credential_channels" validate:"min=1,max=1000000" usage:"channels of one credential at a time, on all its connections; counts for new ones"`
}

// DefaultConfig is the configuration without a broker.
func DefaultConfig() Config { return Config{CredentialConnections: 20, CredentialChannels: 200} }

// requestTimeout bounds one request to the management API. Each of these takes milliseconds.
const requestTimeout = 10 * time.Second

// broker is what is done in the broker. Each operation can be repeated.
type broker struct {
	cfg    Config
	api    *management.Client
	vhost  string
	public url.URL // without login
}

func newBroker(cfg Config) (*broker, error) {
	api, err := management.New(cfg.ManagementURL, cfg.URL)
	if err != nil {
		return nil, err
	}
	inside, err := amqp.ParseURI(cfg.URL)
	if err != nil {
		return nil, errors.New("rabbitmq.url is not a valid AMQP URL")
	}
	b := &broker{cfg: cfg, api: api, vhost: inside.Vhost}
	shown := cfg.PublicURL
	if shown == "" {
		shown = cfg.URL
	}
	public, err := url.Parse(shown)
	if err != nil || public.Host == "" || (public.Scheme != "amqp" && public.Scheme != "amqps") {
		return nil, errors.New("rabbitmq.public_url is not a valid AMQP URL")
	}
	b.public = url.URL{Scheme: public.Scheme, Host: public.Host}
	if b.vhost != "/" { // the one that a URL without a path names
		b.public.Path, b.public.RawPath = "/"+b.vhost, "/"+url.PathEscape(b.vhost)
	}
	return b, nil
}

// url is the AMQP URL of a user.
func (b *broker) url(username, password string) string {
	public := b.public
	public.User = url.UserPassword(username, password)
	return public.String()
}

func (b *broker) do(ctx context.Context, method, path string, body, into any) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	return b.api.Do(ctx, method, path, body, into)
}

// hasExchange reports whether a tenant's exchange is there and leads somewhere.
func (b *broker) hasExchange(ctx context.Context, tenant string) (bool, error) {
	var bindings []struct {
		Source string `json:"source"`
	}
	path := "/api/exchanges/" + b.api.VHost() + "/" + url.PathEscape(contract.TenantExchangeName(tenant)) + "/bindings/source"
	err := b.do(ctx, http.MethodGet, path, nil, &bindings)
	if errors.Is(err, management.ErrUnknown) {
		return false, nil
	}
	return len(bindings) > 0, err
}

// Patterns of permissions. \z is the end; $ would match before a line feed as well.
const nothing = `\A\z`

func exactly(name string) string { return `\A` + regexp.QuoteMeta(name) + `\z` }

// add makes the user of a credential, or makes it anew.
func (b *broker) add(ctx context.Context, username, passwordHash, tenant string) error {
	name, exchange := url.PathEscape(username), contract.TenantExchangeName(tenant)
	for _, step := range []struct {
		what, path string
		body       any
	}{
		{"make the user", "/api/users/" + name, map[string]string{
			"password_hash": passwordHash, "hashing_algorithm": "rabbit_password_hashing_sha256", "tags": "",
		}},
		{"limit its routing keys", "/api/topic-permissions/" + b.api.VHost() + "/" + name, map[string]string{
			"exchange": exchange, "write": exactly(tenant), "read": nothing,
		}},
		{"limit its connections", "/api/user-limits/" + name + "/max-connections", map[string]int{"value": b.cfg.CredentialConnections}},
		{"limit its channels", "/api/user-limits/" + name + "/max-channels", map[string]int{"value": b.cfg.CredentialChannels}},
		{"let it write", "/api/permissions/" + b.api.VHost() + "/" + name, map[string]string{
			"configure": nothing, "write": exactly(exchange), "read": nothing,
		}},
	} {
		if err := b.do(ctx, http.MethodPut, step.path, step.body, nil); err != nil {
			return fmt.Errorf("%s: %w", step.what, err)
		}
	}
	return nil
}

// remove deletes a user, which closes its connections. One that is not there is fine.
func (b *broker) remove(ctx context.Context, username string) error {
	err := b.do(ctx, http.MethodDelete, "/api/users/"+url.PathEscape(username), nil, nil)
	if err == nil || errors.Is(err, management.ErrUnknown) {
		return nil
	}
	return fmt.Errorf("delete the user: %w", err)
}

// usersTimeout bounds the request for all users: 2 s for 10,000 on RabbitMQ 3.10, which cannot give them in pages.
const usersTimeout = 30 * time.Second

// users are the names of all users that this installation has made.
func (b *broker) users(ctx context.Context) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, usersTimeout)
	defer cancel()
	var all []struct {
		Name string `json:"name"`
	}
	if err := b.api.Do(ctx, http.MethodGet, "/api/users?columns=name", nil, &all); err != nil {
		return nil, fmt.Errorf("list the users: %w", err)
	}
	var ours []string
	for _, user := range all {
		if isOurs(b.vhost, user.Name) {
			ours = append(ours, user.Name)
		}
	}
	return ours, nil
}

// newPassword makes a password of 256 bits, in characters that need no escaping anywhere, and its hash as the broker keeps it
// (https://www.rabbitmq.com/docs/passwords#computing-password-hash): a salt of 32 bits, and SHA-256 over it and the password. That is
// fast to compute, which does not matter with a password that nobody can guess.
func newPassword() (password, hash string) {
	var secret [32]byte
	var salted [4]byte
	_, _ = rand.Read(secret[:]) // never fails, see crypto/rand
	_, _ = rand.Read(salted[:])
	password = base64.RawURLEncoding.EncodeToString(secret[:])
	sum := sha256.Sum256(append(salted[:], password...))
	return password, base64.StdEncoding.EncodeToString(append(salted[:], sum[:]...))
}
