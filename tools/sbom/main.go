// Command sbom lists the modules that are built into the services and the client, with their licences.
//
//	sbom [-output FILE] PACKAGE…
//
// Without a file it prints a line a module; with one it writes a CycloneDX 1.6 document. It fails for a module whose licence it does
// not recognise, or which is none of those that the platform may be shipped with: permissive ones, and MPL-2.0, which covers its own
// files alone. Run from the root of the workspace; modules must have been downloaded.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// own is what the modules of this repository begin with.
const own = "github.com/srireskianita/multi-tenant-messaging/"

// phrases tell licences apart, by their SPDX identifiers. A text may have several.
var phrases = []struct{ id, has, hasNot string }{
	{"Apache-2.0", "apache license version 2.0", ""},
	{"MIT", "permission is hereby granted, free of charge, to any person obtaining a copy", ""},
	{"BSD-3-Clause", "neither the name", ""},
	{"BSD-2-Clause", "redistribution and use in source and binary forms", "neither the name"},
	{"ISC", "permission to use, copy, modify, and/or distribute this software for any purpose", ""},
	{"MPL-2.0", "mozilla public license, version 2.0", ""},
	{"MPL-2.0", "mozilla public license version 2.0", ""},
	{"GPL", "gnu general public license version", ""},
	{"GPL", "gnu affero general public license version", ""},
	{"LGPL", "gnu lesser general public license version", ""},
}

var allowed = []string{"Apache-2.0", "MIT", "BSD-3-Clause", "BSD-2-Clause", "ISC", "MPL-2.0"}

type module struct {
	path, version, dir string
	licences           []string
}

func main() {
	output := flag.String("output", "", "write a CycloneDX document to `FILE`")
	flag.Parse()
	if err := run(*output, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "sbom:", err)
		os.Exit(1)
	}
}

func run(output string, packages []string) error {
	modules, err := built(packages)
	if err != nil {
		return err
	}
	var refused []error
	for i := range modules {
		m := &modules[i]
		if m.licences, err = licences(m.dir); err != nil {
			return err
		}
		if reason := refuse(m.licences); reason != "" {
			refused = append(refused, fmt.Errorf("%s %s: %s", m.path, m.version, reason))
		}
		if output == "" {
			fmt.Printf("%-24s %s %s\n", strings.Join(m.licences, ", "), m.path, m.version)
		}
	}
	if err := errors.Join(refused...); err != nil || output == "" {
		return err
	}
	text, err := json.MarshalIndent(document(modules), "", "  ")
	if err != nil {
		return fmt.Errorf("write the document: %w", err)
	}
	return os.WriteFile(output, append(text, '\n'), 0o644)
}

// built are the modules of the packages and of all that they import, without those of this repository.
func built(packages []string) ([]module, error) {
	format := `{{with .Module}}{{.Path}}{{"\t"}}{{.Version}}{{"\t"}}{{.Dir}}{{end}}`
	list := exec.Command("go", append([]string{"list", "-deps", "-f", format}, packages...)...)
	list.Stderr = os.Stderr
	text, err := list.Output()
	if err != nil {
		return nil, fmt.Errorf("list the packages: %w", err)
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	slices.Sort(lines)
	var modules []module
	for _, line := range slices.Compact(lines) {
		if field := strings.Split(line, "\t"); len(field) == 3 && !strings.HasPrefix(field[0], own) {
			modules = append(modules, module{path: field[0], version: field[1], dir: field[2]})
		}
	}
	if len(modules) == 0 {
		return nil, errors.New("no modules: which packages?")
	}
	return modules, nil
}

// licences are those of the texts in the folder of a module.
func licences(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("read a module: %w", err)
	}
	var found []string
	for _, entry := range entries {
		name := strings.ToUpper(entry.Name())
		if entry.IsDir() || !strings.HasPrefix(name, "LICEN") && !strings.HasPrefix(name, "COPYING") {
			continue
		}
		text, err := os.ReadFile(filepath.Join(dir, entry.Name()))
		if err != nil {
			return nil, fmt.Errorf("read a licence: %w", err)
		}
		found = append(found, recognise(string(text))...)
	}
	slices.Sort(found)
	return slices.Compact(found), nil
}

// recognise returns the licences of a text.
func recognise(text string) (found []string) {
	text = strings.NewReplacer("license, version 2.0, january", "license version 2.0 january", "license, version 2.0 (the", "license version 2.0 (the").
		Replace(strings.ToLower(strings.Join(strings.Fields(text), " ")))
	for _, p := range phrases {
		if strings.Contains(text, p.has) && (p.hasNot == "" || !strings.Contains(text, p.hasNot)) && !slices.Contains(found, p.id) {
			found = append(found, p.id)
		}
	}
	return found
}

// refuse says why a module may not be shipped, "" if it may.
func refuse(licences []string) string {
	if len(licences) == 0 {
		return "its licence is not recognised"
	}
	for _, id := range licences {
		if !slices.Contains(allowed, id) {
			return "its licence is " + id
		}
	}
	return ""
}

// document is a CycloneDX document.
func document(modules []module) any {
	type object = map[string]any
	components := make([]object, 0, len(modules))
	for _, m := range modules {
		purl := "pkg:golang/" + m.path + "@" + m.version
		ids := make([]object, 0, len(m.licences))
		for _, id := range m.licences {
			ids = append(ids, object{"license": object{"id": id}})
		}
		components = append(components, object{
			"type": "library", "bom-ref": purl, "name": m.path, "version": m.version, "purl": purl, "licenses": ids,
		})
	}
	return object{
		"bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1,
		"metadata":   object{"component": object{"type": "application", "bom-ref": strings.TrimSuffix(own, "/"), "name": "multi-tenant-messaging"}},
		"components": components,
	}
}
