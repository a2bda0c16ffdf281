package stack

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"
)

// readyRequestTimeout bounds one look at a service.
const readyRequestTimeout = 5 * time.Second

// Ready is nil if the service with the ops listener at opsURL says that it is ready, and else what it says is missing.
func Ready(ctx context.Context, opsURL string) (err error) {
	ctx, cancel := context.WithTimeout(ctx, readyRequestTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, opsURL+"/readyz", http.NoBody)
	if err != nil {
		return fmt.Errorf("make the request: %w", err)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	answer, err := client.Do(request)
	if err != nil {
		return err // it names the request
	}
	defer func() { err = errors.Join(err, answer.Body.Close()) }()
	if answer.StatusCode == http.StatusOK {
		return nil
	}
	var state struct {
		Checks map[string]struct {
			OK    bool   `json:"ok"`
			Error string `json:"error"`
		} `json:"checks"`
	}
	body, err := io.ReadAll(io.LimitReader(answer.Body, 64<<10))
	if err != nil {
		return fmt.Errorf("read why it is not ready: %w", err)
	}
	var reasons []string
	if json.Unmarshal(body, &state) == nil {
		for name, check := range state.Checks {
			if !check.OK {
				reasons = append(reasons, name+": "+check.Error)
			}
		}
	}
	if len(reasons) == 0 {
		return fmt.Errorf("status %d", answer.StatusCode)
	}
	slices.Sort(reasons)
	return errors.New(strings.Join(reasons, "; "))
}
