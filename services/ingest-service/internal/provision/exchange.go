package provision

import (
	"fmt"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
)

// DeclareTenantExchange declares the exchange of a tenant's own, which leads to its queue and nowhere else
// (docs/adr/0016-an-exchange-for-each-tenant.md). It is idempotent, and messages have a way at any moment of it. The queue has to be
// there, and the screen's [contract.RefusedExchange].
//
// CC and BCC add routing keys to a message, and RabbitMQ below 4.0 checks none of them against a topic permission. They go with it
// through every exchange, so that no exchange on the way may lead to a second tenant: the screen that all share does, behind it.
// Hence a screen for each tenant. A headers exchange cannot match what a message does not have; what passes takes its alternate
// exchange. Both are internal: no client can publish to them.
func DeclareTenantExchange(ch *amqp.Channel, tenantID string, screened bool) error {
	entry, queue := contract.TenantExchangeName(tenantID), contract.QueueName(tenantID)
	// The exchange says that the tenant has one, so nothing is begun without a queue, to which the screen is bound as well.
	if _, err := ch.QueueDeclarePassive(queue, true, false, false, false, nil); err != nil {
		return fmt.Errorf("look at queue %s: %w", queue, err)
	}
	if screened {
		if err := declareTenantScreen(ch, tenantID); err != nil {
			return err
		}
	}
	if err := ch.ExchangeDeclare(entry, amqp.ExchangeTopic, true, false, false, false, nil); err != nil {
		return declareError("exchange", entry, err)
	}
	if !screened {
		if err := bind(ch, queue, binding{entry, tenantID}); err != nil {
			return err
		}
		return deleteTenantScreen(ch, tenantID)
	}
	if err := ch.ExchangeBind(contract.TenantScreenName(tenantID), tenantID, entry, false, nil); err != nil {
		return fmt.Errorf("put the screen behind exchange %s: %w", entry, err)
	}
	if err := ch.QueueUnbind(queue, tenantID, entry, nil); err != nil {
		return fmt.Errorf("unbind queue %s from %s: %w", queue, entry, err)
	}
	return nil
}

// declareTenantScreen declares the screen of a tenant and what is behind it.
func declareTenantScreen(ch *amqp.Channel, tenantID string) error {
	screen, passed := contract.TenantScreenName(tenantID), contract.TenantScreenedName(tenantID)
	if err := ch.ExchangeDeclare(passed, amqp.ExchangeFanout, true, false, true, false, nil); err != nil {
		return declareError("exchange", passed, err)
	}
	if err := bind(ch, contract.QueueName(tenantID), binding{passed, ""}); err != nil {
		return err
	}
	if err := ch.ExchangeDeclare(screen, amqp.ExchangeHeaders, true, false, true, false, amqp.Table{"alternate-exchange": passed}); err != nil {
		return declareError("exchange", screen, err)
	}
	if err := ch.ExchangeBind(contract.RefusedExchange, "", screen, false, hasDeath()); err != nil {
		return fmt.Errorf("close the screen %s: %w", screen, err)
	}
	return nil
}

// deleteTenantScreen deletes what [declareTenantScreen] makes, if it is there.
func deleteTenantScreen(ch *amqp.Channel, tenantID string) error {
	return deleteExchanges(ch, contract.TenantScreenName(tenantID), contract.TenantScreenedName(tenantID))
}

// DeleteTenantExchange deletes what [DeclareTenantExchange] makes, if it is there, with all bindings.
func DeleteTenantExchange(ch *amqp.Channel, tenantID string) error {
	if err := deleteExchanges(ch, contract.TenantExchangeName(tenantID)); err != nil {
		return err
	}
	return deleteTenantScreen(ch, tenantID)
}

func deleteExchanges(ch *amqp.Channel, names ...string) error {
	for _, name := range names {
		if err := ch.ExchangeDelete(name, false, false); err != nil {
			return fmt.Errorf("delete exchange %s: %w", name, err)
		}
	}
	return nil
}
