// Package overlay measures swarm's network: traffic over the overlay, service addresses, the
// routing mesh, how soon hosts follow a change, and networks with many services. Each exported
// function is one group of command bench and prints its figures. Where a reference can run on the
// same machine, the figure is a ratio to it, measured in pairs that follow each other.
package overlay
