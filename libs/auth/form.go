package auth

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

var (
	// errForm is why something is not a JWT in compact form; the client learns no more than "malformed".
	errForm = errors.New("the token is malformed")
	// errTwice stands for a token that two parsers would read differently.
	errTwice = errors.New("the token has a claim or a header parameter twice")
)

// headerError is a header parameter that asks for what is not done here.
type headerError struct{ parameter string }

func (e headerError) Error() string {
	return "the header parameter " + e.parameter + " of the token has a value that is not supported"
}

// strict refuses what the parser inside contrib/jwt, which can't be given options, reads generously, and headers that ask for
// more than a signature.
//
// Segments are base64url without padding, line breaks or bits set beyond the last byte (RFC 7515 section 2, RFC 4648
// section 3.5): otherwise one token could be written in several ways.
func strict(token string) (string, error) {
	segments := strings.Split(token, ".")
	if len(segments) != 3 || strings.ContainsAny(token, "\r\n") {
		return "", errForm
	}
	var header []byte
	for i, segment := range segments {
		b, err := base64.RawURLEncoding.Strict().DecodeString(segment)
		if err != nil {
			return "", fmt.Errorf("%w: %w", errForm, err)
		}
		if i == 0 {
			header = b
		}
	}
	parameters, err := object(header)
	if err != nil {
		return "", err
	}
	return token, checkHeader(parameters)
}

// checkHeader refuses the header parameters that change what a token means.
//
//   - crit names extensions, and a recipient that does not know them must refuse the token (RFC 7515 section 4.1.11). None is known here.
//   - b64 other than true is not for JWTs (RFC 7797 section 7), zip is not for signatures (RFC 7516 section 4.1.3).
//   - cty JWT stands for a token inside this one (RFC 7519 section 5.2).
//   - typ tells kinds of tokens apart (RFC 8725 section 3.11): a logout token or a proof of possession is no access token.
func checkHeader(parameters map[string]any) error {
	for _, name := range []string{"crit", "zip"} {
		if _, ok := parameters[name]; ok {
			return headerError{name}
		}
	}
	if b64, ok := parameters["b64"]; ok && b64 != true {
		return headerError{"b64"}
	}
	if kid, ok := parameters["kid"]; ok {
		if _, ok := kid.(string); !ok {
			return headerError{"kid"}
		}
	}
	if cty, ok := parameters["cty"]; ok {
		if media, ok := mediaType(cty); !ok || media == "jwt" {
			return headerError{"cty"}
		}
	}
	if typ, ok := parameters["typ"]; ok {
		if media, ok := mediaType(typ); !ok || media != "jwt" && media != "at+jwt" { // at+jwt: RFC 9068 section 2.1
			return headerError{"typ"}
		}
	}
	return nil
}

// mediaType is a media type as the header writes it, where "application/" may be left out (RFC 7515 section 4.1.9).
func mediaType(parameter any) (string, bool) {
	s, ok := parameter.(string)
	return strings.TrimPrefix(strings.ToLower(s), "application/"), ok
}

// object reads one JSON object whose keys are unique (RFC 7519 section 4). Unlike those of a struct they are matched exactly,
// and numbers are kept as they are written.
func object(raw []byte) (map[string]any, error) {
	if !utf8.Valid(raw) {
		return nil, errForm
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	if open, err := dec.Token(); err != nil || open != json.Delim('{') {
		return nil, errForm
	}
	members := map[string]any{}
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return nil, errForm
		}
		name, _ := key.(string)
		var value any
		if err := dec.Decode(&value); err != nil {
			return nil, errForm
		}
		if _, twice := members[name]; twice {
			return nil, errTwice
		}
		members[name] = value
	}
	if _, err := dec.Token(); err != nil { // the closing brace
		return nil, errForm
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errForm
	}
	return members, nil
}
