// Package engine is the contract between a worker and the container engine of its node.
//
// The engine has six parts, each an interface: Runtime creates, starts and removes the containers
// of tasks; Executor runs further processes in them; Images fetches and removes images; Network
// gives tasks their network namespaces; Storage and LogStore report and keep what is on the disk.
// The package has these interfaces, the values that they exchange, and the errors that they
// return. It has no behaviour, no state and no goroutine.
//
// Package worker and the packages below it call the interfaces. For real containers, the folder
// containerd implements Runtime, Executor, Images and Storage, and worker/logs implements LogStore.
// adapter/dataplane implements Network with the overlay, so that worker and overlay do not import
// each other. worker/simulated implements Runtime, Executor, Images and Network in memory.
// worker/runtimetest tests that both implementations of Runtime and Executor behave the same way.
package engine
