package logging_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/srireskianita/multi-tenant-messaging/libs/logging"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestLineIsJSONWithServiceAndUTCTime(t *testing.T) {
	var out bytes.Buffer
	log, err := logging.New(logging.Config{Level: "info"}, "query-service", &out)
	require.NoError(t, err)

	log.Info("started", zap.String("tenant_id", "t1"), zap.Duration("took", 1500*time.Millisecond), zap.Error(errors.New("boom")))

	var line map[string]any
	require.NoError(t, json.Unmarshal(out.Bytes(), &line))
	require.Equal(t, "started", line["msg"])
	require.Equal(t, "info", line["level"])
	require.Equal(t, "query-service", line["service"])
	require.Equal(t, "t1", line["tenant_id"])
	require.InDelta(t, 1.5, line["took"], 1e-9)
	require.Equal(t, "boom", line["error"])
	at, ok := line["time"].(string)
	require.True(t, ok)
	require.True(t, strings.HasSuffix(at, "Z"), at)
	_, err = time.Parse(time.RFC3339Nano, at)
	require.NoError(t, err)
}

// In an incident the same line comes thousands of times a second; an operator who counts them must not
// be told a hundred.
func TestEqualLinesAreNotSampled(t *testing.T) {
	var out bytes.Buffer
	log, err := logging.New(logging.DefaultConfig(), "s", &out)
	require.NoError(t, err)

	for range 1000 {
		log.Error("same")
	}

	lines := 0
	for s := bufio.NewScanner(&out); s.Scan(); {
		lines++
	}
	require.Equal(t, 1000, lines)
}

func TestLevel(t *testing.T) {
	tests := map[string]struct {
		level string
		want  []string
	}{
		"debug": {"debug", []string{"d", "i", "w", "e"}},
		"info":  {"info", []string{"i", "w", "e"}},
		"warn":  {"warn", []string{"w", "e"}},
		"error": {"error", []string{"e"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			log, err := logging.New(logging.Config{Level: tt.level}, "s", &out)
			require.NoError(t, err)

			log.Debug("d")
			log.Info("i")
			log.Warn("w")
			log.Error("e")

			var got []string
			for s := bufio.NewScanner(&out); s.Scan(); {
				var line struct{ Msg string }
				require.NoError(t, json.Unmarshal(s.Bytes(), &line))
				got = append(got, line.Msg)
			}
			require.Equal(t, tt.want, got)
		})
	}
}

func TestUnknownLevelIsRefused(t *testing.T) {
	_, err := logging.New(logging.Config{Level: "loud"}, "s", &bytes.Buffer{})
	require.ErrorContains(t, err, `log.level "loud"`)
}
