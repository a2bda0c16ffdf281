package contract

import (
	"bytes"
	"fmt"
	"unicode/utf8"
)

// Limits of a payload: what can be kept in a jsonb column and given back safely.
const (
	// MaxDepth is how deep arrays and objects may nest.
	MaxDepth = 200
	// MaxNumberDigits is how many digits the plain form of a number may have. PostgreSQL gives numbers back in plain
	// form: 1e131071 is eight bytes in and 131 kB out, and 81 KB of such numbers made every read of a tenant fail.
	MaxNumberDigits = 400
	// DefaultMaxPayload is the limit of a payload in bytes unless it is configured otherwise.
	DefaultMaxPayload = 1 << 20
)

// PayloadError says why a payload cannot be stored, and where it went wrong.
type PayloadError struct {
	Reason Reason
	Detail string
	// Offset is the position in bytes at which the fault was seen.
	Offset int
}

func (e *PayloadError) Error() string {
	return fmt.Sprintf("%s at byte %d", e.Detail, e.Offset)
}

// CheckPayload reports, as a [*PayloadError], why body cannot be stored: it must be exactly one JSON value (RFC 8259) in
// UTF-8 of at most maxBytes bytes, within the limits of this package, without \u0000 and lone surrogates, which jsonb
// cannot hold. Its numbers together may have at most maxBytes digits in plain form: within [MaxNumberDigits] a megabyte
// of numbers could still grow to seventy when it is read, and a page of such messages was more than a reader can wait
// for. It reads body once and allocates nothing for a valid one.
func CheckPayload(body []byte, maxBytes int) error {
	if len(body) > maxBytes {
		return &PayloadError{Reason: ReasonTooLarge, Detail: fmt.Sprintf("the payload has %d bytes, the limit is %d", len(body), maxBytes), Offset: maxBytes}
	}
	s := scanner{body: body, digitsLeft: maxBytes}
	if err := s.document(); err != nil {
		return err
	}
	return nil
}

// PayloadIn is the length of the payload that body begins with, behind which anything may follow. The payload is checked
// as by [CheckPayload], and false says that this one would refuse it.
func PayloadIn(body []byte, maxBytes int) (length int, ok bool) {
	s := scanner{body: body, digitsLeft: maxBytes}
	if err := s.payload(); err != nil || s.at > maxBytes {
		return 0, false
	}
	return s.at, true
}

// scanner walks over one JSON document. It never recurses: open holds one bit a level, set for an object.
type scanner struct {
	body  []byte
	at    int
	depth int
	open  [MaxDepth/64 + 1]uint64
	// digitsLeft is how many digits the plain forms of the numbers that follow may have together.
	digitsLeft int
}

func (s *scanner) fail(reason Reason, detail string) *PayloadError {
	return &PayloadError{Reason: reason, Detail: detail, Offset: s.at}
}

func (s *scanner) push(object bool) *PayloadError {
	if s.depth == MaxDepth {
		return s.fail(ReasonTooDeep, fmt.Sprintf("the payload is nested deeper than %d levels", MaxDepth))
	}
	word, bit := s.depth/64, uint64(1)<<(s.depth%64)
	if object {
		s.open[word] |= bit
	} else {
		s.open[word] &^= bit
	}
	s.depth++
	s.at++
	return nil
}

func (s *scanner) inObject() bool {
	level := s.depth - 1
	return s.open[level/64]&(1<<(level%64)) != 0
}

func (s *scanner) space() {
	for s.at < len(s.body) {
		switch s.body[s.at] {
		case ' ', '\t', '\n', '\r':
			s.at++
		default:
			return
		}
	}
}

// next is the byte at the place reached, after white space; 0 at the end, which is no byte of valid JSON either.
func (s *scanner) next() byte {
	s.space()
	if s.at == len(s.body) {
		return 0
	}
	return s.body[s.at]
}

