package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// order is how people read the members of objects; others follow, sorted.
func order() []string {
	return []string{
		"openapi", "info", "$ref", "name", "in", "title", "version", "url", "operationId", "summary", "description", "license", "required", "tags",
		"security", "servers", "parameters", "requestBody", "responses", "headers", "content", "paths", "components", "type", "format",
		"contentEncoding", "schema",
	}
}

// encode writes doc as YAML that is the same for the same doc.
func encode(doc document) ([]byte, error) {
	root, err := node(doc)
	if err != nil {
		return nil, err
	}
	root.HeadComment = "Made by `make generate` from the comments of the handlers and tools/openapidoc/overlay.yaml. DO NOT EDIT."
	var text bytes.Buffer
	enc := yaml.NewEncoder(&text)
	enc.SetIndent(2)
	if err := enc.Encode(root); err != nil {
		return nil, fmt.Errorf("write YAML: %w", err)
	}
	if err := enc.Close(); err != nil {
		return nil, fmt.Errorf("write YAML: %w", err)
	}
	return text.Bytes(), nil
}

func node(v any) (*yaml.Node, error) {
	if number, ok := v.(json.Number); ok {
		return &yaml.Node{Kind: yaml.ScalarNode, Value: number.String()}, nil
	}
	if list, ok := v.([]any); ok {
		return sequence(list)
	}
	if object := asObject(v); object != nil {
		return mapping(object)
	}
	var n yaml.Node
	if err := n.Encode(v); err != nil {
		return nil, fmt.Errorf("write %v: %w", v, err)
	}
	return &n, nil
}

func sequence(list []any) (*yaml.Node, error) {
	n := &yaml.Node{Kind: yaml.SequenceNode}
	for _, item := range list {
		child, err := node(item)
		if err != nil {
			return nil, err
		}
		n.Content = append(n.Content, child)
	}
	if scalars(n) {
		n.Style = yaml.FlowStyle
	}
	return n, nil
}

func scalars(n *yaml.Node) bool {
	return !slices.ContainsFunc(n.Content, func(child *yaml.Node) bool { return child.Kind != yaml.ScalarNode })
}

func mapping(object document) (*yaml.Node, error) {
	n := &yaml.Node{Kind: yaml.MappingNode}
	known := order()
	rank := func(name string) int {
		if i := slices.Index(known, name); i >= 0 {
			return i
		}
		return len(known)
	}
	names := slices.SortedFunc(maps.Keys(object), func(a, b string) int {
		if d := rank(a) - rank(b); d != 0 {
			return d
		}
		return strings.Compare(a, b)
	})
	for _, name := range names {
		key, err := node(name)
		if err != nil {
			return nil, err
		}
		value, err := node(object[name])
		if err != nil {
			return nil, err
		}
		n.Content = append(n.Content, key, value)
	}
	return n, nil
}
