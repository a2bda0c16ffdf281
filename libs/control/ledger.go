package control

// mark identifies one write to a bucket. The revision alone does not: it starts again in a recreated bucket, where the
// same key easily gets the same revision again with another value.
type mark struct {
	revision uint64
	created  int64 // time of the write at the server, Unix nanoseconds
}

// ledger is what the handler of a watch has been told: the last write of each key that it takes to exist.
type ledger map[string]mark

// note records a write (or the deletion) of key and reports whether it is news.
func (l ledger) note(key string, m mark, deleted bool) bool {
	last, known := l[key]
	if deleted {
		delete(l, key)
		return known
	}
	l[key] = m
	return !known || last != m
}

// missing returns the keys of l that are not in present.
func (l ledger) missing(present map[string]struct{}) []string {
	var keys []string
	for key := range l {
		if _, ok := present[key]; !ok {
			keys = append(keys, key)
		}
	}
	return keys
}
