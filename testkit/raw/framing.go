package raw

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

// Target is the server that [Framing] tests.
type Target struct {
	// Addr is host and port.
	Addr string
	// Method and Path are of a request with a body that the server accepts; Header has its further lines, each ended by CR LF,
	// without Host and framing; Body is its body.
	Method, Path, Header, Body string
	// Hidden is a whole request, which the caller finds out about if it is carried out.
	Hidden string
	// Repairs is for a server that answers, instead of refusing, what the RFC lets a recipient repair, such as a line that is
	// continued in the next one, and that expects no body: it may close the connection after its answer rather than read one.
	// What is hidden must not be carried out then either.
	Repairs bool
}

// form is one way to write a request.
type form struct {
	raw func(Target) string
	// repairable may be answered with [Target.Repairs]; accepted has to be, and without it what follows, too, unless the answer is
	// the last one of the connection.
	repairable, accepted, last bool
}

// sentinel follows each request. It is answered, and the connection closed then, unless what comes before is refused.
const sentinel = "GET /sentinel HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"

const answerTimeout = 20 * time.Second

// Framing sends requests of which two implementations may think differently where they end, or for whom they are (RFC 9112
// sections 2.2, 3.2, 5, 6.1 and 6.3): behind a proxy that thinks differently from the server, what one of them takes for a body is
// a request to the other (request smuggling). Each form is a subtest. Whatever can't be told apart is refused with 400, 501 or
// 505, its connection is closed, and nothing behind it is carried out. What is valid is answered, and so is what follows it.
func Framing(t *testing.T, target Target) {
	t.Helper()
	for name, f := range forms() {
		t.Run(name, func(t *testing.T) {
			statuses, err := exchange(t, target.Addr, f.raw(target)+sentinel)
			if err != nil {
				t.Fatalf("after the answers %v: %v", statuses, err)
			}
			refused := len(statuses) == 1 && slices.Contains([]int{400, 501, 505}, statuses[0])
			answered := len(statuses) == 2 && statuses[1] == http.StatusNotFound
			if f.last {
				answered = len(statuses) == 1 && statuses[0] < http.StatusInternalServerError
			}
			switch {
			case f.accepted && answered, !f.accepted && refused:
			case target.Repairs && (f.repairable || f.accepted) && (answered || len(statuses) == 1):
			default:
				t.Fatalf("the answers are %v", statuses)
			}
		})
	}
}

// exchange writes a request and returns the statuses of all answers until the server closes the connection.
func exchange(t *testing.T, addr, raw string) ([]int, error) {
	t.Helper()
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("dial: %w", err)
	}
	defer conn.Close() //nolint:errcheck // the server has closed it before
	if err := conn.SetDeadline(time.Now().Add(answerTimeout)); err != nil {
		return nil, fmt.Errorf("set a deadline: %w", err)
	}
	if _, err := io.WriteString(conn, raw); err != nil {
		return nil, fmt.Errorf("send: %w", err)
	}
	reader := bufio.NewReader(conn)
	var statuses []int
	for {
		response, err := http.ReadResponse(reader, nil)
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return statuses, nil
		}
		if err != nil {
			return statuses, fmt.Errorf("read an answer: %w", err)
		}
		if _, err := io.Copy(io.Discard, response.Body); err != nil {
			return statuses, fmt.Errorf("read a body: %w", err)
		}
		if err := response.Body.Close(); err != nil {
			return statuses, fmt.Errorf("close a body: %w", err)
		}
		if response.StatusCode >= http.StatusOK {
			statuses = append(statuses, response.StatusCode)
		}
	}
}

// start is the request line and the lines of the header that nothing is wrong with.
func (t Target) start() string { return t.line("HTTP/1.1") + "Host: x\r\n" + t.Header }

func (t Target) line(version string) string {
	return t.Method + " " + t.Path + " " + version + "\r\n"
}

// hiddenAs is a request whose framing is given by header lines in which # stands for the length of the hidden request, which
// is the body: a server that does not understand these lines takes it for a request.
func hiddenAs(header string) func(Target) string {
	return func(t Target) string {
		return t.start() + strings.ReplaceAll(header, "#", fmt.Sprint(len(t.Hidden))) + "\r\n" + t.Hidden
	}
}

