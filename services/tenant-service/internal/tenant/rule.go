package tenant

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
)

// The errors of the registry.
var (
	// ErrNotFound: there is no such tenant, or it was deleted.
	ErrNotFound = errors.New("tenant not found")
	// ErrExists: the id belongs to another tenant.
	ErrExists = errors.New("tenant exists")
	// ErrRetired: the id belonged to a tenant that was deleted, and is never used again.
	ErrRetired = errors.New("tenant id is retired")
	// ErrDeleting: the tenant is being deleted and cannot be changed any more.
	ErrDeleting = errors.New("tenant is being deleted")
	// ErrUnavailable: the registry cannot be reached now. Whether a change was made is not known; every change may be
	// repeated.
	ErrUnavailable = errors.New("registry is unavailable")
)

// MaxAttemptsLimit is the highest max_attempts of a tenant. With the longest retry delay of 10 minutes it is about 17
// hours; a longer wait is what dead letters are for.
const MaxAttemptsLimit = 100

// ValidationError lists what is wrong with the values of a request.
type ValidationError struct {
	Fields []FieldError
}

// FieldError says what is wrong with one value: "must be …".
type FieldError struct {
	Field  string
	Detail string
}

func (e *ValidationError) Error() string {
	parts := make([]string, len(e.Fields))
	for i, f := range e.Fields {
		parts[i] = f.Field + " " + f.Detail
	}
	return strings.Join(parts, "; ")
}

func (e *ValidationError) add(field, detail string) {
	e.Fields = append(e.Fields, FieldError{Field: field, Detail: detail})
}

// orNil is e if it has found something.
func (e *ValidationError) orNil() error {
	if len(e.Fields) == 0 {
		return nil
	}
	return e
}

// Policy is what the operator allows.
type Policy struct {
	// DefaultWorkers is the number of workers of a tenant that was created without one.
	DefaultWorkers int
	// MaxWorkers is the highest number of workers of one tenant.
	MaxWorkers int
	// DefaultMaxAttempts is how often a message of a tenant is tried that does not say; 0 leaves it to the instances of ingest-service.
	DefaultMaxAttempts int
	// DefaultLimits are the limits of tenants that have none of their own.
	DefaultLimits contract.Limits
	// ManagesBroker says that the installation has the management API of the broker, without which no limit of a queue is enforced.
	ManagesBroker bool
}

// Draft is a tenant to be created. A nil field takes its default: a new id, the policy's workers and attempts.
type Draft struct {
	ID          *uuid.UUID
	Name        string
	Workers     *int
	MaxAttempts *int
}

// New makes an active tenant of a draft. White space around the name is cut off. The error is a [*ValidationError].
func (p Policy) New(d Draft) (Tenant, error) {
	var wrong ValidationError
	at := now()
	t := Tenant{Name: strings.TrimSpace(d.Name), State: Active, Generation: 1, CreatedAt: at, UpdatedAt: at}
	checkName(t.Name, &wrong)
	own := Overrides{}
	if d.Workers != nil {
		own[workersLimit] = int64(*d.Workers)
		p.checkWorkers(*d.Workers, &wrong)
	}
	if d.MaxAttempts != nil {
		own[maxAttemptsLimit] = int64(*d.MaxAttempts)
		if *d.MaxAttempts < 1 || *d.MaxAttempts > MaxAttemptsLimit {
			wrong.add(maxAttemptsLimit, fmt.Sprintf("must be between 1 and %d", MaxAttemptsLimit))
		}
	}
	t.configure(own, p.inForce(own))
	switch {
	case d.ID == nil:
		id, err := uuid.NewV7()
		if err != nil {
			return Tenant{}, fmt.Errorf("make a tenant id: %w", err)
		}
		t.ID = id
	case *d.ID == uuid.Nil:
		wrong.add("id", "must not be the nil UUID")
	default:
		t.ID = *d.ID
	}
	return t, wrong.orNil()
}

// CheckWorkers says whether a tenant may have that many workers. The error is a [*ValidationError].
func (p Policy) CheckWorkers(workers int) error {
	var wrong ValidationError
	p.checkWorkers(workers, &wrong)
	return wrong.orNil()
}

