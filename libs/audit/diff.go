package audit

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
)

// Diff is what is different between two states of a thing, which are written as JSON objects: of each, the members that the other
// has not or has with another value, objects inside of them likewise. A nil state is that of a thing that is not there, and a result is
// nil where nothing is left of it.
func Diff(before, after any) (was, is any, err error) {
	b, err := members(before)
	if err != nil {
		return nil, nil, err
	}
	a, err := members(after)
	if err != nil {
		return nil, nil, err
	}
	return orNil(without(b, a)), orNil(without(a, b)), nil
}

// members are those of the JSON object that state is written as.
func members(state any) (map[string]any, error) {
	encoded, err := json.Marshal(state)
	if err != nil {
		return nil, fmt.Errorf("encode a state for an audit event: %w", err)
	}
	var object map[string]any
	decoder := json.NewDecoder(bytes.NewReader(encoded))
	decoder.UseNumber() // numbers stay as they were written
	if err := decoder.Decode(&object); err != nil {
		return nil, fmt.Errorf("a state for an audit event is no JSON object: %w", err)
	}
	return object, nil
}

// without are the members of object that other has not, or has with another value.
func without(object, other map[string]any) map[string]any {
	left := make(map[string]any)
	for name, value := range object {
		opposite, there := other[name]
		if there && reflect.DeepEqual(value, opposite) {
			continue
		}
		inner, isObject := value.(map[string]any)
		innerOther, isOther := opposite.(map[string]any)
		if isObject && isOther {
			if inner = without(inner, innerOther); len(inner) == 0 {
				continue // the other one has more
			}
			value = inner
		}
		left[name] = value
	}
	return left
}

// orNil is nil for no members, which is another nil than that of a map.
func orNil(object map[string]any) any {
	if len(object) == 0 {
		return nil
	}
	return object
}
