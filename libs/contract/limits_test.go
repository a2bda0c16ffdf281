package contract_test

import (
	"reflect"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
)

// A limit that is forgotten here would be taken for what it says, whatever that is.
func TestNegativeLimits(t *testing.T) {
	require.False(t, contract.Limits{}.Negative())
	for i := range reflect.TypeFor[contract.Limits]().NumField() {
		var l contract.Limits
		reflect.ValueOf(&l).Elem().Field(i).SetInt(5)
		require.False(t, l.Negative())
		reflect.ValueOf(&l).Elem().Field(i).SetInt(-1)
		require.True(t, l.Negative(), reflect.TypeFor[contract.Limits]().Field(i).Name)
	}
}
