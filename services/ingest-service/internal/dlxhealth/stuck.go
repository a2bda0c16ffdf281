package dlxhealth

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/conn"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/management"
	"github.com/srireskianita/multi-tenant-messaging/libs/retry"
)

const (
	// pageSize is how many queues the management API is asked for at a time. It takes 500 at most.
	pageSize = 500
	// managementTimeout bounds one request.
	managementTimeout = 10 * time.Second
	// samples is how many looks in a row must find that messages wait, and never fewer of them.
	samples = 3
	// closerLooks is how often a queue is then looked at once more, within half the time to the next look: every 6 s, which is
	// longer than the interval of the broker's statistics (5 s). In a queue that is busy the number falls now and then.
	closerLooks = 5
	// maxNamed is how many queues are looked at closely, and named.
	maxNamed = 5
)

// statistics looks at the queues of the own virtual host through the broker's management API.
type statistics struct{ api *management.Client }

// newStatistics reads where the API is. Without a login of its own it is asked with that of AMQP.
func newStatistics(cfg conn.Config) (*statistics, error) {
	client, err := management.New(cfg.ManagementURL, cfg.URL)
	if err != nil {
		return nil, err
	}
	return &statistics{api: client}, nil
}

// queue is what the API tells of one.
type queue struct {
	Name    string `json:"name"`
	Waiting int64  `json:"messages_dlx"` // to be dead-lettered, or not confirmed there yet
}

const columns = "columns=name,messages_dlx"

// waiting is how many messages wait to be dead-lettered, for each queue of the virtual host in which any do.
func (s *statistics) waiting(ctx context.Context) (map[string]int64, error) {
	all := make(map[string]int64)
	for page, pages := 1, 1; page <= pages; page++ {
		var answer struct {
			Pages int     `json:"page_count"`
			Items []queue `json:"items"`
		}
		query := "?page=" + strconv.Itoa(page) + "&page_size=" + strconv.Itoa(pageSize) + "&" + columns
		if err := s.get(ctx, query, &answer); err != nil {
			return nil, err
		}
		pages = answer.Pages
		for _, q := range answer.Items {
			if q.Waiting > 0 {
				all[q.Name] = q.Waiting
			}
		}
	}
	return all, nil
}

// waitingIn is waiting for one queue.
func (s *statistics) waitingIn(ctx context.Context, name string) (int64, error) {
	var q queue
	err := s.get(ctx, "/"+url.PathEscape(name)+"?"+columns, &q)
	return q.Waiting, err
}

func (s *statistics) get(ctx context.Context, path string, into any) error {
	ctx, cancel := context.WithTimeout(ctx, managementTimeout)
	defer cancel()
	return s.api.Do(ctx, http.MethodGet, "/api/queues/"+s.api.VHost()+path, nil, into)
}

// trend is, for each queue in which messages wait, how many looks in a row have found no fewer than the one before.
type trend map[string]struct {
	last  int64
	looks int
}

// observe takes in a look and returns the queues that may be stuck, in order.
func (t trend) observe(waiting map[string]int64) (suspected []string) {
	maps.DeleteFunc(t, func(name string, _ struct {
		last  int64
		looks int
	},
	) bool {
		return waiting[name] == 0
	})
	for name, now := range waiting {
		if now == 0 {
			continue
		}
		seen := t[name]
		if now < seen.last {
			seen.looks = 0
		}
		seen.last = now
		seen.looks++
		t[name] = seen
		if seen.looks >= samples {
			suspected = append(suspected, name)
		}
	}
	slices.Sort(suspected)
	return suspected
}

// lookAtQueues looks for queues that are stuck until ctx ends.
func (w *Watch) lookAtQueues(ctx context.Context, api *statistics) {
	seen := make(trend)
	answered := true
	for retry.Sleep(ctx, w.cfg.Look) == nil {
		waiting, err := api.waiting(ctx)
		if err != nil && ctx.Err() == nil && answered {
			w.log.Warn("messages that wait to be dead-lettered could not be looked at; it will be repeated", zap.Error(err))
		}
		if answered = err == nil; !answered {
			continue
		}
		var stuck []string
		suspected := seen.observe(waiting)
		for _, name := range suspected[:min(maxNamed, len(suspected))] {
			if api.isStuck(ctx, name, waiting[name], w.cfg.Look/2/closerLooks) {
				stuck = append(stuck, name)
			}
		}
		if ctx.Err() != nil {
			return
		}
		if len(stuck) == 0 {
			w.stuck.Set(0)
			w.set(stuckQueues, nil)
			continue
		}
		w.stuck.Set(float64(len(stuck) + max(0, len(suspected)-maxNamed)))
		w.set(stuckQueues, fmt.Errorf("%s: messages wait to be dead-lettered and do not become fewer in %s", stuckQueues, strings.Join(stuck, ", ")))
	}
}

// isStuck looks at a queue more closely, once every pause.
func (s *statistics) isStuck(ctx context.Context, name string, last int64, pause time.Duration) bool {
	for range closerLooks {
		if retry.Sleep(ctx, pause) != nil {
			return false
		}
		now, err := s.waitingIn(ctx, name)
		if err != nil || now == 0 || now < last {
			return false
		}
		last = now
	}
	return true
}