// bodyAs is a request with its own body, framed by header lines in which # stands for its length, and the hidden request
// behind it.
func bodyAs(header string) func(Target) string {
	return func(t Target) string {
		return t.start() + strings.ReplaceAll(header, "#", fmt.Sprint(len(t.Body))) + "\r\n" + t.Body + t.Hidden
	}
}

// coded is a request whose body is in chunks as given; H in them stands for the hidden request.
func coded(header, chunks string) func(Target) string {
	return func(t Target) string {
		return t.start() + header + "\r\n" + strings.ReplaceAll(chunks, "H", t.Hidden)
	}
}

// chunked is the hidden request as one chunk, with what follows its length.
func chunked(after string) func(Target) string {
	return func(t Target) string {
		return t.start() + "Transfer-Encoding: chunked\r\n\r\n" + fmt.Sprintf("%x", len(t.Hidden)) + after + t.Hidden + "\r\n0\r\n\r\n"
	}
}

// headed is a request with a body of its own, whose request line and Host are given.
func headed(version, header string) func(Target) string {
	return func(t Target) string {
		return t.line(version) + header + t.Header + fmt.Sprintf("Content-Length: %d\r\n\r\n", len(t.Body)) + t.Body
	}
}

func forms() map[string]form {
	all := map[string]form{}
	for _, part := range []map[string]form{lengths(), codings(), chunks(), lines(), hosts(), versions()} {
		maps.Copy(all, part)
	}
	return all
}

// lengths are the forms of Content-Length.
func lengths() map[string]form {
	refused := func(header string) form { return form{raw: hiddenAs(header)} }
	return map[string]form{
		"length":                               {raw: hiddenAs("Content-Length: #\r\n"), accepted: true},
		"length in capitals":                   {raw: hiddenAs("CONTENT-LENGTH: #\r\n"), accepted: true},
		"length in small letters":              {raw: hiddenAs("content-length: #\r\n"), accepted: true},
		"length with white space around":       {raw: hiddenAs("Content-Length: \t # \t\r\n"), accepted: true},
		"length with leading zeros":            {raw: hiddenAs("Content-Length: 000#\r\n"), accepted: true},
		"length after an expectation":          {raw: hiddenAs("Expect: 100-continue\r\nContent-Length: #\r\n"), accepted: true},
		"two lengths, the first larger":        refused("Content-Length: #\r\nContent-Length: 0\r\n"),
		"two lengths, the second larger":       refused("Content-Length: 0\r\nContent-Length: #\r\n"),
		"two lengths, the first is its own":    {raw: bodyAs("Content-Length: #\r\nContent-Length: 1#\r\n")},
		"two lengths, in other cases":          refused("content-length: 0\r\nCONTENT-LENGTH: #\r\n"),
		"two lengths apart":                    refused("Content-Length: 0\r\nX: y\r\nContent-Length: #\r\n"),
		"two equal lengths":                    {raw: hiddenAs("Content-Length: #\r\nContent-Length: #\r\n"), repairable: true},
		"list of equal lengths":                {raw: hiddenAs("Content-Length: #,#\r\n"), repairable: true},
		"list of equal lengths, with a space":  {raw: hiddenAs("Content-Length: #, #\r\n"), repairable: true},
		"list of lengths":                      refused("Content-Length: 0, #\r\n"),
		"list with an empty element":           refused("Content-Length: #,\r\n"),
		"length with a plus":                   refused("Content-Length: +#\r\n"),
		"length with a minus":                  refused("Content-Length: -#\r\n"),
		"length in hexadecimal":                refused("Content-Length: 0x#\r\n"),
		"length with a fraction":               refused("Content-Length: #.0\r\n"),
		"length with an exponent":              refused("Content-Length: 1e1\r\n"),
		"length with more behind":              refused("Content-Length: # x\r\n"),
		"length of two numbers":                refused("Content-Length: 0 #\r\n"),
		"length that is empty":                 refused("Content-Length:\r\n"),
		"length in other digits":               refused("Content-Length: \uff11\r\n"),
		"length over 64 bits":                  refused("Content-Length: 18446744073709551616\r\n"),
		"length over 64 bits, wraps to few":    refused("Content-Length: 18446744073709551619\r\n"),
		"length with a vertical tab":           refused("Content-Length: \v#\r\n"),
		"length in quotes":                     refused("Content-Length: \"#\"\r\n"),
		"space before the colon of the length": refused("Content-Length : #\r\n"),
		"tab before the colon of the length":   refused("Content-Length\t: #\r\n"),
		"space in the name of the length":      refused("Content Length: #\r\n"),
		"length continued":                     {raw: hiddenAs("Content-Length:\r\n #\r\n"), repairable: true},
		"length in a continued line":           {raw: hiddenAs("X: a\r\n Content-Length: 0\r\nContent-Length: #\r\n"), repairable: true},
	}
}

