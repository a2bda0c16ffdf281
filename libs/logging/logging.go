// Package logging makes the one zap logger of a binary: JSON lines on a writer, with the service's name
// in each, and nothing dropped.
//
// It does not set zap's global logger, so a package that has not been given a logger can't log, and it
// does not sample: zap's production preset drops all but the first hundred equal messages a second
// (uber-go/zap#1221), which are the ones that matter in an incident.
package logging

import (
	"fmt"
	"io"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// Config is the section "log".
type Config struct {
	// Level is the least severe level that is written.
	Level string `koanf:"level" validate:"oneof=debug info warn error" usage:"least severe level that is logged: debug, info, warn or error"`
}

// DefaultConfig logs from info on: a line a request, none a message.
func DefaultConfig() Config { return Config{Level: "info"} }

// New makes a logger that writes JSON lines to w, which is locked, so that any writer will do. Times are
// RFC 3339 in UTC with nanoseconds, durations are seconds. Errors of w are ignored, as a log has nowhere
// to report them; there is nothing to sync, since nothing is buffered (uber-go/zap#1093).
func New(cfg Config, service string, w io.Writer) (*zap.Logger, error) {
	level, err := zapcore.ParseLevel(cfg.Level)
	if err != nil {
		return nil, fmt.Errorf("log.level %q: %w", cfg.Level, err)
	}
	enc := zapcore.EncoderConfig{
		TimeKey:        "time",
		LevelKey:       "level",
		MessageKey:     "msg",
		NameKey:        "logger",
		StacktraceKey:  "stack",
		EncodeLevel:    zapcore.LowercaseLevelEncoder,
		EncodeTime:     encodeTime,
		EncodeDuration: zapcore.SecondsDurationEncoder,
	}
	core := zapcore.NewCore(zapcore.NewJSONEncoder(enc), zapcore.Lock(zapcore.AddSync(w)), level)
	return zap.New(core).With(zap.String("service", service)), nil
}

// encodeTime writes UTC, so that lines of services in different zones sort as text.
func encodeTime(t time.Time, enc zapcore.PrimitiveArrayEncoder) {
	zapcore.RFC3339NanoTimeEncoder(t.UTC(), enc)
}
