//go:build unix

package wire

import "syscall"

// readSocket reads without waiting. It is negative for an error, also that of nothing being there.
func readSocket(fd uintptr, p []byte) int {
	n, err := syscall.Read(int(fd), p)
	if err != nil {
		return -1
	}
	return n
}

func setLowWater(fd uintptr, n int) {
	_ = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVLOWAT, n)
}
