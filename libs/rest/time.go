package rest

import (
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/gofiber/fiber/v2"

	"github.com/srireskianita/multi-tenant-messaging/libs/problem"
)

// TimeLayout is how times go out: in UTC, with six digits of fraction, which is what PostgreSQL keeps, so that they sort as
// text.
const TimeLayout = "2006-01-02T15:04:05.000000Z"

// Timestamp is a time in an answer. Unlike a time.Time, which leaves out zeros at the end, it is written as [TimeLayout] has it.
type Timestamp struct{ time.Time }

// MarshalJSON writes the time in quotes.
func (t Timestamp) MarshalJSON() ([]byte, error) {
	return t.UTC().AppendFormat(nil, `"`+TimeLayout+`"`), nil
}

// mustBeTime completes the sentence that the field begins.
const mustBeTime = "must be a time in RFC 3339 such as 2026-01-31T08:00:00Z"

// Time reads a query parameter that is a time as [ParseTime] takes it; the zero time and false if it is absent or empty. The
// problem is 400 invalid_time.
func Time(c *fiber.Ctx, name string) (time.Time, bool, error) {
	text := c.Query(name)
	if text == "" {
		return time.Time{}, false, nil
	}
	t, err := ParseTime(text)
	if err != nil {
		return time.Time{}, false, problem.New(http.StatusBadRequest, "invalid_time", name+" is not a time").
			WithField(name, mustBeTime+"; a + in it is written %2B in a URL")
	}
	return t, true, nil
}

var errTime = errors.New("not a time of RFC 3339")

// ParseTime reads the date-time of RFC 3339 section 5.6 to the letter, where package time is laxer (golang/go#54580): every
// field has all of its digits, the fraction begins with a point, offsets go up to 23:59, "t" and "z" may be lower case. A
// second of 60 is allowed where a leap second can be, at the end of a month in UTC, and is the first moment of the next.
// The result is in UTC and a multiple of a microsecond, which is what times are kept in: a time between two is the later
// one, so that a bound includes and leaves out what the full time would.
func ParseTime(text string) (time.Time, error) {
	const seconds = len("2006-01-02T15:04:05")
	if len(text) < seconds+len("Z") {
		return time.Time{}, errTime
	}
	var field [6]int
	for i, part := range [...]struct {
		at, length int
		after      string
	}{{0, 4, "-"}, {5, 2, "-"}, {8, 2, "Tt"}, {11, 2, ":"}, {14, 2, ":"}, {17, 2, ".Zz+-"}} {
		var ok bool
		if field[i], ok = number(text[part.at : part.at+part.length]); !ok || strings.IndexByte(part.after, text[part.at+part.length]) < 0 {
			return time.Time{}, errTime
		}
	}
	micros, rest, ok := fraction(text[seconds:])
	if !ok {
		return time.Time{}, errTime
	}
	offset, ok := zone(rest)
	if !ok {
		return time.Time{}, errTime
	}
	year, month, day, hour, minute, second := field[0], time.Month(field[1]), field[2], field[3], field[4], field[5]
	leap := second == 60
	if leap {
		second = 59
	}
	t := time.Date(year, month, day, hour, minute, second, 0, time.UTC)
	// A day that the month does not have, or an hour that the day does not have, is another one by now.
	if month < 1 || t.Month() != month || t.Day() != day || t.Hour() != hour || t.Minute() != minute || t.Second() != second {
		return time.Time{}, errTime
	}
	t = t.Add(-offset)
	if leap {
		t = t.Add(time.Second)
		if t.Day() != 1 || t.Hour() != 0 || t.Minute() != 0 || t.Second() != 0 {
			return time.Time{}, errTime
		}
	}
	return t.Add(micros), nil
}

// fraction reads the fraction of a second that text begins with, if it does, rounded up to microseconds.
func fraction(text string) (micros time.Duration, rest string, ok bool) {
	if text[0] != '.' {
		return 0, text, true
	}
	digits := 0
	more := false
	for digits+1 < len(text) && isDigit(text[digits+1]) {
		digits++
		switch digit := text[digits]; {
		case digits <= 6:
			micros = micros*10 + time.Duration(digit-'0')
		case digit != '0':
			more = true
		}
	}
	for i := digits; i < 6; i++ {
		micros *= 10
	}
	if more {
		micros++
	}
	return micros * time.Microsecond, text[digits+1:], digits > 0
}

// zone reads the offset that is all of text.
func zone(text string) (time.Duration, bool) {
	if text == "Z" || text == "z" {
		return 0, true
	}
	if len(text) != len("+00:00") || text[3] != ':' || text[0] != '+' && text[0] != '-' {
		return 0, false
	}
	hours, ok := number(text[1:3])
	minutes, fine := number(text[4:6])
	if !ok || !fine || hours > 23 || minutes > 59 {
		return 0, false
	}
	offset := time.Duration(hours)*time.Hour + time.Duration(minutes)*time.Minute
	if text[0] == '-' {
		offset = -offset
	}
	return offset, true
}

func number(text string) (n int, ok bool) {
	for _, c := range []byte(text) {
		if !isDigit(c) {
			return 0, false
		}
		n = n*10 + int(c-'0')
	}
	return n, true
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }
