//go:build linux

package dataplane

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"swarm/overlay/bridge"
	"swarm/overlay/plane"
	"swarm/overlay/resolve"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/worker/engine"
)

// use returns one network of a task.
func use(driver string, edit func(*swarmv1.NetworkSpec), addresses ...string) engine.NetworkUse {
	spec := &swarmv1.NetworkSpec{Name: "net", DriverConfig: &swarmv1.Driver{Name: driver}}
	if edit != nil {
		edit(spec)
	}
	return engine.NetworkUse{Network: &swarmv1.Network{Id: "n", Spec: spec}, Use: &swarmv1.NetworkAttachment{Addresses: addresses}}
}

// The networks of a task decide which interfaces it gets, and whether it can open connections to
// the outside.
func TestPlaneAttachment_Interfaces(t *testing.T) {
	internal := func(s *swarmv1.NetworkSpec) { s.Internal = true }
	hostAccess := func(s *swarmv1.NetworkSpec) { s.HostAccess = true }
	for name, tc := range map[string]struct {
		networks                       []engine.NetworkUse
		overlays                       int
		onBridge, noEgress, hostAccess bool
	}{
		"no network":               {nil, 0, false, true, false},
		"none":                     {[]engine.NetworkUse{use(engine.DriverNone, nil)}, 0, false, true, false},
		"bridge":                   {[]engine.NetworkUse{use(engine.DriverBridge, nil)}, 0, true, false, false},
		"overlay":                  {[]engine.NetworkUse{use(engine.DriverOverlay, nil, "10.0.1.2/24")}, 1, true, false, false},
		"internal overlay":         {[]engine.NetworkUse{use(engine.DriverOverlay, internal)}, 1, true, true, false},
		"internal first, then not": {[]engine.NetworkUse{use(engine.DriverOverlay, internal), use(engine.DriverOverlay, nil)}, 2, true, false, false},
		"internal last":            {[]engine.NetworkUse{use(engine.DriverOverlay, nil), use(engine.DriverOverlay, internal)}, 2, true, false, false},
		"internal and bridge":      {[]engine.NetworkUse{use(engine.DriverOverlay, internal), use(engine.DriverBridge, nil)}, 1, true, false, false},
		"bridge and internal":      {[]engine.NetworkUse{use(engine.DriverBridge, nil), use(engine.DriverOverlay, internal)}, 1, true, false, false},
		"internal and none":        {[]engine.NetworkUse{use(engine.DriverOverlay, internal), use(engine.DriverNone, nil)}, 1, true, true, false},
		"host access of one":       {[]engine.NetworkUse{use(engine.DriverOverlay, hostAccess), use(engine.DriverOverlay, nil)}, 2, true, false, true},
	} {
		got, err := planeAttachment(engine.Attachment{TaskID: "t", Networks: tc.networks})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if len(got.Overlays) != tc.overlays || got.OnBridge != tc.onBridge || got.NoEgress != tc.noEgress || got.HostAccess != tc.hostAccess {
			t.Errorf("%s: got %d overlays, onBridge=%t noEgress=%t hostAccess=%t, want %+v",
				name, len(got.Overlays), got.OnBridge, got.NoEgress, got.HostAccess, tc)
		}
	}
}

func TestPlaneAttachment_Refuses(t *testing.T) {
	for name, tc := range map[string]struct {
		a    engine.Attachment
		want string
	}{
		"driver":       {engine.Attachment{Networks: []engine.NetworkUse{use("macvlan", nil)}}, `network net: driver "macvlan" is not known here`},
		"address":      {engine.Attachment{Networks: []engine.NetworkUse{use(engine.DriverOverlay, nil, "10.0.1.2")}}, `network net: address "10.0.1.2"`},
		"host address": {engine.Attachment{Ports: []*swarmv1.PortConfig{{PublishedPort: 80, HostIp: "here"}}}, "published port 80: host address"},
	} {
		_, err := planeAttachment(tc.a)
		if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: got %v, want ErrInvalidArgument with %q", name, err, tc.want)
		}
	}
}

