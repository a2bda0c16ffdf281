package corpus_test

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
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
	hasty, hastyToken := w.createTenantWith(t, `"max_attempts":1`)
	_, err := w.operator.Exec(t.Context(), refusals)
	require.NoError(t, err)
	began := time.Now()

	forbidden, first, second, edited := uuid.New(), uuid.New(), uuid.New(), uuid.New()
	good := 0
	neighbour := func() {
		w.must(t, http.StatusAccepted, w.publish(t, token, envelope(uuid.New(), `{"good":true}`)))
		good++
	}
	for id, payload := range map[uuid.UUID]string{
		forbidden: `{"forbidden":1}`, first: `{"transient":1}`, second: `{"transient":2}`, edited: `{"transient":3}`,
	} {
		neighbour()
		w.must(t, http.StatusAccepted, w.publish(t, token, envelope(id, payload)))
		neighbour()
	}
	w.awaitAll(t, token, good)
	deadLetters := make(map[uuid.UUID]deadLetter)
	for _, l := range w.awaitDeadLetters(t, token, 4) {
		deadLetters[*l.MessageID] = l
	}
	rejected := deadLetters[forbidden]
	require.Equal(t, contract.ReasonRejected, rejected.Reason)
	require.Equal(t, 1, rejected.Attempts)
	require.Contains(t, rejected.Error, "no_forbidden")
	for _, id := range []uuid.UUID{first, second, edited} {
		require.Equal(t, contract.ReasonMaxAttempts, deadLetters[id].Reason)
		require.Equal(t, 3, deadLetters[id].Attempts, "every attempt is counted, across the tiers")
		require.Contains(t, deadLetters[id].Error, "not now")
		require.True(t, deadLetters[id].LastFailedAt.After(deadLetters[id].FirstFailedAt))
		require.WithinRange(t, deadLetters[id].FirstFailedAt, began.Add(-time.Second), time.Now())
	}

	// Another tenant has a number of attempts of its own.
	w.publishAMQP(t, amqpMessage(hasty, uuid.New(), `{"transient":1}`))
	only := w.awaitDeadLetters(t, hastyToken, 1)[0]
	require.Equal(t, contract.ReasonMaxAttempts, only.Reason)
	require.Equal(t, 1, only.Attempts)

	// Found by reason and by time.
	require.Len(t, w.deadLetters(t, token, "reason=rejected"), 1)
	require.Len(t, w.deadLetters(t, token, "reason=max_attempts"), 3)
	require.Len(t, w.deadLetters(t, token, "failed_after="+url.QueryEscape(began.Add(-time.Minute).Format(time.RFC3339))), 4)
	require.Empty(t, w.deadLetters(t, token, "failed_after="+url.QueryEscape(time.Now().Add(time.Minute).Format(time.RFC3339))))
	require.Empty(t, w.deadLetters(t, token, "failed_before="+url.QueryEscape(began.Add(-time.Minute).Format(time.RFC3339))))

	// Seen in the metrics, with the age of the oldest.
	require.Eventually(t, func() bool {
		scrape := string(w.call(t, http.MethodGet, w.Ingest.OpsURL+"/metrics", token, "", nil).body)
		return strings.Contains(scrape, fmt.Sprintf("mtm_dead_letters{tenant_id=%q} 4\n", tenant)) &&
			strings.Contains(scrape, fmt.Sprintf("mtm_dead_letters_oldest_seconds{tenant_id=%q}", tenant))
	}, waitLimit, poll)

	// Replayed too early it fails as before, and is the same dead letter again.
	replay := func(id uuid.UUID, body string) answer {
		return w.call(t, http.MethodPost, w.Ingest.URL+"/dead-letters/"+deadLetters[id].ID.String()+"/replay", token, "application/json", []byte(body))
	}
	w.must(t, http.StatusAccepted, replay(first, ""))
	require.Eventually(t, func() bool {
		for _, l := range w.deadLetters(t, token, "reason=max_attempts") {
			if *l.MessageID == first {
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
			a := replay(first, "")
			if a.status != http.StatusAccepted && a.status != http.StatusOK && a.status != http.StatusNotFound {
				t.Errorf("replay: %d %s", a.status, a.body)
			}
		})
	}
	replays.Wait()
	stored := w.awaitAll(t, token, good+1)
	require.JSONEq(t, `{"transient":1}`, stored[first])
	require.Equal(t, "dead_letter_not_found", w.must(t, http.StatusNotFound, replay(first, "")).code(t))

	// Stored by its producer in the meantime: the replay changes nothing.
	w.must(t, http.StatusAccepted, w.publish(t, token, envelope(second, `{"transient":"repeated"}`)))
	require.JSONEq(t, `{"transient":"repeated"}`, w.awaitAll(t, token, good+2)[second])
	var result struct {
		Result string `json:"result"`
	}
	w.must(t, http.StatusOK, replay(second, "")).into(t, &result)
	require.Equal(t, "already_stored", result.Result)

	// With another payload, under its own id.
	w.must(t, http.StatusAccepted, replay(edited, `{"payload":{"fixed":[1e3]}}`))
	require.JSONEq(t, `{"fixed":[1000]}`, w.awaitAll(t, token, good+3)[edited])

	// All that is left: counted first, which changes nothing, then replayed, which the database refuses again.
	var many struct {
		Count    int  `json:"count"`
		Replayed int  `json:"replayed"`
		HasMore  bool `json:"has_more"`
	}
	all := w.Ingest.URL + "/dead-letters/replay?all=true"
	w.must(t, http.StatusOK, w.call(t, http.MethodPost, all+"&dry_run=true", token, "", nil)).into(t, &many)
	require.Equal(t, 1, many.Count)
	require.Zero(t, many.Replayed)
	w.must(t, http.StatusOK, w.call(t, http.MethodPost, all, token, "", nil)).into(t, &many)
	require.Equal(t, 1, many.Replayed)
	require.Equal(t, contract.ReasonRejected, w.awaitDeadLetters(t, token, 1)[0].Reason)
	final := w.awaitAll(t, token, good+3)
	require.JSONEq(t, `{"transient":1}`, final[first])
	require.JSONEq(t, `{"transient":"repeated"}`, final[second], "the first one that was stored wins")
	var rows int
	require.NoError(t, w.operator.QueryRow(t.Context(), `SELECT count(*) FROM messages WHERE tenant_id = $1`, tenant).Scan(&rows))
	require.Equal(t, good+3, rows)
}