// codings are the forms of Transfer-Encoding.
func codings() map[string]form {
	const last = "0\r\n\r\nH"
	refused := func(header string) form { return form{raw: coded(header, last)} }
	return map[string]form{
		"chunked":                          {raw: chunked("\r\n"), accepted: true, last: true},
		"chunked in capitals":              {raw: coded("TRANSFER-ENCODING: CHUNKED\r\n", "0\r\n\r\n"), accepted: true, last: true},
		"length and chunked":               {raw: hiddenAs("Content-Length: #\r\nTransfer-Encoding: chunked\r\n")},
		"chunked and length":               {raw: hiddenAs("Transfer-Encoding: chunked\r\nContent-Length: #\r\n")},
		"length and chunked, last chunk":   refused("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"),
		"chunked and length, last chunk":   refused("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n"),
		"length and chunked, body and all": {raw: bodyAs("Content-Length: #\r\nTransfer-Encoding: chunked\r\n")},
		"length and identity":              {raw: bodyAs("Content-Length: #\r\nTransfer-Encoding: identity\r\n")},
		"identity":                         refused("Transfer-Encoding: identity\r\n"),
		"gzip":                             refused("Transfer-Encoding: gzip\r\n"),
		"gzip and length":                  {raw: hiddenAs("Transfer-Encoding: gzip\r\nContent-Length: #\r\n")},
		"gzip, chunked":                    refused("Transfer-Encoding: gzip, chunked\r\n"),
		"chunked, gzip":                    refused("Transfer-Encoding: chunked, gzip\r\n"),
		"chunked, chunked":                 refused("Transfer-Encoding: chunked, chunked\r\n"),
		"chunked, identity":                refused("Transfer-Encoding: chunked, identity\r\n"),
		"identity, chunked":                refused("Transfer-Encoding: identity, chunked\r\n"),
		"chunked twice":                    refused("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"),
		"chunked and gzip, two lines":      refused("Transfer-Encoding: chunked\r\nTransfer-Encoding: gzip\r\n"),
		"identity and chunked, two lines":  refused("Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n"),
		"a coding like chunked":            refused("Transfer-Encoding: xchunked\r\n"),
		"chunked with a parameter":         refused("Transfer-Encoding: chunked;q=1\r\n"),
		"chunked in quotes":                refused("Transfer-Encoding: \"chunked\"\r\n"),
		"chunked with a comma":             refused("Transfer-Encoding: chunked,\r\n"),
		"comma with chunked":               refused("Transfer-Encoding: , chunked\r\n"),
		"chunked with a vertical tab":      refused("Transfer-Encoding: \vchunked\r\n"),
		"no coding":                        refused("Transfer-Encoding:\r\n"),
		"space before its colon":           refused("Transfer-Encoding : chunked\r\n"),
		"tab before its colon":             refused("Transfer-Encoding\t: chunked\r\n"),
		"chunked continued":                refused("Transfer-Encoding:\r\n chunked\r\n"),
		"space before the first name": {raw: func(t Target) string {
			return t.line("HTTP/1.1") + " Transfer-Encoding: chunked\r\n" + t.Header + "\r\n" + last
		}},
		"HTTP/1.0 with chunked": {repairable: true, raw: func(t Target) string {
			return t.line("HTTP/1.0") + t.Header + "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + t.Hidden
		}},
		"HTTP/1.0 with chunked and length": {repairable: true, raw: func(t Target) string {
			return t.line("HTTP/1.0") + "Connection: keep-alive\r\n" + t.Header + "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n" + t.Hidden
		}},
	}
}

