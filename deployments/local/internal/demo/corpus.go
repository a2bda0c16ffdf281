package demo

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"

	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/testkit/jsonvalue"
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
		value, err := jsonvalue.Parse(line)
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
