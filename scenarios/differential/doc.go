// Package differential plays sequences of commands on a cluster and records the states to which
// the commands lead. The words of `docker` and of `swarm` are the same, so one script is played by
// both systems: command bench plays it on dockerd in Swarm mode and writes the golden files, and
// the test of this package plays it on swarm and compares.
//
// testdata/NAME.txt is a script, testdata/NAME.docker.golden what dockerd did with it, and
// testdata/differences.txt the reasons of the intended differences. Script explains the language.
//
// The package decides what a recorded state has, and when a cluster is at rest. It reads states
// only from the output of the command line. It starts no cluster: callers give it a System.
package differential
