package backing

import (
	"context"
	"fmt"
	"net/http"
	"net/url"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/management"
)

// newVHost makes a virtual host and lets the operator do everything in it.
func newVHost(ctx context.Context, services *Services) (Broker, error) {
	address, err := url.Parse(services.RabbitMQURL)
	if err != nil || address.User == nil {
		return Broker{}, fmt.Errorf("RABBITMQ_URL is not a URL with a login: amqp://user:password@host:port")
	}
	broker := Broker{ManagementURL: services.RabbitMQManagementURL, VHost: testName("mtm_test_")}
	api, err := management.New(broker.ManagementURL, services.RabbitMQURL)
	if err != nil {
		return Broker{}, err
	}
	if err := api.Do(ctx, http.MethodPut, broker.path(), struct{}{}, nil); err != nil {
		return Broker{}, err
	}
	permissions := struct {
		Configure string `json:"configure"`
		Write     string `json:"write"`
		Read      string `json:"read"`
	}{".*", ".*", ".*"}
	path := "/api/permissions/" + url.PathEscape(broker.VHost) + "/" + url.PathEscape(address.User.Username())
	if err := api.Do(ctx, http.MethodPut, path, permissions, nil); err != nil {
		return Broker{}, err
	}
	address.Path = "/" + broker.VHost
	broker.URL = address.String()
	return broker, nil
}

func (b Broker) path() string { return "/api/vhosts/" + url.PathEscape(b.VHost) }

func (b Broker) remove(ctx context.Context) error {
	api, err := management.New(b.ManagementURL, b.URL)
	if err != nil {
		return err
	}
	return api.Do(ctx, http.MethodDelete, b.path(), nil, nil)
}
