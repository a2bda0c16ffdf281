package corpus_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/client"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/testkit/raw"
)

// refusals are what an operator might add to the table: a constraint, which refuses a content for ever, and a trigger that
// raises an error, which may pass.
const refusals = `
CREATE TABLE allowed (transient boolean);
INSERT INTO allowed VALUES (false);
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    IF NEW.payload ? 'transient' AND NOT (SELECT transient FROM allowed) THEN
        RAISE EXCEPTION 'not now';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER refuse BEFORE INSERT ON messages FOR EACH ROW EXECUTE FUNCTION refuse();
ALTER TABLE messages ADD CONSTRAINT no_forbidden CHECK (NOT payload ? 'forbidden');`

// From the first failure to the last replay: what the database refuses for its content is a dead letter at once, what it
// refuses for another reason goes through the retry tiers first, and neither holds up a neighbour. Then the dead letters can be
// worked with, and whatever is repeated is stored once.
func TestRetriesAndReplaysOfWhatTheDatabaseRefuses(t *testing.T) {
	w := newWorld(t, map[string]string{"INGEST_RETRY_DELAYS": "200ms,400ms", "INGEST_MAX_ATTEMPTS": "3"})
	tenant, token := w.createTenant(t)
	hasty, hastyToken := w.createTenantWith(t, client.NewTenant{MaxAttempts: 1})
	_, err := w.operator.Exec(t.Context(), refusals)
	require.NoError(t, err)
	began := time.Now()

	forbidden, first, second, edited := uuid.New(), uuid.New(), uuid.New(), uuid.New()
	good := 0
	neighbour := func() {
		w.send(t, token, uuid.New(), `{"good":true}`)
		good++
	}
	for id, payload := range map[uuid.UUID]string{
		forbidden: `{"forbidden":1}`, first: `{"transient":1}`, second: `{"transient":2}`, edited: `{"transient":3}`,
	} {
		neighbour()
		w.send(t, token, id, payload)
		neighbour()
	}
	w.awaitAll(t, token, good)
	deadLetters := make(map[uuid.UUID]client.DeadLetter)
	for _, d := range w.awaitDeadLetters(t, token, 4) {
		deadLetters[uuid.UUID(d.MessageID)] = d
	}
	rejected := deadLetters[forbidden]
	require.Equal(t, contract.ReasonRejected, contract.Reason(rejected.Reason))
	require.Equal(t, 1, rejected.Attempts)
	require.Contains(t, rejected.Error, "no_forbidden")
	for _, id := range []uuid.UUID{first, second, edited} {
		require.Equal(t, contract.ReasonMaxAttempts, contract.Reason(deadLetters[id].Reason))
		require.Equal(t, 3, deadLetters[id].Attempts, "every attempt is counted, across the tiers")
		require.Contains(t, deadLetters[id].Error, "not now")
		require.True(t, deadLetters[id].LastFailedAt.After(deadLetters[id].FirstFailedAt))
		require.WithinRange(t, deadLetters[id].FirstFailedAt, began.Add(-time.Second), time.Now())
	}

	// Another tenant has a number of attempts of its own.
	w.publishAMQP(t, amqpMessage(hasty, uuid.New(), `{"transient":1}`))
	only := w.awaitDeadLetters(t, hastyToken, 1)[0]
	require.Equal(t, contract.ReasonMaxAttempts, contract.Reason(only.Reason))
	require.Equal(t, 1, only.Attempts)

	// Found by reason and by time.
	require.Len(t, w.deadLetters(t, token, client.DeadLetterFilter{Reason: "rejected"}), 1)
	require.Len(t, w.deadLetters(t, token, client.DeadLetterFilter{Reason: "max_attempts"}), 3)
	require.Len(t, w.deadLetters(t, token, client.DeadLetterFilter{FailedAfter: began.Add(-time.Minute)}), 4)
	require.Empty(t, w.deadLetters(t, token, client.DeadLetterFilter{FailedAfter: time.Now().Add(time.Minute)}))
	require.Empty(t, w.deadLetters(t, token, client.DeadLetterFilter{FailedBefore: began.Add(-time.Minute)}))

	// Seen in the metrics, with the age of the oldest.
	require.Eventually(t, func() bool {
		scrape := string(raw.Must(t, w.transport, http.StatusOK, raw.Request{URL: w.Ingest.OpsURL + "/metrics"}).Body)
		return strings.Contains(scrape, fmt.Sprintf("mtm_dead_letters{tenant_id=%q} 4\n", tenant)) &&
			strings.Contains(scrape, fmt.Sprintf("mtm_dead_letters_oldest_seconds{tenant_id=%q}", tenant))
	}, waitLimit, poll)

	// Replayed too early it fails as before, and is the same dead letter again.
	api := w.as(token)
	replay := func(id uuid.UUID) (client.ReplayResult, error) {
		replayed, err := api.ReplayDeadLetter(t.Context(), deadLetters[id].ID)
		return replayed.Result, err
	}
	result, err := replay(first)
	require.NoError(t, err)
	require.Equal(t, client.Replayed, result)
	require.Eventually(t, func() bool {
		for _, l := range w.deadLetters(t, token, client.DeadLetterFilter{Reason: "max_attempts"}) {
			if uuid.UUID(l.MessageID) == first {
				return l.ID == deadLetters[first].ID
			}
		}
		return false
	}, waitLimit, poll)

	_, err = w.operator.Exec(t.Context(), `UPDATE allowed SET transient = true`)
	require.NoError(t, err)
	// Several at a time: however many of them find the dead letter, the message is stored once.
	var replays sync.WaitGroup
	for range 5 {
		replays.Go(func() {
			if _, err := replay(first); err != nil && !errors.Is(err, client.ErrDeadLetterNotFound) {
				t.Errorf("replay: %v", err)
			}
		})
	}
	replays.Wait()
	stored := w.awaitAll(t, token, good+1)
	require.JSONEq(t, `{"transient":1}`, stored[first])
	_, err = replay(first)
	require.ErrorIs(t, err, client.ErrDeadLetterNotFound)

	// Stored by its producer in the meantime: the replay changes nothing.
	w.send(t, token, second, `{"transient":"repeated"}`)
	require.JSONEq(t, `{"transient":"repeated"}`, w.awaitAll(t, token, good+2)[second])
	result, err = replay(second)
	require.NoError(t, err)
	require.Equal(t, client.AlreadyStored, result)

	// With another payload, under its own id.
	replayed, err := api.ReplayDeadLetterAs(t.Context(), deadLetters[edited].ID, json.RawMessage(`{"fixed":[1e3]}`))
	require.NoError(t, err)
	require.Equal(t, client.Replayed, replayed.Result)
	require.JSONEq(t, `{"fixed":[1000]}`, w.awaitAll(t, token, good+3)[edited])

	// All that is left: counted first, which changes nothing, then replayed, which the database refuses again.
	left := client.DeadLetterFilter{All: true}
	count, err := api.CountDeadLetters(t.Context(), left)
	require.NoError(t, err)
	require.EqualValues(t, 1, count)
	many, err := api.ReplayDeadLetters(t.Context(), left)
	require.NoError(t, err)
	require.Equal(t, client.Replays{Replayed: 1}, many)
	require.Equal(t, contract.ReasonRejected, contract.Reason(w.awaitDeadLetters(t, token, 1)[0].Reason))
	final := w.awaitAll(t, token, good+3)
	require.JSONEq(t, `{"transient":1}`, final[first])
	require.JSONEq(t, `{"transient":"repeated"}`, final[second], "the first one that was stored wins")
	var rows int
	require.NoError(t, w.operator.QueryRow(t.Context(), `SELECT count(*) FROM messages WHERE tenant_id = $1`, tenant).Scan(&rows))
	require.Equal(t, good+3, rows)
}
