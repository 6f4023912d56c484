// Package network serves the RPCs of networks: create, list, inspect, compare with what the nodes
// have (SurveyNetwork), remove and prune. It chooses the subnets and the VXLAN network identifier
// of a network. MakeIngress, a duty of the leader, creates the network that published ports use.
//
// Package service attaches services to networks. Package control is the only caller of this
// package, and the manager runs MakeIngress. Goroutines: those of a survey, which end with the
// call.
package network
