// Package data serves the RPCs of secrets and configs, which differ in little more than their
// names: both are objects with numbered versions of data that containers see as files. A version
// never changes. The row of the object names the current version, and references of services follow
// it or are pinned to a version.
//
// Package service binds references to versions, and brings a new version to the services that
// follow the object. Package control is the only caller of this package. It starts no goroutine.
package data
