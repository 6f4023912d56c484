// Package converge shows how a service gets on after a change, until a manager says that it has
// converged or will not. Managers judge (Control.WaitService); this package displays what they send
// and calls another time when a manager goes away.
//
// Callers: the verbs that change services. It starts no goroutines.
package converge
