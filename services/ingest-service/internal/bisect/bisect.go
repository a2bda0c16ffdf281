// Package bisect finds the items of a batch that a database refuses for their content, so that only those pay.
package bisect

import "github.com/srireskianita/multi-tenant-messaging/libs/postgres/sqlstate"

// Range calls try for the items from one index up to another, and where their content is refused (any fault of
// [sqlstate.Classify] but that of the infrastructure) for each half of them in turn, down to single ones. A single one
// that is refused goes to refused, with the reason. For each such item of n these are at most 2·log2(n)+1 calls of try.
//
// An error of the infrastructure, or of refused, ends it; what was tried before is done then, and may be done again.
func Range(from, to int, try func(from, to int) error, refused func(i int, err error) error) error {
	err := try(from, to)
	switch fault := sqlstate.Classify(err); {
	case fault == sqlstate.None, fault == sqlstate.Infrastructure:
		return err
	case to-from <= 1:
		return refused(from, err)
	}
	middle := from + (to-from)/2
	if err := Range(from, middle, try, refused); err != nil {
		return err
	}
	return Range(middle, to, try, refused)
}
