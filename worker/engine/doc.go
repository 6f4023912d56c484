// Package engine is the contract between a worker and the container engine of its node.
//
// The engine has six parts, each an interface: Runtime creates, starts and removes the containers
// of tasks; Executor runs further processes in them; Images fetches and removes images; Network
// gives tasks their network namespaces; Storage and LogStore report and keep what is on the disk.
// The package has these interfaces, the values that they exchange, and the errors that they
// return. It has no behaviour, no state and no goroutine.
//
// Package worker and the packages below it call the interfaces. containerd and worker/logs
// implement them for real containers, worker/simulated implements them in memory, and
// worker/runtimetest tests that both implementations of Runtime and Executor do the same.
// cmd connects the network to the one of the overlay, so that neither side imports the other.
package engine
