package traffic

import (
	"testing"

	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
)

// A kind that never occurs proves nothing, and one that the client refuses never reaches the broker.
func TestHostileMessages(t *testing.T) {
	mine, neighbour := newIdentity(1, uuid.New(), 256), uuid.New()
	poisoned, good := make(map[hostile]int), make(map[hostile]int)
	for seq := range uint32(5000) {
		poisoned[mine.hostileOf(seq, true)]++
		good[mine.hostileOf(seq, false)]++
	}
	for h := range hostileKinds {
		require.NotZero(t, poisoned[h], "%s", h)
		if h == hostileExpiring || h == hostileCopied {
			require.Zero(t, good[h], "a good message that is %s may become a dead letter", h)
		} else {
			require.NotZero(t, good[h], "%s", h)
		}
		p := amqp.Publishing{}
		h.arm(&p, neighbour, false)
		require.NoError(t, p.Headers.Validate(), "%s", h)
		if h != hostileNone {
			require.NotEqual(t, amqp.Publishing{}, p, "%s", h)
		}
		foreign := amqp.Publishing{Headers: amqp.Table{"CC": []any{mine.tenant.String()}}}
		h.arm(&foreign, neighbour, false)
		require.Equal(t, []any{mine.tenant.String()}, foreign.Headers["CC"], "%s keeps the headers that the message has", h)
	}
	var again amqp.Publishing
	hostileDeath.arm(&again, neighbour, true)
	require.NotContains(t, again.Headers, "x-death", "it would be refused for ever")
}

// What hostile messages are allowed to do is no broken promise, and nothing else is allowed.
func TestJudgeKnowsWhatHostileMessagesMayDo(t *testing.T) {
	w := &made{ledger: newLedger(7, 200), shown: make(map[*account][]madeRow), backwards: make(map[*account][]uint32)}
	probe := w.ledger.open(uuid.New())
	w.ledger.setNeighbour(probe.tenant)
	a := w.ledger.open(uuid.New())
	w.accounts = []*account{probe, a}
	byKind := make(map[hostile]uint32)
	for _, m := range a.offer(500, func() bool { return true }) {
		a.resolve(m, outcomeConfirmed)
		deadLetter := w.deadLetter(a, m.seq)
		switch kind := a.hostileOf(m.seq, true); kind { //nolint:exhaustive // of the others nothing else is expected
		case hostileExpiring:
			w.deadLetters = append(w.deadLetters, deadLetter) // sent twice: rejected once, and expired once
			deadLetter.reason = reasonExpired
			byKind[kind] = m.seq
		case hostileCopied:
			w.deadLetters = append(w.deadLetters, madeDeadLetter{probe.tenant, deadLetter.id, string(contract.ReasonForeignKey), deadLetter.sum})
			byKind[kind] = m.seq
		case hostileDeep:
			byKind[kind] = m.seq
		}
		w.deadLetters = append(w.deadLetters, deadLetter)
	}
	v := w.judge()
	require.True(t, v.Clean(), "%v", v.Details)
	require.EqualValues(t, 500, v.Poison)

	wrong := w.deadLetter(a, byKind[hostileDeep])
	w.deadLetters = append(w.deadLetters,
		madeDeadLetter{probe.tenant, wrong.id, string(contract.ReasonForeignKey), wrong.sum}, // no copy was sent
		madeDeadLetter{a.tenant, wrong.id, reasonExpired, wrong.sum})                         // it does not expire
	v = w.judge()
	require.EqualValues(t, 1, v.Foreign)
	require.EqualValues(t, 1, v.Duplicated)
}
