// Doccheck verifies what the documents say about the Go code of a repository: every file:function that they name exists, the hops of
// the tables in docs/architecture.md are numbered without gaps, and a test that is named behind a package is in that package. So a
// rename or a move fails until the document is changed, too.
//
// It reads names only. Whether a table is complete, or a test shows what a document claims, is for readers to judge.
package main

import (
	"fmt"
	"io/fs"
	"os"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "doccheck <root of the repository>")
		os.Exit(2)
	}
	problems, err := check(os.DirFS(os.Args[1]))
	if err != nil {
		fmt.Fprintln(os.Stderr, "doccheck:", err)
		os.Exit(2)
	}
	for _, problem := range problems {
		fmt.Println(problem)
	}
	if len(problems) > 0 {
		os.Exit(1)
	}
}

// check returns what is wrong, in the order of the documents.
func check(repository fs.FS) ([]string, error) {
	code, documents, err := read(repository)
	if err != nil {
		return nil, err
	}
	var problems []string
	for _, d := range documents {
		problems = append(problems, d.check(code)...)
	}
	return problems, nil
}