func (s *scanner) document() *PayloadError {
	if bytes.HasPrefix(s.body, []byte("\ufeff")) {
		return s.fail(ReasonNotJSON, "the payload is not JSON: it begins with a byte order mark")
	}
	if s.next() == 0 && s.at == len(s.body) {
		return s.fail(ReasonNotJSON, "the payload is empty")
	}
	if err := s.payload(); err != nil {
		return err
	}
	s.space()
	if s.at != len(s.body) {
		return s.fail(ReasonNotJSON, "the payload is more than one JSON value")
	}
	return nil
}

// payload reads one value with all that is in it.
func (s *scanner) payload() *PayloadError {
	for {
		opened, err := s.value()
		if err != nil {
			return err
		}
		if opened {
			continue
		}
		more, err := s.afterValue()
		if err != nil {
			return err
		}
		if !more {
			return nil
		}
	}
}

// value reads a scalar or an empty container whole. For any other container it reads up to its first value and reports
// that it has opened it.
func (s *scanner) value() (opened bool, err *PayloadError) {
	switch c := s.next(); {
	case c == '{':
		if err := s.push(true); err != nil {
			return false, err
		}
		if s.next() == '}' {
			s.depth--
			s.at++
			return false, nil
		}
		return true, s.key()
	case c == '[':
		if err := s.push(false); err != nil {
			return false, err
		}
		if s.next() == ']' {
			s.depth--
			s.at++
			return false, nil
		}
		return true, nil
	case c == '"':
		return false, s.text()
	case c == '-' || isDigit(c):
		return false, s.number()
	case c == 't':
		return false, s.literal("true")
	case c == 'f':
		return false, s.literal("false")
	case c == 'n':
		return false, s.literal("null")
	default:
		return false, s.fail(ReasonNotJSON, "the payload is not JSON: a value is expected")
	}
}

// afterValue closes what ends here and reports whether another value follows.
func (s *scanner) afterValue() (more bool, err *PayloadError) {
	for s.depth > 0 {
		c, object := s.next(), s.inObject()
		switch {
		case c == ',' && object:
			s.at++
			return true, s.key()
		case c == ',':
			s.at++
			return true, nil
		case c == '}' && object, c == ']' && !object:
			s.at++
			s.depth--
		case object:
			return false, s.fail(ReasonNotJSON, "the payload is not JSON: , or } is expected")
		default:
			return false, s.fail(ReasonNotJSON, "the payload is not JSON: , or ] is expected")
		}
	}
	return false, nil
}

func (s *scanner) key() *PayloadError {
	if s.next() != '"' {
		return s.fail(ReasonNotJSON, "the payload is not JSON: a key in quotes is expected")
	}
	if err := s.text(); err != nil {
		return err
	}
	if s.next() != ':' {
		return s.fail(ReasonNotJSON, "the payload is not JSON: : is expected")
	}
	s.at++
	return nil
}

func (s *scanner) literal(word string) *PayloadError {
	if len(s.body)-s.at < len(word) || string(s.body[s.at:s.at+len(word)]) != word {
		return s.fail(ReasonNotJSON, "the payload is not JSON: "+word+" is expected")
	}
	s.at += len(word)
	return nil
}

func (s *scanner) text() *PayloadError {
	s.at++
	for s.at < len(s.body) {
		c := s.body[s.at]
		switch {
		case c == '"':
			s.at++
			return nil
		case c == '\\':
			if err := s.escape(); err != nil {
				return err
			}
		case c < ' ':
			return s.fail(ReasonNotJSON, "the payload is not JSON: a control character in a string")
		case c < utf8.RuneSelf:
			s.at++
		default:
			r, size := utf8.DecodeRune(s.body[s.at:])
			if r == utf8.RuneError && size == 1 {
				return s.fail(ReasonNotJSON, "the payload is not UTF-8")
			}
			s.at += size
		}
	}
	return s.fail(ReasonNotJSON, "the payload is not JSON: a string has no end")
}

