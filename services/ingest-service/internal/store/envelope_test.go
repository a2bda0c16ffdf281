package store_test

import (
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/store"
)

// What a message carries is stored as it was given, whichever way it is written, beside messages that carry nothing; and its size counts.
func TestEnvelopesAreStored(t *testing.T) {
	f := newFixture(t)
	tenant := f.attached(t)
	attributes := make(map[string]string)
	for i := range contract.MaxAttributes {
		attributes[strings.Repeat("n", i+1)] = strings.Repeat("ü", i)
	}
	for name, e := range map[string]*contract.Envelope{
		"none":           nil,
		"a type":         {Type: "order.created"},
		"a key":          {Key: strings.Repeat("k", contract.MaxKeyBytes)},
		"attributes":     {Attributes: attributes},
		"quotes":         {Type: `"\\'"`, Key: `\u0041`, Attributes: map[string]string{"q": `"}\`, "empty": ""}},
		"all of Unicode": {Type: "😀", Key: "\u2028", Attributes: map[string]string{"a": "€"}},
	} {
		for _, again := range []bool{false, true} {
			rows := append(messages(1), store.Row{ID: uuid.New(), Payload: []byte(`{"n": 1}`), Envelope: e, Again: again})
			stored, err := f.store.Insert(t.Context(), tenant, rows)
			require.NoError(t, err, name)
			require.Equal(t, 2, stored)
			var got contract.Envelope
			var size int
			require.NoError(t, f.operator.QueryRow(t.Context(),
				`SELECT coalesce(type, ''), coalesce(key, ''), attributes, bytes FROM messages WHERE tenant_id = $1 AND id = $2`, tenant, rows[1].ID).
				Scan(&got.Type, &got.Key, &got.Attributes, &size))
			if e == nil {
				e = &contract.Envelope{}
			}
			require.Equal(t, *e, got, name)
			require.Equal(t, len(rows[1].Payload)+e.Size(), size, name)
			require.Equal(t, 1, f.count(t, `SELECT count(*) FROM messages WHERE tenant_id = $1 AND id = $2 AND type IS NULL AND key IS NULL AND attributes IS NULL`,
				tenant, rows[0].ID))
		}
	}
}
