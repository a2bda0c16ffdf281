package demo

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"os"

	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
)

// maxLine bounds what is read as one line. The services refuse much smaller payloads, with a better explanation.
const maxLine = 16 << 20

// corpus is what is published: message i carries document i modulo their number.
type corpus struct {
	documents []json.RawMessage
	values    []any // the same, decoded
	total     int   // messages a tenant
}

// load reads one JSON document a line. Empty lines are skipped.
func load(path string, total int) (*corpus, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open the documents: %w", err)
	}
	defer file.Close() //nolint:errcheck // read only
	c := &corpus{total: total}
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, maxLine)
	for number := 1; lines.Scan(); number++ {
		line := bytes.TrimSpace(lines.Bytes())
		if len(line) == 0 {
			continue
		}
		// What cannot be stored becomes a dead letter, and the demo would wait for it in vain.
		if err := contract.CheckPayload(line, contract.DefaultMaxPayload); err != nil {
			return nil, fmt.Errorf("%s, line %d: %w", path, number, err)
		}
		value, err := decode(line)
		if err != nil {
			return nil, fmt.Errorf("%s, line %d: %w", path, number, err)
		}
		c.documents = append(c.documents, bytes.Clone(line))
		c.values = append(c.values, value)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	if len(c.documents) == 0 {
		return nil, fmt.Errorf("%s holds no documents: one JSON value a line is expected", path)
	}
	if c.total == 0 {
		c.total = len(c.documents)
	}
	return c, nil
}

func (c *corpus) document(i int) json.RawMessage { return c.documents[i%len(c.documents)] }
func (c *corpus) value(i int) any                { return c.values[i%len(c.values)] }

// decode reads one JSON value, and keeps numbers as they are written.
func decode(body []byte) (value any, err error) {
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.UseNumber()
	if err := decoder.Decode(&value); err != nil {
		return nil, fmt.Errorf("not JSON: %w", err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("not JSON: something follows the first value")
	}
	return value, nil
}

// same reports whether two decoded JSON values mean the same: the order of keys, spelling of strings and form of
// numbers (1e3 and 1000) do not count, their exact value does.
func same(a, b any) bool {
	switch a := a.(type) {
	case map[string]any:
		other, ok := b.(map[string]any)
		if !ok || len(a) != len(other) {
			return false
		}
		for key, value := range a {
			if with, there := other[key]; !there || !same(value, with) {
				return false
			}
		}
		return true
	case []any:
		other, ok := b.([]any)
		if !ok || len(a) != len(other) {
			return false
		}
		for i := range a {
			if !same(a[i], other[i]) {
				return false
			}
		}
		return true
	case json.Number:
		other, ok := b.(json.Number)
		return ok && sameNumber(a, other)
	default: // string, bool, nil
		return a == b
	}
}

func sameNumber(a, b json.Number) bool {
	if a == b {
		return true
	}
	// Exact, not as float64: 9007199254740993 is a number that JSON may hold. The services keep exponents within bounds.
	x, okX := new(big.Rat).SetString(a.String())
	y, okY := new(big.Rat).SetString(b.String())
	return okX && okY && x.Cmp(y) == 0
}
