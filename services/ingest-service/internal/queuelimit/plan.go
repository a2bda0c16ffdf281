package queuelimit

import (
	"cmp"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"maps"
	"math/bits"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
)

const (
	// namePrefix begins the names of all policies of ours, and of no others.
	namePrefix = "mtm.queue-limits."
	// baseName is the policy of the most common limits.
	baseName = namePrefix + "all"

	basePriority, ownPriority = 0, 1

	// maxCombinations is how many different limits there are at a time. Beyond it they are rounded down, see [roundDown].
	maxCombinations = 32
	// maxNamed is how many tenants one policy names, on average.
	maxNamed = 256
	// shortID is how much of an id a policy names, unless that of another tenant begins likewise: the first two groups. What a change takes
	// is the compilation of all patterns for each queue, and grows with their length.
	shortID = len("6f1c2b1e-5a59")
)

// Limits bound what waits in one queue. 0 is no limit.
type Limits struct{ Messages, Bytes int64 }

// IsZero reports whether nothing is limited.
func (l Limits) IsZero() bool { return l == Limits{} }

// of are the limits of a queue among those of its tenant.
func of(limits contract.Limits) Limits {
	return Limits{Messages: max(limits.QueueMaxMessages, 0), Bytes: max(limits.QueueMaxBytes, 0)}
}

func (l Limits) roundDown(level int) Limits {
	return Limits{Messages: roundDown(l.Messages, level), Bytes: roundDown(l.Bytes, level)}
}

// policy is one policy of the broker, as the management API has it.
type policy struct {
	Name       string `json:"name"`
	Pattern    string `json:"pattern"`
	Definition object `json:"definition"`
	Priority   int    `json:"priority"`
	ApplyTo    string `json:"apply-to"`
}

func newPolicy(name, pattern string, priority int, limits Limits) policy {
	// As the argument has it. A queue without that would drop its oldest messages.
	definition := object{keyOverflow: overflowReject}
	if limits.Messages > 0 {
		definition[keyMaxLength] = limits.Messages
	}
	if limits.Bytes > 0 {
		definition[keyMaxBytes] = limits.Bytes
	}
	return policy{Name: name, Pattern: pattern, Definition: definition, Priority: priority, ApplyTo: "queues"}
}

// equals reports whether both do the same.
func (p policy) equals(other policy) bool {
	return p.Pattern == other.Pattern && p.Priority == other.Priority && p.ApplyTo == other.ApplyTo && p.Definition.text() == other.Definition.text()
}

// names are the tenants that a policy of ours names, as its pattern has them.
func (p policy) names() []string {
	named, ok := strings.CutPrefix(p.Pattern, patternHead)
	if !ok {
		return nil
	}
	return strings.Split(strings.TrimSuffix(named, patternTail), "|")
}

// Keys of definitions and arguments.
const (
	keyMaxLength   = "max-length"
	keyMaxBytes    = "max-length-bytes"
	keyOverflow    = "overflow"
	argumentPrefix = "x-"
	overflowReject = "reject-publish"

	basePattern = `^tenant\.`
	patternHead = basePattern + `(?:`
	patternTail = `)`
)

// object is a JSON object. RabbitMQ writes an empty one as [] here and there.
type object map[string]any

// UnmarshalJSON implements [json.Unmarshaler].
func (o *object) UnmarshalJSON(text []byte) error {
	if len(text) > 0 && text[0] == '[' {
		*o = nil
		return nil
	}
	return json.Unmarshal(text, (*map[string]any)(o))
}

// text is the same for two objects with the same content: numbers are whole here, and exact in double precision.
func (o object) text() string {
	text, err := json.Marshal(o)
	if err != nil {
		return err.Error() // of none that was read or made here
	}
	return string(text)
}

// number is a whole number of o, 0 if there is none.
func (o object) number(key string) int64 {
	number, _ := o[key].(float64)
	return int64(number)
}

