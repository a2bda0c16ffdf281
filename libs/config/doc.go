// Package config fills a binary's configuration struct from a YAML file and the environment.
//
// The struct comes filled with defaults; the file goes over them and the environment over the file, so a
// partial section never zeroes its neighbours. Each leaf has a dotted key and an environment variable
// that is the same in capitals with underscores: http.body_limit is HTTP_BODY_LIMIT.
//
//	type Config struct {
//		HTTP    rest.Config `koanf:"http"`
//		Workers int         `koanf:"workers" validate:"min=1" usage:"workers of a new tenant"`
//	}
//
// The tags: koanf names the key, validate holds rules of go-playground/validator, secret:"true" masks the
// value wherever it is printed (secret:"url" only the password in it), usage explains it. To the validator's rules comes listen_addr, a host and
// port to listen on. The keys of an embedded struct are keys of the struct around it. Leaves may be strings, booleans, integers, floats,
// time.Duration (with a unit: "5s"), []string (a YAML list, or comma-separated) and anything that
// implements encoding.TextUnmarshaler.
//
// A secret may be in a file, as container engines mount them: AUTH_SECRET_FILE is the path of a file whose content, without the
// line break at its end, is the value of AUTH_SECRET. Both at once are a mistake. The file is read once.
//
// Load is strict: unknown keys in the file, values that do not fit and failed rules are all reported
// together, a line for each, so that an operator corrects a file once and not once per mistake. Unknown
// environment variables can't be told from those of other programs and are ignored; so are empty ones,
// which is what an unset ${VAR} in a compose file turns into. It does not watch for changes: a service is
// restarted.
package config
