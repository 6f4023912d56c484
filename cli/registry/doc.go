// Package registry holds the verbs `swarm login` and `swarm logout`.
//
// User names and passwords of registries are kept where `docker login` keeps them (package
// internal/keychain). A manager checks them before they are stored. Callers: cli. It starts no
// goroutines.
package registry
