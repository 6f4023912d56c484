// Package scenarios shows, one behaviour a file (*.txtar), what a user would notice: the real binary, real daemons in
// hosts made of network namespaces, real containers. It has no code but its tests; the verbs that the scripts use are in
// verbs_test.go.
package scenarios
