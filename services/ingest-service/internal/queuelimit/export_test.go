package queuelimit

import (
	"regexp"

	"github.com/google/uuid"

	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
)

// Bounds, for tests.
const (
	MaxCombinations = maxCombinations
	MaxNamed        = maxNamed
	LastLevel       = 10
	BaseName        = baseName
)

// Policies are those for the limits of all tenants, by their names, and the level that they are rounded by. there is what was planned before.
func Policies(wanted map[uuid.UUID]Limits, there map[string]Policy) (policies map[string]Policy, level int) {
	p := newPlan(wanted, there[baseName].limits())
	policies = make(map[string]Policy)
	for _, planned := range p.policies {
		policies[planned.Name] = Policy{planned}
	}
	return policies, p.level
}

// Policy is a policy that is to be.
type Policy struct{ policy }

func (p Policy) limits() (l Limits) {
	l.Messages, _ = p.Definition[keyMaxLength].(int64)
	l.Bytes, _ = p.Definition[keyMaxBytes].(int64)
	return l
}

// Text is all that it says.
func (p Policy) Text() string { return p.Pattern + p.Definition.text() }

// Effective is what policies hold the queue of a tenant to, and whether each that applies refuses. More than one of the same priority is
// never sure.
func Effective(policies map[string]Policy, tenant uuid.UUID) (limits Limits, refuses, sure bool) {
	found := make(map[int][]Policy)
	for _, p := range policies {
		if regexp.MustCompile(p.Pattern).MatchString(contract.QueueName(tenant.String())) {
			found[p.Priority] = append(found[p.Priority], p)
		}
	}
	for _, priority := range []int{ownPriority, basePriority} {
		if applying := found[priority]; len(applying) > 0 {
			return applying[0].limits(), applying[0].Definition[keyOverflow] == overflowReject, len(applying) == 1
		}
	}
	return Limits{}, true, true
}

// RoundDown is roundDown.
func RoundDown(limit int64, level int) int64 { return roundDown(limit, level) }
