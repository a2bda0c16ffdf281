// Command convert turns the OpenAPI 2.0 document of a service, on standard input, into one of version 3.0 on standard output, for
// generators that read nothing older. An OpenAPI 2.0 operation has one list of media types for all its answers; here each answer
// gets its own: problem documents are application/problem+json, and nothing else is.
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"log"
	"os"

	"github.com/getkin/kin-openapi/openapi2"
	"github.com/getkin/kin-openapi/openapi2conv"
	"github.com/getkin/kin-openapi/openapi3"
)

const (
	problemType = "application/problem+json"
	problemRef  = "#/components/schemas/Problem"
)

func main() {
	log.SetFlags(0)
	log.SetPrefix("convert: ")
	if err := run(os.Stdin, os.Stdout); err != nil {
		log.Fatal(err)
	}
}

func run(in io.Reader, out io.Writer) error {
	var old openapi2.T
	if err := json.NewDecoder(in).Decode(&old); err != nil {
		return fmt.Errorf("read the document: %w", err)
	}
	doc, err := openapi2conv.ToV3(&old)
	if err != nil {
		return fmt.Errorf("convert: %w", err)
	}
	for _, path := range doc.Paths.Map() {
		for _, operation := range path.Operations() {
			for _, answer := range operation.Responses.Map() {
				separate(answer.Value.Content)
			}
		}
	}
	if err := json.NewEncoder(out).Encode(doc); err != nil {
		return fmt.Errorf("write the document: %w", err)
	}
	return nil
}

// separate leaves the media types that fit the schema of an answer.
func separate(content openapi3.Content) {
	for media, body := range content {
		if (media == problemType) != (body.Schema.Ref == problemRef) {
			delete(content, media)
		}
	}
}
