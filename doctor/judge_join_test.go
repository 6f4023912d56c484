package doctor

import "testing"

func TestJudgeJoin(t *testing.T) {
	way := func(network string, port uint16, in bool, reason string) Way {
		return Way{Network: network, Port: port, In: in, Reason: reason}
	}
	manager := func(ways ...Way) Node { return Node{Name: "node1", Address: "10.0.0.1", Ways: ways} }
	for name, test := range map[string]struct {
		give Node
		want string
	}{
		"well": {manager(way("tcp", 2377, true, ""), way("udp", 4789, false, "")), ""},
		"one in": {
			manager(way("tcp", 2377, true, ""), way("udp", 4789, true, "no packet came")),
			"manager node1 (10.0.0.1) does not reach port 4789/udp of this host at 10.0.0.2: accept it in the firewall of this host, and in those of the network between, such as security groups (no packet came)",
		},
		"two out": {
			manager(way("tcp", 2377, true, ""), way("tcp", 7946, false, "refused"), way("udp", 7946, false, "no packet came")),
			"this host does not reach ports 7946/tcp and 7946/udp of manager node1 (10.0.0.1): accept them in the firewall of node1, and in those of the network between, such as security groups (refused, no packet came)",
		},
		"both": {
			manager(way("tcp", 2377, true, ""), way("udp", 4789, false, "no packet came"), way("udp", 4789, true, "no packet came")),
			"manager node1 (10.0.0.1) does not reach port 4789/udp of this host at 10.0.0.2: accept it in the firewall of this host; this host does not reach port 4789/udp of manager node1 (10.0.0.1): accept it in the firewall of node1, and in those of the network between, such as security groups (no packet came)",
		},
		"wrong address": {
			manager(way("tcp", 2377, true, "no answer"), way("udp", 4789, true, "no packet came"), way("tcp", 7946, false, "")),
			"manager node1 (10.0.0.1) reaches this host at 10.0.0.2 by none of its ports (ports 2377/tcp and 4789/udp): if that is not the address by which other nodes reach this host, name it with --advertise-addr; else accept them in the firewall of this host, and in those of the network between, such as security groups (no answer, no packet came)",
		},
	} {
		if got := JudgeJoin(test.give, "10.0.0.2"); got != test.want {
			t.Errorf("%s:\ngot  %s\nwant %s", name, got, test.want)
		}
	}
}
