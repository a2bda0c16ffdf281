//go:build !race

package stack

// race reports whether this program has the race detector, and so should the services.
const race = false
