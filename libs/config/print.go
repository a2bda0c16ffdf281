package config

import (
	"fmt"
	"io"
	"reflect"
	"regexp"
	"strings"
	"text/tabwriter"

	"github.com/knadh/koanf/parsers/yaml"
	"github.com/knadh/koanf/v2"
)

// mask stands for a secret. Its length says nothing about the secret's.
const mask = "***"

var (
	// Between the members of a list only a comma in front of a scheme separates: a password may have commas.
	nextURL = regexp.MustCompile(`,\s*[a-zA-Z][a-zA-Z0-9+.-]*://`)
	// assignment is a secret in a query string or in PostgreSQL's "key=value" form, where spaces take quotes.
	assignment = regexp.MustCompile(`(?i)\b(password|passwd|sslpassword|secret|token)(\s*=\s*)('(?:[^'\\]|\\.)*'|[^\s&]+)`)
)

// Masked returns cfg, a configuration struct or a pointer to one, as YAML that could be loaded again,
// except that secrets and the passwords inside URLs are masked. Keys are sorted.
func Masked(cfg any) []byte {
	leaves, err := leavesOf(cfg)
	if err != nil {
		return []byte("# " + err.Error() + "\n")
	}
	k := koanf.New(".")
	for _, l := range leaves {
		if err := k.Set(l.name, l.printable()); err != nil {
			return []byte("# " + err.Error() + "\n")
		}
	}
	out, err := k.Marshal(yaml.Parser())
	if err != nil {
		return []byte("# " + err.Error() + "\n")
	}
	return out
}

// Help is a table of all settings for --help: key, environment variable ([_FILE] where there is one for a file as well), default,
// purpose.
func Help(cfg any) string {
	var rows, out strings.Builder
	rows.WriteString("KEY\tENVIRONMENT\tDEFAULT\tPURPOSE\n")
	for _, k := range Keys(cfg) {
		env := k.Env
		if k.File != "" {
			env += "[" + fileSuffix + "]"
		}
		fmt.Fprintf(&rows, "%s\t%s\t%s\t%s\n", k.Name, env, k.Default, k.Usage)
	}
	w := tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
	if _, err := io.WriteString(w, rows.String()); err != nil {
		return rows.String()
	}
	if err := w.Flush(); err != nil {
		return rows.String()
	}
	return out.String()
}

// printable keeps numbers, booleans and lists what they are in YAML.
func (l leaf) printable() any {
	switch l.value.Kind() {
	case reflect.Slice:
		if l.secret {
			return l.masked()
		}
		items := make([]string, l.value.Len())
		for i := range items {
			items[i] = MaskURL(fmt.Sprint(l.value.Index(i).Interface()))
		}
		return items
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Bool, reflect.Float32, reflect.Float64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		if !l.secret && !isText(l.value) {
			return l.value.Interface()
		}
	default: // strings, durations (of the kind int64) and types with a text form
	}
	return l.masked()
}

// masked is the text of the value without what must not be printed.
func (l leaf) masked() string {
	text := l.text()
	if l.secret && text != "" {
		return mask
	}
	return MaskURL(text)
}

// MaskURL hides the passwords of connection strings: of one URL, of a list of them, and of PostgreSQL's
// "key=value" form. It is for whoever prints an address that was configured. Where it is unclear what
// belongs to the password it hides more rather than less.
func MaskURL(s string) string {
	var out strings.Builder
	start := 0
	for _, sep := range nextURL.FindAllStringIndex(s, -1) {
		out.WriteString(maskOne(s[start:sep[0]]))
		start = sep[0]
	}
	out.WriteString(maskOne(s[start:]))
	return assignment.ReplaceAllString(out.String(), "${1}${2}"+mask)
}

// maskOne takes everything up to the last @ for the user information, since an unescaped @, / or ? in a
// password is a common mistake and url.Parse would refuse it or cut it in two.
func maskOne(s string) string {
	scheme, rest, ok := strings.Cut(s, "://")
	if !ok {
		return s
	}
	at := strings.LastIndex(rest, "@")
	if at < 0 {
		return s
	}
	user, _, hasPassword := strings.Cut(rest[:at], ":")
	switch {
	case hasPassword:
		return scheme + "://" + user + ":" + mask + rest[at:]
	case strings.HasSuffix(scheme, "nats") || strings.HasSuffix(scheme, "tls"):
		return scheme + "://" + mask + rest[at:] // NATS takes a token in place of a user
	default:
		return s
	}
}