// chunks are the forms of a chunked body.
func chunks() map[string]form {
	const header = "Transfer-Encoding: chunked\r\n"
	refused := func(chunks string) form { return form{raw: coded(header, chunks)} }
	// What a line of the trailer ends with is up to the server that reads it: the hidden request is a part of the trailer, or behind it.
	either := func(trailer string) form {
		return form{raw: coded(header, "0\r\n"+trailer+"H"), accepted: true, last: true}
	}
	return map[string]form{
		"size in capitals":                 {raw: coded(header, "A\r\n          \r\n0\r\n\r\n"), accepted: true, last: true},
		"size with leading zeros":          {raw: coded(header, "00002\r\n  \r\n000\r\n\r\n"), accepted: true, last: true},
		"extension":                        {raw: chunked(";name=value\r\n"), accepted: true, last: true},
		"trailer":                          {raw: coded(header, "0\r\nX-Checksum: 1\r\n\r\n"), accepted: true, last: true},
		"size over 64 bits":                refused("10000000000000002\r\n{}\r\n0\r\n\r\nH"),
		"size over 63 bits":                refused("ffffffffffffffff\r\n{}\r\n0\r\n\r\nH"),
		"size of many digits":              refused(strings.Repeat("f", 40) + "\r\n{}\r\n0\r\n\r\nH"),
		"size with a minus":                refused("-2\r\n{}\r\n0\r\n\r\nH"),
		"size with a plus":                 refused("+2\r\n{}\r\n0\r\n\r\nH"),
		"size with 0x":                     refused("0x2\r\n{}\r\n0\r\n\r\nH"),
		"size with a space before":         refused(" 2\r\n{}\r\n0\r\n\r\nH"),
		"size that is empty":               refused("\r\n{}\r\n0\r\n\r\nH"),
		"size with more behind":            refused("2 x\r\n{}\r\n0\r\n\r\nH"),
		"size with a line feed alone":      {raw: chunked("\n"), repairable: true},
		"extension with a line feed alone": {raw: chunked(";a\n"), repairable: true},
		"extension with a carriage return": refused("2;a\rb\r\n{}\r\n0\r\n\r\nH"),
		"data longer than its size":        refused("1\r\n{}\r\n0\r\n\r\nH"),
		"data without its line end":        refused("2\r\n{}0\r\n\r\nH"),
		"trailer that is no field":         refused("0\r\nH"),
		"end with a line feed alone":       either("\n"),
		"trailer with line feeds alone":    either("X: a\n\n"),
		"trailer and end, a line feed":     either("X: a\r\n\n"),
		"trailer continued":                either("X: a\r\n b\r\n\r\n"),
		"trailer with a space in its name": either("X Y: a\r\n\r\n"),
		"trailer, space before its colon":  either("X : a\r\n\r\n"),
		"trailer that is a length":         refused("0\r\nContent-Length: 9\r\n\r\nH"),
		"nothing behind the last chunk":    either("\r\n"),
	}
}

