// Package worker runs the tasks that the managers assign to a node. Every node has one Worker.
//
// # Parts
//
// Worker connects the parts, each in a package below this one, and distributes what managers send:
//
//	session     the stream to one manager: assignments in, statuses out; contact and lease
//	assignment  the objects that are assigned to the node, in memory
//	tasks       one loop per task: pull, attach, start, probe, watch, stop, remove
//	storage     what stays on the disk: clean-up, disk usage, images to keep
//	state       state.db, the worker's memory across restarts
//	engine      the interfaces of the container runtime, image store, network and logs
//
// A manager's message takes this way: session checks its order, age and form; Worker gives it to
// assignment, which says what changed; Worker writes the changes to state, tells the network about
// changes of the topology, and gives each changed task to tasks. A status goes the other way: tasks
// reports it to session, which writes it to state and sends it.
//
// Package session documents what happens when a manager dies. Package tasks documents what happens
// when a task ends, when it is told to stop, when the daemon restarts, and when the host goes down.
//
// The packages below implement the rest: health (health checks), lease (the file that ends
// single-writer tasks), logs (output of containers), retry (backoff), simulated (an engine in
// memory), usage (what the node and its containers use now) and runtimetest (the contract of
// container runtimes as a test).
//
// # Limits
//
// A worker does not decide which tasks its node has or what replaces a task that has ended: the
// managers do. Only while it is out of contact with all of them does it start an ended task again,
// by the task's restart policy. It imports no container runtime and no network. Package engine
// declares the interfaces. For real containers, the folder containerd implements Runtime, Executor,
// Images and Storage, worker/logs implements LogStore, and adapter/dataplane implements Network.
// worker/simulated implements Runtime, Executor, Images and Network in memory.
//
// # Callers and goroutines
//
// cmd/swarm calls New and registers the Worker as the node's swarm.v1.Worker service, and
// Worker.Disk as its swarm.v1.Disk service. adapter/member calls Run, and node calls Depart. Run
// starts one goroutine for each part with a Run method, and waits for all of them; their packages
// document the goroutines that they start.
package worker
