package deadletter

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

const (
	// maxHeaderDepth is how deep the headers of a letter nest. AMQP allows thousands of levels in a frame, at which
	// PostgreSQL runs out of stack.
	maxHeaderDepth = 16
	// maxHeaders is how many bytes of headers, as JSON, a letter keeps. They are there for people to look at.
	maxHeaders = 64 << 10
)

// ownHeaders begin the names of the headers in package contract.
const ownHeaders = "x-mtm-"

// headersJSON is what a producer has put into the headers, without ours, as a JSON object that jsonb can hold. It is for reading, and not always reversible: bytes become base64, times RFC 3339, numbers that JSON lacks
// text. Headers that are too large are left out, and "…" says so.
func headersJSON(headers amqp.Table) json.RawMessage {
	const none, tooLarge = `{}`, `{"…":"the headers were too large to be kept"}`
	kept := make(map[string]any, len(headers))
	for name, value := range headers {
		if !strings.HasPrefix(name, ownHeaders) {
			kept[clean(name)] = jsonValue(value, 1)
		}
	}
	if len(kept) == 0 {
		return json.RawMessage(none)
	}
	encoded, err := json.Marshal(kept)
	if err != nil || len(encoded) > maxHeaders {
		return json.RawMessage(tooLarge)
	}
	return encoded
}

func jsonValue(value any, depth int) any {
	switch v := value.(type) {
	case nil, bool, int, int8, int16, int32, int64, uint8, uint16, uint32:
		return v
	case string:
		return clean(v)
	case []byte:
		return base64.StdEncoding.EncodeToString(v)
	case time.Time:
		return v.UTC().Format(time.RFC3339)
	case amqp.Table:
		if depth == maxHeaderDepth {
			return "…"
		}
		object := make(map[string]any, len(v))
		for name, element := range v {
			object[clean(name)] = jsonValue(element, depth+1)
		}
		return object
	case []any:
		if depth == maxHeaderDepth {
			return "…"
		}
		list := make([]any, len(v))
		for i, element := range v {
			list[i] = jsonValue(element, depth+1)
		}
		return list
	default: // floats, which may be NaN, and decimals
		return fmt.Sprint(v)
	}
}
