package main

import (
	"slices"
	"testing"
	"testing/fstest"
)

// A rename that a document was not told of has to fail, or the document misleads its readers.
func TestCheck(t *testing.T) {
	const (
		writer = "package batch\n\ntype Writer struct{}\n\nfunc (*Writer) Write() {}\n\nfunc insert() {}\n"
		tests  = "package batch\n\nfunc TestWrites(t *testing.T) {}\n\nfunc FuzzWrites(f *testing.F) {}\n"
		other  = "package store\n\nfunc TestStores(t *testing.T) {}\n"
		walks  = "## Three walks\n\n### A message\n\n| hop | |\n|---|---|\n"
	)
	for name, tc := range map[string]struct {
		text string
		want []string
	}{
		"all is there":            {"`batch/writer.go:Write`, `services/ingest-service/internal/batch/writer.go:insert`, `libs/store` TestStores", nil},
		"a function is gone":      {"| 1 | `batch/writer.go:Reserve` |", []string{"doc.md: there is no function Reserve in batch/writer.go"}},
		"a file is gone":          {"`batch/gone.go:Write`", []string{"doc.md: there is no function Write in batch/gone.go"}},
		"a test is gone":          {"`libs/store` TestStores, TestGone", []string{"doc.md: there is no TestGone"}},
		"a test without package":  {"shown by TestWrites and TestGone", []string{"doc.md: there is no TestGone"}},
		"a short path":            {"`store`: TestStores and `batch`: TestWrites, FuzzWrites", []string{"doc.md: TestStores is not in store"}},
		"a test has moved":        {"`libs/store` TestStores, FuzzWrites", []string{"doc.md: FuzzWrites is not in libs/store"}},
		"hops in several tables":  {walks + "| 1 | a |\n| – | b |\n\nThen:\n\n| 2 | c |\n\n### A delivery\n\n| 1 | d |\n\n## Reading\n", nil},
		"a hop is missing":        {walks + "| 1 | a |\n| 3 | b |\n\n## Reading\n", []string{"doc.md: hop 3 comes after 1"}},
		"numbers of other tables": {walks + "## Reading\n\n| 500 | messages |\n", nil},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := check(fstest.MapFS{
				"services/ingest-service/internal/batch/writer.go":      {Data: []byte(writer)},
				"services/ingest-service/internal/batch/writer_test.go": {Data: []byte(tests)},
				"libs/store/store_test.go":                              {Data: []byte(other)},
				"bin/broken.go":                                         {Data: []byte("not Go")},
				"doc.md":                                                {Data: []byte(tc.text)},
			})
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(got, tc.want) {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}
