// Package scenarios tests what a user notices, one behaviour in each file (*.txtar), with the real
// binary, real daemons on hosts made of network namespaces, and real containers. The package has
// only tests. verbs_test.go has the verbs that the scripts use.
package scenarios
