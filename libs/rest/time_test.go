package rest_test

import (
	"encoding/json"
	"net/url"
	"slices"
	"testing"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/srireskianita/multi-tenant-messaging/libs/rest"
)

func TestParseTime(t *testing.T) {
	accepted := map[string]string{
		"2026-01-31T08:00:00Z":               "2026-01-31T08:00:00.000000Z",
		"2026-01-31t08:00:00z":               "2026-01-31T08:00:00.000000Z", // lower case: RFC 3339 section 5.6
		"2026-01-31T08:00:00.1Z":             "2026-01-31T08:00:00.100000Z",
		"2026-01-31T08:00:00.123456Z":        "2026-01-31T08:00:00.123456Z",
		"2026-01-31T08:00:00.1234560000000Z": "2026-01-31T08:00:00.123456Z",
		"2026-01-31T08:00:00.1234560000001Z": "2026-01-31T08:00:00.123457Z", // a bound in between is the next microsecond
		"2026-01-31T23:59:59.9999999Z":       "2026-02-01T00:00:00.000000Z",
		"2026-01-31T08:00:00+23:59":          "2026-01-30T08:01:00.000000Z",
		"2026-01-31T08:00:00-23:59":          "2026-02-01T07:59:00.000000Z",
		"2026-01-31T08:00:00-00:00":          "2026-01-31T08:00:00.000000Z",
		"2024-02-29T00:00:00Z":               "2024-02-29T00:00:00.000000Z",
		"0000-01-01T00:00:00Z":               "0000-01-01T00:00:00.000000Z",
		"0001-01-01T00:00:00Z":               "0001-01-01T00:00:00.000000Z",
		"9999-12-31T23:59:59Z":               "9999-12-31T23:59:59.000000Z",
		"2016-12-31T23:59:60Z":               "2017-01-01T00:00:00.000000Z", // a leap second
		"2016-12-31T23:59:60.5Z":             "2017-01-01T00:00:00.500000Z",
		"1990-12-31T15:59:60-08:00":          "1991-01-01T00:00:00.000000Z", // the example of RFC 3339 section 5.8
		"2015-07-01T05:29:60+05:30":          "2015-07-01T00:00:00.000000Z",
	}
	for text, want := range accepted {
		got, err := rest.ParseTime(text)
		require.NoError(t, err, text)
		require.Equal(t, want, got.Format(rest.TimeLayout), text)
		require.Equal(t, time.UTC, got.Location())
	}
	for _, text := range []string{
		"", "Z", "yesterday", "2026-01-31", "2026-01-31T08:00Z", "2026-01-31T08:00:00", "2026-01-31T8:00:00Z", "2026-01-31T0:00:00Z",
		"2026-1-31T08:00:00Z", "2026-01-1T08:00:00Z", "26-01-31T08:00:00Z", "02026-01-31T08:00:00Z", "+2026-01-31T08:00:00Z", "-2026-01-31T08:00:00Z",
		"2026-01-31T08:0:00Z", "2026-01-31T08:00:0Z", "2026-01-31T08:00:00,5Z", "2026-01-31T08:00:00.Z", "2026-01-31T08:00:00.5", "2026-01-31T08:00:00.5.5Z",
		"2026-01-31 08:00:00Z", "2026-01-31_08:00:00Z", "2026/01/31T08:00:00Z", " 2026-01-31T08:00:00Z", "2026-01-31T08:00:00Z ", "2026-01-31T08:00:00Z\n",
		"2026-00-31T08:00:00Z", "2026-13-01T08:00:00Z", "2026-01-00T08:00:00Z", "2026-01-32T08:00:00Z", "2026-02-29T08:00:00Z", "2026-04-31T08:00:00Z",
		"2100-02-29T08:00:00Z", "2026-01-31T24:00:00Z", "2026-01-31T08:60:00Z", "2026-01-31T08:00:61Z", "2026-01-31T08:00:60Z", "2016-12-30T23:59:60Z",
		"2016-12-31T23:59:60+01:00", "2016-12-31T22:59:60Z", "2026-01-31T08:00:00+24:00", "2026-01-31T08:00:00-24:00", "2026-01-31T08:00:00+23:60",
		"2026-01-31T08:00:00+1:00", "2026-01-31T08:00:00+0100", "2026-01-31T08:00:00+01", "2026-01-31T08:00:00 01:00", "2026-01-31T08:00:00Z+01:00",
		"2026-01-31T08:00:00+01:00:00", "2026-01-31T08:00:00\u221201:00", "2026-01-31T08:00:00UTC", "2026-W05-6T08:00:00Z", "2026-031T08:00:00Z",
		"\uff12026-01-31T08:00:00Z", "2026-01-31T08:00:00\x00Z", "20260131T080000Z", "1769846400", "now", "infinity",
	} {
		_, err := rest.ParseTime(text)
		require.Error(t, err, text)
	}
}