// lines are the forms of lines of a header.
func lines() map[string]form {
	const length = "Content-Length: #\r\n"
	return map[string]form{
		"line continued":                      {raw: hiddenAs("X: a\r\n b\r\n" + length), repairable: true},
		"line continued by a tab":             {raw: hiddenAs("X: a\r\n\tb\r\n" + length), repairable: true},
		"line feed alone":                     {raw: hiddenAs("X: a\n" + length), repairable: true},
		"line feed alone after the length":    {raw: hiddenAs("Content-Length: #\nX: a\r\n"), repairable: true},
		"carriage return alone":               {raw: hiddenAs("X: a\r" + length)},
		"carriage return before its line end": {raw: hiddenAs("X: a\r\r\n" + length)},
		"zero byte in a value":                {raw: hiddenAs("X: a\x00b\r\n" + length)},
		"zero byte in a name":                 {raw: hiddenAs("X\x00: a\r\n" + length)},
		"zero byte in the length":             {raw: hiddenAs("Content-Length: #\x00\r\n")},
		"control character in a value":        {raw: hiddenAs("X: a\x01\r\n" + length)},
		"name with a space":                   {raw: hiddenAs("X Y: a\r\n" + length)},
		"name that is empty":                  {raw: hiddenAs(": a\r\n" + length)},
		"name with other letters":             {raw: hiddenAs("\u00e9: a\r\n" + length)},
		"line without a colon":                {raw: hiddenAs("X\r\n" + length)},
		"hidden in a body":                    {raw: hiddenAs(length), accepted: true},
		"hidden behind a connection to close": {raw: func(t Target) string { return t.start() + "Connection: close\r\nContent-Length: +1\r\n\r\n" + t.Hidden }},
		"target with a control character":     {raw: func(t Target) string { return "GET /\x01 HTTP/1.1\r\nHost: x\r\n\r\n" + t.Hidden }},
		"target without a slash":              {raw: func(t Target) string { return "GET messages HTTP/1.1\r\nHost: x\r\n\r\n" + t.Hidden }},
		"target with a space":                 {raw: func(t Target) string { return "GET /a b HTTP/1.1\r\nHost: x\r\n\r\n" + t.Hidden }},
		"target that is missing":              {raw: func(t Target) string { return "GET HTTP/1.1\r\nHost: x\r\n\r\n" + t.Hidden }},
		"method with other characters":        {raw: func(t Target) string { return "GE(T /a HTTP/1.1\r\nHost: x\r\n\r\n" + t.Hidden }},
		"asterisk that is not for OPTIONS":    {raw: func(t Target) string { return "GET * HTTP/1.1\r\nHost: x\r\n\r\n" + t.Hidden }, repairable: true},
		"preface of HTTP/2":                   {raw: func(t Target) string { return "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + t.Hidden }},
		"preface of TLS":                      {raw: func(t Target) string { return "\x16\x03\x01\x00\xa5\x01\r\n\r\n" + t.Hidden }},
		"empty lines in front of the request": {raw: func(t Target) string { return "\r\n\r\n" + hiddenAs(length)(t) }, accepted: true, repairable: true},
	}
}

// hosts are the forms of Host and of the target that names one.
func hosts() map[string]form {
	refused := func(header string) form { return form{raw: headed("HTTP/1.1", header)} }
	repairable := func(header string) form { return form{raw: headed("HTTP/1.1", header), repairable: true} }
	accepted := func(header string) form { return form{raw: headed("HTTP/1.1", header), accepted: true} }
	return map[string]form{
		"host":                        accepted("Host: api.example.com:8080\r\n"),
		"host that is an address":     accepted("Host: [::1]:8080\r\n"),
		"no host":                     refused(""),
		"host that is empty":          repairable("Host:\r\n"),
		"two hosts":                   refused("Host: a\r\nHost: b\r\n"),
		"one host twice":              refused("Host: a\r\nHost: a\r\n"),
		"two hosts, in other cases":   refused("Host: a\r\nhost: b\r\n"),
		"host with a space":           refused("Host: a b\r\n"),
		"host with a slash":           refused("Host: a/b\r\n"),
		"host with a user":            repairable("Host: user@a\r\n"),
		"host with a word for a port": repairable("Host: a:http\r\n"),
		"host with two ports":         repairable("Host: a:1:2\r\n"),
		"host with an open bracket":   repairable("Host: [::1\r\n"),
		"host with other letters":     refused("Host: \u00e9\r\n"),
		"host with a backslash":       refused("Host: a\\b\r\n"),
		"host with a zero byte":       refused("Host: a\x00\r\n"),
		"host continued":              repairable("Host: a\r\n b\r\n"),
		"absolute target, other host": {raw: func(t Target) string {
			t.Path = "http://other.example" + t.Path
			return hiddenAs("Content-Length: #\r\n")(t)
		}, accepted: true},
		"absolute target, no host": {raw: func(t Target) string {
			t.Path = "http://other.example" + t.Path
			return headed("HTTP/1.1", "")(t)
		}},
		"absolute target with a user": {raw: func(t Target) string {
			t.Path = "http://a b@other.example" + t.Path
			return headed("HTTP/1.1", "Host: x\r\n")(t)
		}},
	}
}

// versions are the forms of a version.
func versions() map[string]form {
	refused := func(version string) form { return form{raw: headed(version, "Host: x\r\n")} }
	return map[string]form{
		"HTTP/0.9 without a version": {raw: func(t Target) string { return "GET /sentinel\r\n\r\n" + t.Hidden }},
		"HTTP/0.9":                   refused("HTTP/0.9"),
		"HTTP/2.0":                   refused("HTTP/2.0"),
		"HTTP/3.0":                   refused("HTTP/3.0"),
		"HTTP/1.2":                   {raw: headed("HTTP/1.2", "Host: x\r\n"), repairable: true},
		"HTTP/1.10":                  refused("HTTP/1.10"),
		"HTTP/1":                     refused("HTTP/1"),
		"HTTP/01.1":                  refused("HTTP/01.1"),
		"version in small letters":   refused("http/1.1"),
		"another protocol":           refused("RTSP/1.0"),
		"version with a space":       refused(" HTTP/1.1"),
		"version with more behind":   refused("HTTP/1.1 x"),
		"version that is empty":      refused(""),
	}
}
