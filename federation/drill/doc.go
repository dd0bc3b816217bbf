// Package drill rehearses the loss of a site with a failover group that exists for it
// alone: it writes and reads as a client of the virtual cluster does, has the group fail
// over and move home, and judges what the client was told. It knows nothing of how a move
// is made, nor of when a drill is due; a timer gives the command.
package drill
