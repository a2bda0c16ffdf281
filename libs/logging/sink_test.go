package logging_test

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/libs/logging"
)

// lines collects what is written.
type lines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// A process that dies has written what it has logged: it may be the reason.
func TestALineIsWrittenWhenWriteReturns(t *testing.T) {
	var out lines
	s := logging.NewSink(&out)
	var want strings.Builder
	for i := range 1000 {
		line := fmt.Appendf(nil, "line %d\n", i)
		want.Write(line)
		n, err := s.Write(line)
		require.NoError(t, err)
		require.Equal(t, len(line), n)
		copy(line, "overwritten")
		require.Equal(t, want.String(), out.String())
	}
	s.Close()
	s.Close()
	_, err := s.Write([]byte("too late\n"))
	require.NoError(t, err)
	require.Equal(t, want.String(), out.String())
}

func TestLinesOfManyStayWhole(t *testing.T) {
	var out lines
	s := logging.NewSink(&out)
	var writers sync.WaitGroup
	for w := range 10 {
		writers.Go(func() {
			for range 100 {
				_, _ = s.Write([]byte(strings.Repeat(fmt.Sprint(w), 100) + "\n"))
			}
		})
	}
	writers.Wait()
	s.Close()
	count := 0
	for line := range strings.Lines(out.String()) {
		count++
		require.Equal(t, strings.Repeat(line[:1], 100)+"\n", line)
	}
	require.Equal(t, 1000, count)
}

// A pipe that nobody reads must not hold up requests; a reader that comes back learns what is missing.
func TestAWriterThatTakesNothingHoldsUpNobody(t *testing.T) {
	reader, writer := io.Pipe()
	s := logging.NewShortSink(writer)
	for i := range 1000 {
		_, err := fmt.Fprintf(s, `{"line":%d}`+"\n", i)
		require.NoError(t, err)
	}
	read := bufio.NewScanner(reader)
	require.True(t, read.Scan(), "the first one was under way")
	require.JSONEq(t, `{"line":0}`, read.Text())
	// The next that finds the writer free says how many there were.
	written := make(chan struct{})
	go func() {
		defer close(written)
		for !s.Free() {
			continue
		}
		_, _ = io.WriteString(s, `{"line":"next"}`+"\n")
	}()
	require.True(t, read.Scan())
	var note struct {
		Level, Msg string
		Lines      int
	}
	require.NoError(t, json.Unmarshal(read.Bytes(), &note), read.Text())
	require.Equal(t, "warn", note.Level)
	require.Equal(t, 999, note.Lines)
	require.True(t, read.Scan())
	require.JSONEq(t, `{"line":"next"}`, read.Text())
	<-written
	s.Close()
}

func TestAWriterThatIsGoneHoldsUpNobody(t *testing.T) {
	reader, writer := io.Pipe()
	require.NoError(t, reader.CloseWithError(errors.New("broken pipe")))
	s := logging.NewSink(writer)
	for range 1000 {
		_, err := s.Write([]byte("line\n"))
		require.NoError(t, err)
	}
	s.Close()
}

// Close waits for nobody, either.
func TestCloseOfASinkThatIsStuck(t *testing.T) {
	reader, writer := io.Pipe()
	s := logging.NewShortSink(writer)
	_, err := s.Write([]byte("line\n"))
	require.NoError(t, err)
	s.Close()
	require.NoError(t, reader.Close()) // lets the goroutine end
	s.Ended()
}
