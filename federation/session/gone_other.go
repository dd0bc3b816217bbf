//go:build !linux

package session

import "net"

// Gone is only known on Linux. Elsewhere the context of the session has to do:
// it ends when the reader meets the end of the stream.
func Gone(net.Conn) bool { return false }

// readable is not known there.
func readable(net.Conn) bool { return false }
