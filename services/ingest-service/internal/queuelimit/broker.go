package queuelimit

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/management"
)

const (
	// requestTimeout bounds one request. A change takes as long as the broker needs to apply all policies to all queues.
	requestTimeout = 30 * time.Second
	// pageSize is how many queues the management API is asked for at a time. It takes 500 at most.
	pageSize = 500
)

// broker is the policies and queues of the own virtual host.
type broker struct{ api *management.Client }

func (b broker) do(ctx context.Context, method, path string, body, into any) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	return b.api.Do(ctx, method, path, body, into)
}

// policies are ours, by their names.
func (b broker) policies(ctx context.Context) (map[string]policy, error) {
	var all []policy
	if err := b.do(ctx, http.MethodGet, "/api/policies/"+b.api.VHost(), nil, &all); err != nil {
		return nil, fmt.Errorf("read the policies: %w", err)
	}
	ours := make(map[string]policy)
	for _, p := range all {
		if isOurs(p.Name) {
			ours[p.Name] = p
		}
	}
	return ours, nil
}

func isOurs(name string) bool { return strings.HasPrefix(name, namePrefix) }

// base is the limits of the policy for all.
func base(there map[string]policy) Limits {
	definition := there[baseName].Definition
	return Limits{Messages: definition.number(keyMaxLength), Bytes: definition.number(keyMaxBytes)}
}

// write makes the policies of ours those of p, and returns how many it has written and removed. What is wanted by then is in force when
// it returns.
//
// A queue is to be held to its limits at any moment. So what names more tenants than before comes first, and what names fewer last.
func (b broker) write(ctx context.Context, p plan, there map[string]policy) (changes int, err error) {
	steps := [3][]policy{}
	const gains, all, losses = 0, 1, 2
	wanted := make(map[string]bool, len(p.policies))
	for _, next := range p.policies {
		wanted[next.Name] = true
		last, known := there[next.Name]
		switch {
		case known && last.equals(next):
		case next.Name == baseName:
			steps[all] = append(steps[all], next)
		case known && !namesMore(next, last):
			steps[losses] = append(steps[losses], next)
		default:
			steps[gains] = append(steps[gains], next)
		}
	}
	for _, next := range slices.Concat(steps[:]...) {
		body := map[string]any{"pattern": next.Pattern, "definition": next.Definition, "priority": next.Priority, "apply-to": next.ApplyTo}
		if err := b.do(ctx, http.MethodPut, b.path(next.Name), body, nil); err != nil {
			return changes, fmt.Errorf("write the policy %s: %w", next.Name, err)
		}
		changes++
	}
	for name := range there {
		if wanted[name] {
			continue
		}
		if err := b.do(ctx, http.MethodDelete, b.path(name), nil, nil); err != nil && !errors.Is(err, management.ErrUnknown) {
			return changes, fmt.Errorf("remove the policy %s: %w", name, err)
		}
		changes++
	}
	return changes, nil
}

func (b broker) path(name string) string {
	return "/api/policies/" + b.api.VHost() + "/" + url.PathEscape(name)
}

// namesMore reports whether a policy names tenants that another one does not.
func namesMore(next, last policy) bool {
	known := make(map[string]bool)
	for _, name := range last.names() {
		known[name] = true
	}
	return slices.ContainsFunc(next.names(), func(name string) bool { return !known[name] })
}

// queue is what the API tells of one. Policies are as of the broker's last statistics, up to five seconds ago.
type queue struct {
	Name           string `json:"name"`
	Policy         string `json:"policy"`
	OperatorPolicy string `json:"operator_policy"`
	Arguments      object `json:"arguments"`
	Effective      object `json:"effective_policy_definition"` // of both policies together
}

// queues calls observe with each queue.
func (b broker) queues(ctx context.Context, observe func(queue)) error {
	for page, pages := 1, 1; page <= pages; page++ {
		var answer struct {
			Pages int     `json:"page_count"`
			Items []queue `json:"items"`
		}
		path := "/api/queues/" + b.api.VHost() + "?page=" + strconv.Itoa(page) + "&page_size=" + strconv.Itoa(pageSize) +
			"&columns=name,policy,operator_policy,arguments,effective_policy_definition"
		if err := b.do(ctx, http.MethodGet, path, nil, &answer); err != nil {
			return fmt.Errorf("read what is in force: %w", err)
		}
		pages = answer.Pages
		for _, q := range answer.Items {
			observe(q)
		}
	}
	return nil
}

// inForce is the lower of argument and policies, as the broker takes it.
func (q queue) inForce() Limits {
	return Limits{
		Messages: lower(q.Arguments.number(argumentPrefix+keyMaxLength), q.Effective.number(keyMaxLength)),
		Bytes:    lower(q.Arguments.number(argumentPrefix+keyMaxBytes), q.Effective.number(keyMaxBytes)),
	}
}

// lower is the lower of two limits, of which 0 is none.
func lower(a, b int64) int64 {
	if a == 0 || b == 0 {
		return max(a, b)
	}
	return min(a, b)
}

// drops reports whether a policy makes a queue drop messages that was declared to refuse them.
func (q queue) drops() bool {
	argument, _ := q.Arguments[argumentPrefix+keyOverflow].(string)
	overflow, overridden := q.Effective[keyOverflow].(string)
	return refuses(argument) && overridden && !refuses(overflow)
}

// refuses reports whether a value of overflow is one of those with which a full queue refuses.
func refuses(overflow string) bool { return strings.HasPrefix(overflow, overflowReject) }