func (s *scanner) escape() *PayloadError {
	if s.at+1 == len(s.body) {
		return s.fail(ReasonNotJSON, "the payload is not JSON: a string has no end")
	}
	switch s.body[s.at+1] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		s.at += 2
		return nil
	case 'u':
	default:
		return s.fail(ReasonNotJSON, "the payload is not JSON: an unknown escape in a string")
	}
	unit, ok := s.codeUnit(s.at)
	switch {
	case !ok:
		return s.fail(ReasonNotJSON, `the payload is not JSON: \u needs four hexadecimal digits`)
	case unit == 0:
		return s.fail(ReasonUnstorable, `the payload contains \u0000, which cannot be stored`)
	case unit >= 0xDC00 && unit < 0xE000:
		return s.fail(ReasonUnstorable, "the payload contains a lone surrogate, which cannot be stored")
	case unit >= 0xD800 && unit < 0xDC00:
		low, ok := s.codeUnit(s.at + 6)
		if !ok || low < 0xDC00 || low >= 0xE000 {
			return s.fail(ReasonUnstorable, "the payload contains a lone surrogate, which cannot be stored")
		}
		s.at += 6
	}
	s.at += 6
	return nil
}

// codeUnit reads \uXXXX at a place.
func (s *scanner) codeUnit(at int) (unit rune, ok bool) {
	if len(s.body)-at < 6 || s.body[at] != '\\' || s.body[at+1] != 'u' {
		return 0, false
	}
	for _, c := range s.body[at+2 : at+6] {
		unit <<= 4
		switch {
		case isDigit(c):
			unit |= rune(c - '0')
		case c >= 'a' && c <= 'f':
			unit |= rune(c-'a') + 10
		case c >= 'A' && c <= 'F':
			unit |= rune(c-'A') + 10
		default:
			return 0, false
		}
	}
	return unit, true
}

// number reads a number and counts the digits of its plain form: 12e3 has five, 1.5e-3 has five (0.0015).
func (s *scanner) number() *PayloadError {
	if s.body[s.at] == '-' {
		s.at++
	}
	whole := s.digits()
	if whole == 0 || (whole > 1 && s.body[s.at-whole] == '0') {
		return s.fail(ReasonNotJSON, "the payload is not JSON: a malformed number")
	}
	fraction := 0
	if s.at < len(s.body) && s.body[s.at] == '.' {
		s.at++
		if fraction = s.digits(); fraction == 0 {
			return s.fail(ReasonNotJSON, "the payload is not JSON: a malformed number")
		}
	}
	exponent := 0
	if s.at < len(s.body) && (s.body[s.at] == 'e' || s.body[s.at] == 'E') {
		var ok bool
		if exponent, ok = s.exponent(); !ok {
			return s.fail(ReasonNotJSON, "the payload is not JSON: a malformed number")
		}
	}
	plain := max(whole+exponent, 1) + max(fraction-exponent, 0)
	if plain > MaxNumberDigits {
		return s.fail(ReasonUnstorable, fmt.Sprintf("the payload contains a number of more than %d digits", MaxNumberDigits))
	}
	if s.digitsLeft -= plain; s.digitsLeft < 0 {
		return s.fail(ReasonUnstorable, "the payload's numbers have too many digits together when they are written in plain form")
	}
	return nil
}

// exponent reads the exponent of a number. One that is far over the limit is cut there, so that it cannot overflow.
func (s *scanner) exponent() (exponent int, ok bool) {
	const enough = 1 << 30 // above the length of any payload
	s.at++
	negative := false
	if s.at < len(s.body) && (s.body[s.at] == '+' || s.body[s.at] == '-') {
		negative = s.body[s.at] == '-'
		s.at++
	}
	start := s.at
	for s.at < len(s.body) && isDigit(s.body[s.at]) {
		exponent = min(exponent*10+int(s.body[s.at]-'0'), enough)
		s.at++
	}
	if negative {
		exponent = -exponent
	}
	return exponent, s.at > start
}

func (s *scanner) digits() (count int) {
	start := s.at
	for s.at < len(s.body) && isDigit(s.body[s.at]) {
		s.at++
	}
	return s.at - start
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }
