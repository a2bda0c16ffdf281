package sqlstate_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/libs/postgres/sqlstate"
)

// A fault of the infrastructure that is taken for one of the content makes dead letters of good messages; the other way
// round, one bad message stops its tenant. What is wrongly taken for the server's stops all tenants, and an operator who
// is told 500 instead of 503 does not try again.
func TestClassify(t *testing.T) {
	const (
		none           = sqlstate.None
		infrastructure = sqlstate.Infrastructure
		transient      = sqlstate.Transient
		content        = sqlstate.Content
	)
	state := func(code string) error { return &pgconn.PgError{Code: code} }
	for name, test := range map[string]struct {
		err                   error
		want                  sqlstate.Fault
		serverWide, temporary bool
	}{
		"none":                       {nil, none, false, false},
		"connection refused":         {errors.New("dial tcp: connection refused"), infrastructure, true, true},
		"connection cut":             {io.ErrUnexpectedEOF, infrastructure, true, true},
		"deadline":                   {context.DeadlineExceeded, infrastructure, true, true},
		"cancelled":                  {context.Canceled, infrastructure, true, true},
		"cancelled by the server":    {fmt.Errorf("%w: %w", context.DeadlineExceeded, state("57014")), infrastructure, false, true},
		"refused for its deadline":   {fmt.Errorf("%w: %w", context.DeadlineExceeded, state("22P02")), infrastructure, false, false},
		"08 connection exception":    {state("08006"), infrastructure, true, true},
		"25 read-only":               {state("25006"), infrastructure, true, true},
		"28 invalid authorization":   {state("28P01"), infrastructure, true, true},
		"3D no such database":        {state("3D000"), infrastructure, false, true},
		"40 serialization":           {state("40001"), infrastructure, false, true},
		"40 deadlock":                {state("40P01"), infrastructure, false, true},
		"42 no right":                {state("42501"), infrastructure, false, true},
		"42 no such table":           {state("42P01"), infrastructure, false, true},
		"42 no such column":          {state("42703"), infrastructure, false, false},
		"53 disk full":               {state("53100"), infrastructure, true, true},
		"53 out of memory":           {state("53200"), infrastructure, true, true},
		"53 too many connections":    {state("53300"), infrastructure, true, true},
		"55 lock not available":      {state("55P03"), infrastructure, false, true},
		"57 statement limit":         {state("57014"), infrastructure, false, true},
		"57 shutdown":                {state("57P01"), infrastructure, true, true},
		"57 starting up":             {state("57P03"), infrastructure, true, true},
		"58 system error":            {state("58030"), infrastructure, true, true},
		"XX internal error":          {state("XX000"), infrastructure, true, false},
		"23505 reading order":        {state("23505"), infrastructure, false, false},
		"23514 absent partition":     {state("23514"), infrastructure, false, false},
		"unknown class":              {state("ZZ999"), infrastructure, false, false},
		"retired tenant":             {state(sqlstate.RetiredTenant), infrastructure, false, false},
		"22 null character":          {state("22P05"), content, false, false},
		"22 invalid JSON":            {state("22P02"), content, false, false},
		"22 out of range":            {state("22003"), content, false, false},
		"22 of no known name":        {state("22ZZZ"), content, false, false},
		"23514 the operator's check": {&pgconn.PgError{Code: "23514", ConstraintName: "payload_has_type"}, content, false, false},
		"23502 not null":             {state("23502"), content, false, false},
		"54 too large":               {state("54000"), content, false, true},
		"P0 raised by a trigger":     {state("P0001"), transient, false, false},
		"38 external routine":        {state("38000"), transient, false, false},
		"39 external routine":        {state("39000"), transient, false, false},
		"09 triggered action":        {state("09000"), transient, false, false},
		"27 triggered data change":   {state("27000"), transient, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			check := func(err error) {
				require.Equal(t, test.want, sqlstate.Classify(err), "%v", err)
				require.Equal(t, test.serverWide, sqlstate.IsServerWide(err), "%v: server-wide", err)
				require.Equal(t, test.temporary, sqlstate.IsTemporary(err), "%v: temporary", err)
			}
			check(test.err)
			if test.err != nil {
				check(fmt.Errorf("insert: %w", test.err))
			}
		})
	}
}

// A client that cannot connect is refused with a code of any class. That is nothing that one tenant has done.
func TestWithoutAConnectionIsServerWide(t *testing.T) {
	_, err := pgconn.Connect(t.Context(), "postgres://nobody@127.0.0.1:1/none")
	require.ErrorAs(t, err, new(*pgconn.ConnectError))
	require.True(t, sqlstate.IsServerWide(fmt.Errorf("%w: %w", err, &pgconn.PgError{Code: "3D000"})))
}

func TestOneCode(t *testing.T) {
	err := fmt.Errorf("attach: %w", &pgconn.PgError{Code: sqlstate.RetiredTenant})
	require.Equal(t, sqlstate.RetiredTenant, sqlstate.Of(err))
	require.True(t, sqlstate.Is(err, "42P01", sqlstate.RetiredTenant))
	require.False(t, sqlstate.Is(err, "42P01"))
	for _, err := range []error{nil, io.EOF} {
		require.Empty(t, sqlstate.Of(err))
		require.False(t, sqlstate.Is(err, sqlstate.RetiredTenant))
	}
}

func TestPartitionMissing(t *testing.T) {
	for name, test := range map[string]struct {
		err  error
		want bool
	}{
		"no error":             {nil, false},
		"no answer":            {io.EOF, false},
		"dropped":              {&pgconn.PgError{Code: "42P01"}, true},
		"detached":             {&pgconn.PgError{Code: "23514"}, true},
		"the operator's check": {&pgconn.PgError{Code: "23514", ConstraintName: "payload_has_type"}, false},
		"stored already":       {&pgconn.PgError{Code: "23505"}, false},
	} {
		require.Equal(t, test.want, sqlstate.IsPartitionMissing(test.err), name)
	}
}
