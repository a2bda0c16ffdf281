package postgres

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"go.uber.org/zap"
	gormpg "gorm.io/driver/postgres"
	"gorm.io/gorm"
	"gorm.io/gorm/logger"
)

// slowQuery is what is logged as slow, with the statement but without its arguments: they hold tenants' data.
const slowQuery = time.Second

// Gorm puts GORM on top of pool. Closing the returned closer leaves the pool open.
func Gorm(pool *pgxpool.Pool, log *zap.Logger) (*gorm.DB, io.Closer, error) {
	db := stdlib.OpenDBFromPool(pool)
	orm, err := gorm.Open(gormpg.New(gormpg.Config{Conn: db}), &gorm.Config{
		SkipDefaultTransaction: true, // a single statement is a transaction already
		TranslateError:         true,
		DisableAutomaticPing:   true, // the pool may be opened while the server is down
		NowFunc:                func() time.Time { return time.Now().UTC().Truncate(time.Microsecond) },
		Logger:                 gormLogger{log: log.WithOptions(zap.WithCaller(false))},
	})
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("open gorm: %w", err), db.Close())
	}
	return orm, db, nil
}

// WithTenant runs fn in a transaction that sees and writes the rows of tenant alone, and commits if fn returns nil.
func WithTenant(ctx context.Context, db *gorm.DB, tenant uuid.UUID, fn func(tx *gorm.DB) error, options ...*sql.TxOptions) error {
	return db.WithContext(ctx).Transaction(func(tx *gorm.DB) error {
		if err := tx.Exec(`SELECT set_config('app.tenant_id', ?, true)`, tenant.String()).Error; err != nil {
			return fmt.Errorf("set the tenant: %w", err)
		}
		return fn(tx)
	}, options...)
}

// gormLogger writes slow statements to zap. Errors are returned to the caller, who logs them once.
type gormLogger struct{ log *zap.Logger }

// LogMode implements logger.Interface; the level is that of zap.
func (l gormLogger) LogMode(logger.LogLevel) logger.Interface { return l }

// Info implements logger.Interface.
func (l gormLogger) Info(context.Context, string, ...any) {}

// Warn implements logger.Interface.
func (l gormLogger) Warn(context.Context, string, ...any) {}

// Error implements logger.Interface: errors go to the caller.
func (l gormLogger) Error(context.Context, string, ...any) {}

// Trace implements logger.Interface: it logs what is slow.
func (l gormLogger) Trace(_ context.Context, begin time.Time, statement func() (string, int64), _ error) {
	if took := time.Since(begin); took >= slowQuery {
		sql, rows := statement()
		l.log.Warn("slow query", zap.String("sql", sql), zap.Int64("rows", rows), zap.Duration("took", took))
	}
}

// ParamsFilter keeps arguments out of the log.
func (l gormLogger) ParamsFilter(_ context.Context, sql string, _ ...any) (string, []any) {
	return sql, nil
}
