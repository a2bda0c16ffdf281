package main

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

type document struct{ name, text string }

var (
	// function is `path/file.go:function`.
	function = regexp.MustCompile("`([\\w./-]+\\.go):(\\w+)`")
	// tests is `folder/of/a/package`, or with a colon behind it, followed by the names of its tests.
	tests = regexp.MustCompile("`([\\w-]+(?:/[\\w.-]+)*)`:? ((?:Test|Fuzz|Benchmark)\\w+(?:, (?:Test|Fuzz|Benchmark)\\w+)*)")
	// test is the name of a test, wherever it is.
	test = regexp.MustCompile(`\b(?:Test|Fuzz|Benchmark)[A-Z]\w*`)
	// hop is the begin of a row of a table whose first column is a number.
	hop = regexp.MustCompile(`^\| (\d+) \|`)
	// walks are the tables with such rows.
	walks = regexp.MustCompile(`(?ms)^## Three walks$.*?^## `)
)

// roots are the folders that a path in a document may be relative to (docs/architecture.md says so above its tables).
var roots = []string{"", "services/", "services/ingest-service/internal/"}

func (d document) check(c *code) (problems []string) {
	problem := func(format string, args ...any) {
		problems = append(problems, d.name+": "+fmt.Sprintf(format, args...))
	}
	for _, m := range function.FindAllStringSubmatch(d.text, -1) {
		if !within(m[1], c.functions[m[2]]) {
			problem("there is no function %s in %s", m[2], m[1])
		}
	}
	for _, m := range tests.FindAllStringSubmatch(d.text, -1) {
		for name := range strings.SplitSeq(m[2], ", ") {
			if len(c.tests[name]) > 0 && !within(m[1], c.tests[name]) {
				problem("%s is not in %s", name, m[1])
			}
		}
	}
	for _, name := range test.FindAllString(d.text, -1) {
		if len(c.tests[name]) == 0 {
			problem("there is no %s", name)
		}
	}
	return append(problems, d.checkHops()...)
}

// within reports whether places has a path that a document gives.
func within(path string, places map[string]bool) bool {
	return slices.ContainsFunc(roots, func(root string) bool { return places[root+path] })
}

// checkHops verifies that the hops of each walk are numbered from 1 without gaps. A walk may have several tables below its title.
func (d document) checkHops() (problems []string) {
	last := 0
	for line := range strings.Lines(walks.FindString(d.text)) {
		if strings.HasPrefix(line, "### ") {
			last = 0
		}
		m := hop.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		number, err := strconv.Atoi(m[1])
		if err != nil || number != last+1 {
			problems = append(problems, fmt.Sprintf("%s: hop %s comes after %d", d.name, m[1], last))
		}
		last = number
	}
	return problems
}
