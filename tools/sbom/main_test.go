package main

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// A licence that is taken for another one would let a module in that may not be shipped.
func TestLicences(t *testing.T) {
	for name, c := range map[string]struct {
		text    string
		want    []string
		refused bool
	}{
		"MIT":     {"MIT License\n\nPermission is hereby granted, free of\ncharge, to any person obtaining a copy", []string{"MIT"}, false},
		"BSD-3":   {"Redistribution and use in source and binary forms … Neither the name of Google", []string{"BSD-3-Clause"}, false},
		"BSD-2":   {"Redistribution and use in source and binary forms, with or without", []string{"BSD-2-Clause"}, false},
		"Apache":  {"Apache License\n   Version 2.0, January 2004", []string{"Apache-2.0"}, false},
		"MPL":     {"Mozilla Public License Version 2.0", []string{"MPL-2.0"}, false},
		"GPL":     {"GNU GENERAL PUBLIC LICENSE\n  Version 3, 29 June 2007", []string{"GPL"}, true},
		"AGPL":    {"GNU AFFERO GENERAL PUBLIC LICENSE\n Version 3", []string{"GPL"}, true},
		"two":     {"Apache License Version 2.0 … GNU General Public License version 2", []string{"Apache-2.0", "GPL"}, true},
		"unknown": {"Do what you want", nil, true},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "LICENSE.txt"), []byte(c.text), 0o600); err != nil {
				t.Fatal(err)
			}
			got, err := licences(dir)
			if err != nil || !slices.Equal(got, c.want) || (refuse(got) != "") != c.refused {
				t.Fatalf("%v %v, refused %q", got, err, refuse(got))
			}
		})
	}
	if refuse(nil) == "" {
		t.Fatal("no licence at all")
	}
}