// The name server must not get its own address as an upstream, and skips what is no address.
func TestPlaneAttachment_Upstreams(t *testing.T) {
	got, err := planeAttachment(engine.Attachment{Upstreams: []string{"192.0.2.53", resolve.Address, "dns.example", "2001:db8::53"}, SearchFirst: true})
	if err != nil {
		t.Fatal(err)
	}
	want := []netip.Addr{netip.MustParseAddr("192.0.2.53"), netip.MustParseAddr("2001:db8::53")}
	if diff := cmp.Diff(want, got.Upstreams, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" || !got.SearchFirst {
		t.Errorf("SearchFirst=%t\n%s", got.SearchFirst, diff)
	}
}

// fakePlane answers every Attach with result, and records what it was asked.
type fakePlane struct {
	result   bridge.Result
	err      error
	asked    plane.Attachment
	detached string
	existing []plane.Existing
}

func (f *fakePlane) Attach(_ context.Context, a plane.Attachment) (bridge.Result, error) {
	f.asked = a
	return f.result, f.err
}

func (f *fakePlane) Detach(_ context.Context, taskID string) error {
	f.detached = taskID
	return f.err
}

func (f *fakePlane) Restore(_ context.Context, keep []plane.Existing) error {
	f.existing = keep
	return f.err
}

// A task on overlay networks is known by its addresses there. Those on the bridge network are
// local.
func TestTaskNetwork_Attach(t *testing.T) {
	result := bridge.Result{
		Netns: "/run/ns", Address: netip.MustParsePrefix("172.30.0.2/16"), Address6: netip.MustParsePrefix("fd53::2/64"),
		Ports: []bridge.Port{{Published: 30000, Target: 80, Protocol: "udp"}},
	}
	port := &swarmv1.PortConfig{TargetPort: 80, Protocol: swarmv1.PortConfig_UDP}
	chosen := &swarmv1.PortConfig{TargetPort: 80, PublishedPort: 30000, Protocol: swarmv1.PortConfig_UDP}
	local := []string{"172.30.0.2/16", "fd53::2/64"}
	for name, tc := range map[string]struct {
		network engine.NetworkUse
		want    engine.Attached
	}{
		"bridge": {use(engine.DriverBridge, nil), engine.Attached{Netns: "/run/ns", Addresses: local, Ports: []*swarmv1.PortConfig{chosen}}},
		"overlay": {use(engine.DriverOverlay, nil, "10.0.1.2/24"), engine.Attached{
			Netns: "/run/ns", Addresses: []string{"10.0.1.2/24"}, Local: local, Nameservers: []string{resolve.Address}, Ports: []*swarmv1.PortConfig{chosen},
		}},
	} {
		f := &fakePlane{result: result}
		asked := engine.Attachment{TaskID: "t", Networks: []engine.NetworkUse{tc.network}, Ports: []*swarmv1.PortConfig{port}}
		got, err := taskNetwork{f}.Attach(t.Context(), asked)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if diff := cmp.Diff(tc.want, got, protocmp.Transform()); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		if port.PublishedPort != 0 {
			t.Fatalf("%s: Attach has changed the worker's port", name)
		}
		if f.asked.TaskID != "t" || f.asked.Ports[0].Protocol != "udp" {
			t.Errorf("%s: asked the plane for %+v", name, f.asked)
		}
		// After a restart, the plane gets the result that it gave.
		asked.Held = got
		if err := (taskNetwork{f}).Restore(t.Context(), []engine.Attachment{asked}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		back := f.existing[0].Result
		if back.Netns != result.Netns || back.Address != result.Address || back.Address6 != result.Address6 || back.Ports[0] != result.Ports[0] {
			t.Errorf("%s: restored as %+v, want %+v", name, back, result)
		}
	}
}

func TestTaskNetwork_PassesErrorsOn(t *testing.T) {
	f := &fakePlane{err: errdefs.ErrAlreadyExists}
	_, err := taskNetwork{f}.Attach(t.Context(), engine.Attachment{TaskID: "t"})
	if !errors.Is(err, f.err) {
		t.Errorf("Attach: got %v", err)
	}
	if err := (taskNetwork{f}).Detach(t.Context(), "t"); !errors.Is(err, f.err) || f.detached != "t" {
		t.Errorf("Detach %q: got %v", f.detached, err)
	}
	err = taskNetwork{f}.Restore(t.Context(), []engine.Attachment{{TaskID: "t7", Held: engine.Attached{Addresses: []string{"nowhere"}}}})
	if err == nil || !strings.Contains(err.Error(), "task t7: ") || f.existing != nil {
		t.Errorf("Restore: got %v, and asked the plane for %v", err, f.existing)
	}
}
