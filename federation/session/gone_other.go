//go:build !linux

package session

import (
	"net"
	"syscall"
)

// Gone is only known on Linux. Elsewhere the context of the session has to do:
// it ends when the reader meets the end of the stream.
func Gone(net.Conn) bool { return false }

// readable is not known there.
func readable(net.Conn) bool { return false }

// socketOf is nil: connections keep their buffers there.
func socketOf(net.Conn) syscall.RawConn { return nil }

func awaitReadable(syscall.RawConn) error { return nil }