func (p Policy) checkWorkers(workers int, wrong *ValidationError) {
	if workers < 1 || workers > p.MaxWorkers {
		wrong.add(workersLimit, fmt.Sprintf("must be between 1 and %d", p.MaxWorkers))
	}
}

// CheckName says whether something of a tenant may have a name, and returns it without the white space around it. The rules are those of
// a tenant's name. The error is a [*ValidationError].
func CheckName(name string) (string, error) {
	var wrong ValidationError
	name = strings.TrimSpace(name)
	checkName(name, &wrong)
	return name, wrong.orNil()
}

func checkName(name string, wrong *ValidationError) {
	switch {
	case !utf8.ValidString(name):
		wrong.add("name", "must be valid UTF-8")
	case invisible(name):
		wrong.add("name", "must not contain control characters, line breaks, or characters that cannot be seen")
	case name == "", utf8.RuneCountInString(name) > contract.MaxNameLength:
		wrong.add("name", fmt.Sprintf("must have between 1 and %d characters", contract.MaxNameLength))
	}
}

// invisible finds what makes two names look like one, or hides text in a log or a table: controls, line and paragraph
// separators, everything of zero width, marks that turn the direction of text, fillers, and characters that mean something in
// one installation only. Let pass are, where they can be seen, the selectors of a presentation that phones put behind a symbol,
// those that choose the form of an ideograph, the joiners that emoji sequences and some scripts are written with, and the tags of
// the flags of England, Scotland and Wales.
//
// Names are compared by nobody and need not be unique: composed and decomposed letters are kept as they come.
func invisible(name string) bool {
	const blank, text, emoji, nonJoiner, joiner = '\u2800', '\ufe0e', '\ufe0f', '\u200c', '\u200d'
	runes := []rune(plainFlags(name))
	for i, r := range runes {
		var before, after rune
		if i > 0 {
			before = runes[i-1]
		}
		if i+1 < len(runes) {
			after = runes[i+1]
		}
		switch {
		case (r == text || r == emoji) && (presented(before) || keycap(before) && after == '\u20e3'):
		case unicode.Is(unicode.Variation_Selector, r) && r > '\U000e0000' && unicode.Is(unicode.Han, before):
		case r == joiner && unicode.Is(unicode.So, after) && (before == emoji || unicode.In(before, unicode.So, unicode.Sk)):
		case (r == joiner || r == nonJoiner) && joins(before) && joins(after):
		case r == blank, unicode.In(r, unicode.C, unicode.Zl, unicode.Zp, unicode.Variation_Selector,
			unicode.Other_Default_Ignorable_Code_Point, unicode.Noncharacter_Code_Point):
			return true
		}
	}
	return false
}

// plainFlags replaces the flags of regions (Unicode Technical Standard 51, ED-14a) by one without tags: those that are in use, since
// tags can spell out any hidden text.
func plainFlags(name string) string {
	const flag, tags, end = "\U0001f3f4", 0xe0000, "\U000e007f"
	for _, region := range [...]string{"gbeng", "gbsct", "gbwls"} {
		name = strings.ReplaceAll(name, flag+strings.Map(func(r rune) rune { return tags + r }, region)+end, flag)
	}
	return name
}

// presented tells the symbols that a selector shows as text or as an emoji (emoji-variation-sequences.txt of Unicode), of which
// some are not Symbol, other.
func presented(r rune) bool {
	return unicode.Is(unicode.So, r) || strings.ContainsRune("\u203c\u2049\u2139\u2194\u25fb\u25fc\u25fd\u25fe\u2934\u2935\u3030", r)
}

// keycap tells the characters that become a key, which takes a selector and U+20E3. Without the key nobody sees the selector.
func keycap(r rune) bool { return '0' <= r && r <= '9' || r == '#' || r == '*' }

// joins tells the characters of scripts in which a joiner changes how a word looks (RFC 5892, appendices A.1 and A.2).
func joins(r rune) bool {
	return unicode.In(r, unicode.Arabic, unicode.Syriac, unicode.Devanagari, unicode.Bengali, unicode.Gurmukhi, unicode.Gujarati,
		unicode.Oriya, unicode.Tamil, unicode.Telugu, unicode.Kannada, unicode.Malayalam, unicode.Sinhala)
}
