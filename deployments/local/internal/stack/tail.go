package stack

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"
)

// tailBytes is how much of the end of a log is looked at for its last lines.
const tailBytes = 64 << 10

// tail returns the last lines of a log file, at most n, and where it ends. A file that is not there is empty.
func tail(file string, n int) (lines [][]byte, end int64, err error) {
	log, err := os.Open(file)
	if errors.Is(err, os.ErrNotExist) {
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, fmt.Errorf("open log: %w", err)
	}
	defer log.Close() //nolint:errcheck // read only
	end, err = log.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, 0, fmt.Errorf("seek in log: %w", err)
	}
	from := max(0, end-tailBytes)
	body := make([]byte, end-from)
	if _, err := log.ReadAt(body, from); err != nil && !errors.Is(err, io.EOF) {
		return nil, 0, fmt.Errorf("read log: %w", err)
	}
	lines = bytes.Split(bytes.TrimRight(body, "\n"), []byte("\n"))
	if len(lines) == 1 && len(lines[0]) == 0 {
		return nil, end, nil
	}
	return lines[max(0, len(lines)-n):], end, nil
}

// follow calls line for each whole line that is added to file after offset, until ctx ends.
func follow(ctx context.Context, file string, offset int64, line func([]byte)) error {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	var rest []byte
	for {
		added, err := readFrom(file, offset)
		if err != nil {
			return err
		}
		offset += int64(len(added))
		rest = append(rest, added...)
		for {
			whole, after, found := bytes.Cut(rest, []byte("\n"))
			if !found {
				break
			}
			line(whole)
			rest = after
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func readFrom(file string, offset int64) ([]byte, error) {
	log, err := os.Open(file)
	if errors.Is(err, os.ErrNotExist) { // not started yet
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	defer log.Close() //nolint:errcheck // read only
	body, err := io.ReadAll(io.NewSectionReader(log, offset, tailBytes))
	if err != nil {
		return nil, fmt.Errorf("read log: %w", err)
	}
	return body, nil
}
