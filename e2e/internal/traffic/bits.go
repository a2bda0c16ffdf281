package traffic

import "math/bits"

// bitset is a set of sequence numbers. Its zero value is empty.
type bitset struct {
	words []uint64
	count int64
}

// add puts n into the set and reports whether it is new.
func (b *bitset) add(n uint32) bool {
	word, bit := int(n/64), uint64(1)<<(n%64)
	if word >= len(b.words) {
		b.words = append(b.words, make([]uint64, word+1-len(b.words))...)
	}
	if b.words[word]&bit != 0 {
		return false
	}
	b.words[word] |= bit
	b.count++
	return true
}

func (b *bitset) has(n uint32) bool {
	word := int(n / 64)
	return word < len(b.words) && b.words[word]&(1<<(n%64)) != 0
}

// each calls fn for every member, in ascending order.
func (b *bitset) each(fn func(n uint32)) {
	for i, word := range b.words {
		for ; word != 0; word &= word - 1 {
			fn(uint32(i*64 + bits.TrailingZeros64(word)))
		}
	}
}

// minus is what is in b and not in others.
func (b *bitset) minus(others ...*bitset) (left bitset) {
	left.words = make([]uint64, len(b.words))
	for i, word := range b.words {
		for _, other := range others {
			if i < len(other.words) {
				word &^= other.words[i]
			}
		}
		left.words[i] = word
		left.count += int64(bits.OnesCount64(word))
	}
	return left
}
