// Package registry holds the verbs `swarm login` and `swarm logout`.
//
// User names and passwords of registries are stored where `docker login` stores them (package
// internal/keychain). Before they are stored, a manager tries them at the registry. Callers: cli.
// It starts no goroutines.
package registry
