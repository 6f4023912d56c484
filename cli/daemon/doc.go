// Package daemon holds the verbs that run or change the software of this host: daemon, runtime,
// install, uninstall and upgrade.
//
// It owns their flags, the checks of their values, and the interfaces Installer and Upgrader, which
// cmd/swarm implements. It refuses to act on other hosts. Callers: cli; cmd/swarm for the types. It
// starts no goroutines.
package daemon
