//go:build !unix

package wire

// readSocket leaves the reading to the one that waits.
func readSocket(uintptr, []byte) int { return -1 }

func setLowWater(uintptr, int) {}
