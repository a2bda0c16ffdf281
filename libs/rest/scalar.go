package rest

import (
	"bytes"
	"strconv"
	"unicode/utf16"
)

// noSurrogate completes the sentence that the field begins.
const noSurrogate = "must not contain half of a surrogate pair"

// loneSurrogate tells whether the strings of a JSON text, which is valid, have an escape that is half of a surrogate pair.
func loneSurrogate(raw []byte) bool {
	for {
		i := bytes.IndexByte(raw, '\\')
		if i < 0 {
			return false
		}
		unit, ok := codeUnit(raw[i:])
		switch {
		case !ok:
			raw = raw[i+2:]
		case !utf16.IsSurrogate(unit):
			raw = raw[i+6:]
		default:
			second, ok := codeUnit(raw[i+6:])
			if !ok || utf16.DecodeRune(unit, second) == '\uFFFD' {
				return true
			}
			raw = raw[i+12:]
		}
	}
}

// codeUnit reads the \uXXXX that raw begins with, if it does.
func codeUnit(raw []byte) (rune, bool) {
	if len(raw) < 6 || raw[0] != '\\' || raw[1] != 'u' {
		return 0, false
	}
	unit, err := strconv.ParseUint(string(raw[2:6]), 16, 16)
	return rune(unit), err == nil
}

// wholeNumber writes a JSON number that is whole as encoding/json reads integers: 1.0, 1e0 and 10e-1 are 1. Anything else it
// returns as it is, numbers beyond all integers included.
func wholeNumber(raw []byte) []byte {
	const enough = 20 // digits of the largest integer of 64 bits
	mantissa, exponent, scaled := bytes.Cut(bytes.ToLower(raw), []byte("e"))
	mantissa, negative := bytes.CutPrefix(mantissa, []byte("-"))
	whole, fraction, fractional := bytes.Cut(mantissa, []byte("."))
	if !scaled && !fractional || len(whole) == 0 || whole[0] < '0' || whole[0] > '9' {
		return raw
	}
	digits := bytes.TrimRight(append(bytes.Clone(whole), fraction...), "0")
	significant := bytes.TrimLeft(digits, "0")
	if len(significant) == 0 {
		return []byte("0")
	}
	shift := 0
	if scaled {
		var err error
		if shift, err = strconv.Atoi(string(exponent)); err != nil {
			return raw
		}
	}
	// The value is 0.digits × 10^point.
	point := len(whole) + shift
	if point < len(digits) || point-(len(digits)-len(significant)) > enough {
		return raw
	}
	text := make([]byte, 0, enough+1)
	if negative {
		text = append(text, '-')
	}
	text = append(text, significant...)
	return append(text, bytes.Repeat([]byte("0"), point-len(digits))...)
}
