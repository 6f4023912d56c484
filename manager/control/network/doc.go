// Package network serves the RPCs of networks: create, list, inspect, compare with what the nodes
// have (SurveyNetwork), remove and prune. It chooses the subnets and the VXLAN network identifier
// of a network. MakeIngress, a duty of the leader, creates the network that published ports use.
//
// It refuses to attach services: that is the service's. Package control is its only caller, and the
// manager runs MakeIngress. Goroutines: those of a survey, which end with the call.
package network
