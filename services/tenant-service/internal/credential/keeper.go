package credential

import (
	"context"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/srireskianita/multi-tenant-messaging/libs/retry"
)

const (
	// keepInterval is how often what is to go is looked for, surveyInterval how often users and rows are compared.
	keepInterval   = 5 * time.Second
	surveyInterval = time.Minute
	// abandonedAfter is how old a credential is that was begun and never issued when its maker is taken to have died.
	abandonedAfter = 4 * issueTimeout
	// doomedBatch is how many are read at a time.
	doomedBatch = 100
)

// Keeper keeps the users of the broker and the rows of credentials in step. It removes
//
//   - credentials that are revoked, as those of a tenant are with its deletion, or abandoned half made: the user, then the row;
//   - users with a name of this installation that no row knows, such as those of a registry that was restored from a backup.
//
// It notes which issued credentials have no user any more. Several may run.
type Keeper struct {
	store  Store
	broker *broker
	log    *zap.Logger
	wake   chan struct{} // capacity 1: something is to go

	// Owned by the goroutine of Run.
	surveyed time.Time // when users and rows were compared
	failing  bool      // the last pass has failed, which was logged
}

func newKeeper(store Store, broker *broker, log *zap.Logger) *Keeper {
	return &Keeper{store: store, broker: broker, log: log, wake: make(chan struct{}, 1)}
}

// Nudge has the keeper look now. It does not wait.
func (k *Keeper) Nudge() {
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

// Run runs until ctx ends. Whatever fails is tried again.
func (k *Keeper) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		err := k.pass(ctx)
		if ctx.Err() == nil && (err != nil) != k.failing {
			k.failing = err != nil
			k.log.Info("credentials are compared with the users of the broker", zap.NamedError("fault", err))
		}
		select {
		case <-ctx.Done():
		case <-k.wake:
		case <-time.After(retry.Jitter(keepInterval)):
		}
	}
	return nil
}

func (k *Keeper) pass(ctx context.Context) error {
	due := time.Since(k.surveyed) >= surveyInterval
	if due {
		if err := k.store.RevokeOrphans(ctx); err != nil {
			return err
		}
	}
	if err := k.removeDoomed(ctx); err != nil || !due {
		return err
	}
	if err := k.survey(ctx); err != nil {
		return err
	}
	k.surveyed = time.Now()
	return nil
}

// removeDoomed removes the credentials that are to go.
func (k *Keeper) removeDoomed(ctx context.Context) error {
	for {
		doomed, err := k.store.DoomedCredentials(ctx, abandonedAfter, doomedBatch)
		if err != nil {
			return err
		}
		for _, c := range doomed {
			if err := remove(ctx, k.store, k.broker, c); err != nil {
				return err
			}
			k.log.Info("a credential was removed", zap.Stringer("tenant_id", c.Tenant), zap.String("username", c.Username))
		}
		if len(doomed) < doomedBatch {
			return nil
		}
	}
}

// survey compares users and rows. Users are read between the rows: a user whose row is not there after it was seen is none that is just
// being made, and a row that was issued before has a user unless that is gone.
func (k *Keeper) survey(ctx context.Context) error {
	issued, err := k.store.IssuedUsernames(ctx)
	if err != nil {
		return err
	}
	users, err := k.broker.users(ctx)
	if err != nil {
		return err
	}
	unknown, err := k.store.UnknownUsernames(ctx, users)
	if err != nil {
		return err
	}
	for _, user := range unknown {
		if err := k.broker.remove(ctx, user); err != nil {
			return err
		}
		k.log.Warn("a user of the broker that no credential knows was removed", zap.String("username", user))
	}
	return k.noteMissing(ctx, issued, users)
}

// noteMissing notes which credentials have lost their user, or have it again. issued are the names of all, and whether they were missing.
func (k *Keeper) noteMissing(ctx context.Context, issued map[string]bool, users []string) error {
	slices.Sort(users)
	var lost, found []string
	for name, missing := range issued {
		_, there := slices.BinarySearch(users, name)
		switch {
		case there && missing:
			found = append(found, name)
		case !there && !missing:
			lost = append(lost, name)
		}
	}
	if err := k.store.MarkMissing(ctx, lost, true); err != nil {
		return err
	}
	if len(lost) > 0 {
		k.log.Warn("credentials have no user in the broker any more", zap.Int("credentials", len(lost)), zap.String("first", slices.Min(lost)))
	}
	return k.store.MarkMissing(ctx, found, false)
}
