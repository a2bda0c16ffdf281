package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"regexp"
	"strings"
)

// code is where the functions of a repository are, by their name.
type code struct {
	functions map[string]map[string]bool // the files that have a function or a method of that name
	tests     map[string]map[string]bool // the folders that have a test, a fuzz test, a benchmark or an example of that name
}

var testName = regexp.MustCompile(`^(Test|Fuzz|Benchmark|Example)`)

// read parses all Go files, and collects all documents, outside of hidden folders and bin.
func read(repository fs.FS) (*code, []document, error) {
	c := &code{functions: map[string]map[string]bool{}, tests: map[string]map[string]bool{}}
	var documents []document
	err := fs.WalkDir(repository, ".", func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && name != "." && (strings.HasPrefix(entry.Name(), ".") || name == "bin"):
			return fs.SkipDir
		case entry.IsDir():
			return nil
		}
		switch path.Ext(name) {
		case ".go":
			return c.add(repository, name)
		case ".md":
			text, err := fs.ReadFile(repository, name)
			documents = append(documents, document{name, string(text)})
			return err
		}
		return nil
	})
	return c, documents, err
}

func (c *code) add(repository fs.FS, name string) error {
	text, err := fs.ReadFile(repository, name)
	if err != nil {
		return err
	}
	file, err := parser.ParseFile(token.NewFileSet(), name, text, parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	for _, declaration := range file.Decls {
		function, ok := declaration.(*ast.FuncDecl)
		if !ok {
			continue
		}
		add(c.functions, function.Name.Name, name)
		if function.Recv == nil && strings.HasSuffix(name, "_test.go") && testName.MatchString(function.Name.Name) {
			add(c.tests, function.Name.Name, path.Dir(name))
		}
	}
	return nil
}

func add(places map[string]map[string]bool, name, place string) {
	if places[name] == nil {
		places[name] = map[string]bool{}
	}
	places[name][place] = true
}
