package rig

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
)

// Payload is a JSON object of exactly size bytes, of at least 64: an order with as many lines as fit. It is the same
// for the same size. Like most messages, and unlike a row of the same letter, it can be compressed to about half.
func Payload(size int) []byte {
	random := rand.New(rand.NewPCG(1, uint64(size))) //nolint:gosec // the same messages in every run
	body := []byte(`{"type":"order.created","lines":[`)
	const end = `],"note":""}`
	for first := true; ; first = false {
		line, err := json.Marshal(map[string]any{
			"sku": fmt.Sprintf("%012x", random.Uint64N(1<<48)), "quantity": 1 + random.IntN(9), "price": random.IntN(100_000),
		})
		if err != nil {
			panic(fmt.Sprintf("a map of strings and numbers is JSON: %v", err))
		}
		if len(body)+len(line)+1+len(end) > size {
			break
		}
		if !first {
			body = append(body, ',')
		}
		body = append(body, line...)
	}
	body = append(body, `],"note":"`...)
	for len(body) < size-len(`"}`) {
		body = append(body, "abcdefghijklmnopqrstuvwxyz"[random.IntN(26)])
	}
	return append(body, `"}`...)
}