// plan is what holds queues to their limits.
type plan struct {
	policies []policy // in the order of their names
	level    int      // that limits are rounded down by
}

// newPlan returns the plan for the limits of all tenants. base is the limits for all that are in force: they stay so as long as they are
// those of at least half as many tenants as the most common ones, because every queue changes with them.
func newPlan(wanted map[uuid.UUID]Limits, base Limits) plan {
	p := plan{}
	counts := count(wanted, p.level)
	for len(counts) > maxCombinations {
		p.level++
		counts = count(wanted, p.level)
	}
	base = mostCommon(counts, base)
	if !base.IsZero() {
		p.policies = append(p.policies, newPolicy(baseName, basePattern, basePriority, base))
	}
	named := make(map[Limits][]uuid.UUID)
	begun := make(map[string]int, len(wanted)) // how many ids begin so
	for id, limits := range wanted {
		begun[id.String()[:shortID]]++
		if limits = limits.roundDown(p.level); limits != base {
			named[limits] = append(named[limits], id)
		}
	}
	for limits, ids := range named {
		p.policies = append(p.policies, naming(limits, ids, begun)...)
	}
	slices.SortFunc(p.policies, func(a, b policy) int { return cmp.Compare(a.Name, b.Name) })
	return p
}

// count is how many tenants there are with each combination of limits, rounded down.
func count(wanted map[uuid.UUID]Limits, level int) map[Limits]int {
	counts := make(map[Limits]int)
	for _, limits := range wanted {
		counts[limits.roundDown(level)]++
	}
	return counts
}

func mostCommon(counts map[Limits]int, current Limits) (best Limits) {
	for _, limits := range slices.SortedFunc(maps.Keys(counts), func(a, b Limits) int {
		return cmp.Or(cmp.Compare(a.Messages, b.Messages), cmp.Compare(a.Bytes, b.Bytes))
	}) {
		if counts[limits] > counts[best] {
			best = limits
		}
	}
	if counts[current] > 0 && 2*counts[current] >= counts[best] {
		return current
	}
	return best
}

// naming are policies that give tenants limits. A tenant that comes or goes changes one of them: which one names it follows from its id.
func naming(limits Limits, ids []uuid.UUID, begun map[string]int) []policy {
	parts := 1
	for parts*maxNamed < len(ids) {
		parts *= 2
	}
	named := make([][]string, parts)
	for _, id := range ids {
		hash := fnv.New32a()
		_, _ = hash.Write(id[:]) // never fails
		name := id.String()
		if short := name[:shortID]; begun[short] == 1 {
			name = short
		}
		part := hash.Sum32() % uint32(parts)
		named[part] = append(named[part], name)
	}
	var policies []policy
	for part, names := range named {
		if len(names) == 0 {
			continue
		}
		slices.Sort(names)
		name := fmt.Sprintf("%s%d.%d.%dof%d", namePrefix, limits.Messages, limits.Bytes, part+1, parts)
		policies = append(policies, newPolicy(name, patternHead+strings.Join(names, "|")+patternTail, ownPriority, limits))
	}
	return policies
}

// exactBits is how many significant bits the first level of rounding leaves of a number.
const exactBits = 4

// roundDown rounds a limit down to a step of a ladder: it may be lower than was asked for, and is never higher, nor is it lifted. The levels
// 1 to 4 keep 4 to 1 significant bits, so that the loss is below an eighth, a quarter and a half; the next ones keep powers of 4, 16, 256 and
// so on. On the last level, the tenth, there is one step.
func roundDown(limit int64, level int) int64 {
	length := bits.Len64(uint64(limit))
	switch {
	case limit == 0 || level == 0:
		return limit
	case level <= exactBits:
		drop := max(length-(exactBits+1-level), 0)
		return limit >> drop << drop
	}
	step := 1 << (level - exactBits)
	return 1 << ((length - 1) / step * step)
}