// Whatever package time writes is a time, and the same one.
func TestParseTimeReadsWhatIsWritten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		zone := time.FixedZone("", rapid.IntRange(-1439, 1439).Draw(t, "zone")*60)
		want := time.Unix(rapid.Int64Range(-62_000_000_000, 250_000_000_000).Draw(t, "seconds"), 0).
			Add(time.Duration(rapid.IntRange(0, 999_999).Draw(t, "micros")) * time.Microsecond).In(zone)
		got, err := rest.ParseTime(want.Format(time.RFC3339Nano))
		require.NoError(t, err)
		require.True(t, want.Equal(got), "%s is not %s", got, want)
	})
}

// A client that sorts answers by the text of a time must get them in the order of the times.
func TestTimestampsSortAsText(t *testing.T) {
	start := time.Date(2026, 1, 31, 8, 0, 0, 0, time.FixedZone("", 3600))
	var texts []string
	for _, after := range []time.Duration{0, time.Microsecond, 100 * time.Millisecond, 123456 * time.Microsecond, time.Second, time.Hour} {
		text, err := json.Marshal(rest.Timestamp{Time: start.Add(after)})
		require.NoError(t, err)
		require.Len(t, text, len(`"2026-01-31T07:00:00.000000Z"`))
		texts = append(texts, string(text))
		var back rest.Timestamp
		require.NoError(t, json.Unmarshal(text, &back))
		require.True(t, back.Equal(start.Add(after)))
	}
	require.Equal(t, `"2026-01-31T07:00:00.000000Z"`, texts[0])
	require.True(t, slices.IsSorted(texts), texts)
}

func TestTimeParameter(t *testing.T) {
	a := start(t, rest.Config{}, func(app *fiber.App) {
		app.Get("/", func(c *fiber.Ctx) error {
			at, given, err := rest.Time(c, "since")
			if err != nil {
				return err
			}
			return c.JSON(map[string]any{"at": rest.Timestamp{Time: at}, "given": given})
		})
	})
	require.JSONEq(t, `{"at":"0001-01-01T00:00:00.000000Z","given":false}`, a.get(t, "/").body)
	require.JSONEq(t, `{"at":"0001-01-01T00:00:00.000000Z","given":false}`, a.get(t, "/?since=").body)
	require.JSONEq(t, `{"at":"0001-01-01T00:00:00.000000Z","given":true}`, a.get(t, "/?since=0001-01-01T00:00:00Z").body, "a time like any other")
	require.JSONEq(t, `{"at":"2026-01-31T07:00:00.000000Z","given":true}`, a.get(t, "/?since="+url.QueryEscape("2026-01-31T08:00:00+01:00")).body)
	for _, text := range []string{"yesterday", "2026-01-31T0:00:00Z", "2026-01-31T08:00:00+01:00", "%20"} {
		p := a.get(t, "/?since="+text).problem(t, 400, "invalid_time")
		require.Equal(t, "since", p.Errors[0].Field)
	}
}
