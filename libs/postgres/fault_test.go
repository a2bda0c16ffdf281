package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/libs/postgres"
)

// A fault of the infrastructure that is taken for one of the content makes dead letters of good messages; the other way
// round, one bad message stops its tenant.
func TestClassify(t *testing.T) {
	state := func(code string) error { return &pgconn.PgError{Code: code} }
	for name, test := range map[string]struct {
		err  error
		want postgres.Fault
	}{
		"none":                       {nil, postgres.FaultNone},
		"connection refused":         {errors.New("dial tcp: connection refused"), postgres.FaultInfrastructure},
		"connection cut":             {io.ErrUnexpectedEOF, postgres.FaultInfrastructure},
		"deadline":                   {context.DeadlineExceeded, postgres.FaultInfrastructure},
		"cancelled":                  {context.Canceled, postgres.FaultInfrastructure},
		"cancelled by the server":    {fmt.Errorf("%w: %w", context.DeadlineExceeded, state("57014")), postgres.FaultInfrastructure},
		"08 connection exception":    {state("08006"), postgres.FaultInfrastructure},
		"25 read-only":               {state("25006"), postgres.FaultInfrastructure},
		"28 invalid authorization":   {state("28P01"), postgres.FaultInfrastructure},
		"3D no such database":        {state("3D000"), postgres.FaultInfrastructure},
		"40 serialization":           {state("40001"), postgres.FaultInfrastructure},
		"40 deadlock":                {state("40P01"), postgres.FaultInfrastructure},
		"42 no right":                {state("42501"), postgres.FaultInfrastructure},
		"42 no such table":           {state("42P01"), postgres.FaultInfrastructure},
		"42 no such column":          {state("42703"), postgres.FaultInfrastructure},
		"53 disk full":               {state("53100"), postgres.FaultInfrastructure},
		"53 out of memory":           {state("53200"), postgres.FaultInfrastructure},
		"53 too many connections":    {state("53300"), postgres.FaultInfrastructure},
		"55 lock not available":      {state("55P03"), postgres.FaultInfrastructure},
		"57 shutdown":                {state("57P01"), postgres.FaultInfrastructure},
		"57 starting up":             {state("57P03"), postgres.FaultInfrastructure},
		"58 system error":            {state("58030"), postgres.FaultInfrastructure},
		"XX internal error":          {state("XX000"), postgres.FaultInfrastructure},
		"23505 reading order":        {state("23505"), postgres.FaultInfrastructure},
		"23514 absent partition":     {state("23514"), postgres.FaultInfrastructure},
		"unknown class":              {state("ZZ999"), postgres.FaultInfrastructure},
		"retired tenant":             {state(postgres.RetiredTenant), postgres.FaultInfrastructure},
		"22 null character":          {state("22P05"), postgres.FaultContent},
		"22 invalid JSON":            {state("22P02"), postgres.FaultContent},
		"22 out of range":            {state("22003"), postgres.FaultContent},
		"23514 the operator's check": {&pgconn.PgError{Code: "23514", ConstraintName: "payload_has_type"}, postgres.FaultContent},
		"23502 not null":             {state("23502"), postgres.FaultContent},
		"54 too large":               {state("54000"), postgres.FaultContent},
		"P0 raised by a trigger":     {state("P0001"), postgres.FaultTransient},
		"38 external routine":        {state("38000"), postgres.FaultTransient},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, test.want, postgres.Classify(test.err))
			if test.err != nil {
				require.Equal(t, test.want, postgres.Classify(fmt.Errorf("insert: %w", test.err)), "wrapped")
			}
		})
	}
}
