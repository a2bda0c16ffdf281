// Command openapidoc completes the OpenAPI 2.0 documents that swag has made of the services, and makes one document in version
// 3.1 of them:
//
//	openapidoc <folder> <service> …
//
// It reads <folder>/<service>/swagger.json of each service, replaces it, and writes <folder>/openapi.yaml. What a document says
// beyond the comments of the handlers is in swagger.go, for both versions, and in openapi.go and overlay.yaml, for version 3.1.
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log"
	"maps"
	"os"
	"path/filepath"
	"slices"
)

func main() {
	log.SetFlags(0)
	log.SetPrefix("openapidoc: ")
	if len(os.Args) < 3 {
		log.Fatal("usage: openapidoc <folder> <service> …")
	}
	if err := run(os.Args[1], os.Args[2:]); err != nil {
		log.Fatal(err)
	}
}

func run(folder string, services []string) error {
	merged, err := newMerger()
	if err != nil {
		return err
	}
	for _, service := range services {
		file := filepath.Join(folder, service, "swagger.json")
		doc, err := read(file)
		if err != nil {
			return err
		}
		sent, err := doc.complete()
		if err != nil {
			return fmt.Errorf("%s: %w", service, err)
		}
		if err := merged.add(service, doc, sent); err != nil {
			return fmt.Errorf("%s: %w", service, err)
		}
		doc.optionalIfNull(sent)
		if err := doc.write(file); err != nil {
			return err
		}
	}
	text, err := merged.yaml()
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(folder, "openapi.yaml"), text, 0o600)
}

// document is a JSON object.
type document map[string]any

func read(file string) (document, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	var doc document
	if err := dec.Decode(&doc); err != nil {
		return nil, fmt.Errorf("read %s: %w", file, err)
	}
	return doc, nil
}

func (d document) write(file string) error {
	var text bytes.Buffer
	enc := json.NewEncoder(&text)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "    ")
	if err := enc.Encode(d); err != nil {
		return fmt.Errorf("write %s: %w", file, err)
	}
	return os.WriteFile(file, text.Bytes(), 0o600)
}

func asObject(v any) document {
	switch v := v.(type) {
	case document:
		return v
	case map[string]any:
		return v
	}
	return nil
}

func (d document) object(name string) document { return asObject(d[name]) }

func (d document) list(name string) []any {
	list, _ := d[name].([]any)
	return list
}

func (d document) text(name string) string {
	text, _ := d[name].(string)
	return text
}

// operation is one operation of a document in version 2.0.
type operation struct {
	path, method string
	document
}

// operations are those of d, in the order of their paths and methods.
func (d document) operations() (all []operation) {
	paths := d.object("paths")
	for _, path := range slices.Sorted(maps.Keys(paths)) {
		methods := paths.object(path)
		for _, method := range slices.Sorted(maps.Keys(methods)) {
			all = append(all, operation{path, method, methods.object(method)})
		}
	}
	return all
}
