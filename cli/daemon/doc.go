// Package daemon holds the verbs that run or change the software of this host: daemon, runtime,
// install, uninstall and upgrade.
//
// The package owns their flags, the checks of the values, and the interfaces Installer and
// Upgrader, which cmd/swarm implements. Its verbs act on this host only. Callers: cli; cmd/swarm
// for the types. It starts no goroutines.
package daemon
