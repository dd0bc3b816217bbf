package main

import (
	"os"
	"runtime/debug"

	"spillway/configs"
)

const (
	// memoryBeside is what a mirror needs beside records: code, connections, the offset map.
	memoryBeside = 64 << 20
	// serveBeside is the same of a process with all roles.
	serveBeside = 256 << 20
	// servingGCPercent is how much garbage there may be, as a share of what is in use.
	servingGCPercent = 400
)

// limitMemory has the garbage collector keep the heap below so many bytes, unless
// GOMEMLIMIT says something else. It is a soft limit: what is in use stays.
func limitMemory(bytes int64) {
	if _, set := os.LookupEnv("GOMEMLIMIT"); !set {
		debug.SetMemoryLimit(bytes)
	}
}

// limitServing does so for a process that serves a configuration.
func limitServing(cfg *configs.Config) {
	bytes := int64(serveBeside)
	if cfg.HasRole(configs.RoleBroker) {
		return // its records are in memory
	}
	if cfg.HasRole(configs.RoleMirror) {
		bytes += cfg.Mirror.Memory
	}
	if cfg.HasRole(configs.RoleGateway) {
		bytes += cfg.Gateway.Limits.UnansweredBytesMax
	}
	limitMemory(bytes)
	// What a gateway has in use is little beside what it hands through: at the usual 100
	// the collector ran thirty times a second and took a third of the processor time
	// (docs/performance.md). The limit above bounds what the rest may be.
	if _, set := os.LookupEnv("GOGC"); !set {
		debug.SetGCPercent(servingGCPercent)
	}
}
