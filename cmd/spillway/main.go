// Command spillway is the one binary: gateway, mirror, control loop, console
// and the operator's command line.
package main

func main() {}
