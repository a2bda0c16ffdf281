// Package pgtest opens what tests need of a database, and closes it with the test.
package pgtest

import (
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/zap"
	"gorm.io/gorm"

	"github.com/srireskianita/multi-tenant-messaging/libs/postgres"
)

// Operator is a pool of connections with the login of url: past the rights of the services.
func Operator(tb testing.TB, url string) *pgxpool.Pool {
	tb.Helper()
	pool, err := pgxpool.New(tb.Context(), url)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(pool.Close)
	return pool
}

// As is a pool of connections as a service has them that acts as role.
func As(tb testing.TB, url, role string) *pgxpool.Pool {
	tb.Helper()
	cfg := postgres.DefaultConfig()
	cfg.URL = url
	pool, err := postgres.Open(tb.Context(), cfg, role)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(pool.Close)
	return pool
}

// Gorm is GORM on a pool.
func Gorm(tb testing.TB, pool *pgxpool.Pool) *gorm.DB {
	tb.Helper()
	db, closer, err := postgres.Gorm(pool, zap.NewNop())
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := closer.Close(); err != nil {
			tb.Error(err)
		}
	})
	return db
}
