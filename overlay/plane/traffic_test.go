//go:build linux

package plane

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseDev(t *testing.T) {
	got := parseDev([]byte(`Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:       0       0    0    0    0     0          0         0        0       0    0    0    0     0       0          0
  eth0: 1234567     890    0    1    0     0          0         0   765432     100    0    2    0     0       0          0
`))
	want := map[string][2]Count{"lo": {}, "eth0": {{1234567, 890, 1}, {765432, 100, 2}}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

func TestParseSNMP(t *testing.T) {
	got := parseSNMP([]byte("Ip: Forwarding\nIp: 1\nTcp: RtoMax MaxConn ActiveOpens PassiveOpens CurrEstab\nTcp: 120000 -1 7 9 3\n"), "Tcp")
	want := map[string]uint64{"RtoMax": 120000, "MaxConn": 0, "ActiveOpens": 7, "PassiveOpens": 9, "CurrEstab": 3}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}
