package traffic

import (
	"bytes"
	"crypto/sha256"
	"fmt"

	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
)

// poison is a kind of message that cannot be stored.
type poison int

const (
	poisonNotJSON poison = iota
	poisonEmpty
	poisonNull    // \u0000, which jsonb cannot hold
	poisonTooDeep // one level more than is allowed
	poisonForeign // another routing key, and the tenant in a CC header
	poisonTooLarge
	poisonKinds
)

// poisonOf is the fault of a message, if it is poison. A too large one is a mebibyte, so it is rare.
func (i *identity) poisonOf(seq uint32) poison {
	chosen := mix(i.key + uint64(seq))
	if chosen>>32%16 == 0 {
		return poisonTooLarge
	}
	return poison(chosen % uint64(poisonTooLarge))
}

// reason is why it is to become a dead letter.
func (p poison) reason() contract.Reason {
	switch p {
	case poisonNull:
		return contract.ReasonUnstorable
	case poisonTooDeep:
		return contract.ReasonTooDeep
	case poisonTooLarge:
		return contract.ReasonTooLarge
	case poisonForeign:
		return contract.ReasonForeignKey
	case poisonNotJSON, poisonEmpty, poisonKinds:
	}
	return contract.ReasonNotJSON
}

// poisoned is the body of a poisoned message. All but the empty one are different for every message.
func (i *identity) poisoned(seq uint32) []byte {
	switch i.poisonOf(seq) {
	case poisonNotJSON:
		return fmt.Appendf(nil, `{"n": %d, "broken":`, seq)
	case poisonNull:
		return fmt.Appendf(nil, `{"n": %d, "text": "\u0000"}`, seq)
	case poisonTooDeep:
		body := bytes.Repeat([]byte("["), contract.MaxDepth+1)
		body = fmt.Append(body, seq)
		return append(body, bytes.Repeat([]byte("]"), contract.MaxDepth+1)...)
	case poisonTooLarge:
		body := fmt.Appendf(nil, `{"n": %d, "text": "`, seq)
		body = append(body, bytes.Repeat([]byte("x"), contract.DefaultMaxPayload)...)
		return append(body, `"}`...)
	case poisonForeign:
		return i.payload(seq, 0)
	case poisonEmpty, poisonKinds:
	}
	return []byte{}
}

// poisonedSum is the SHA-256 of the body.
func (i *identity) poisonedSum(seq uint32) [sha256.Size]byte { return sha256.Sum256(i.poisoned(seq)) }

// disguise is the routing key and the headers of a poisoned message.
func (i *identity) disguise(seq uint32) (key string, headers amqp.Table) {
	if i.poisonOf(seq) != poisonForeign {
		return i.tenant.String(), nil
	}
	stranger := uuid.NewSHA1(i.tenant, []byte("stranger")) // no queue is bound to it
	return stranger.String(), amqp.Table{"CC": []any{i.tenant.String()}}
}
