// Package converge shows the progress of a service after a change, until a manager reports that the
// service has converged or will not. Managers judge (Control.WaitService); this package displays
// what they send, and calls again when a manager goes away.
//
// Callers: the verbs that change services, and node drain. It starts no goroutines.
package converge
