package bounds

import (
	"maps"
	"net/netip"
	"slices"

	swarmv1 "swarm/proto/swarm/v1"
)

const (
	// MaxDescription is the largest description that Description returns, in bytes. A list of nodes
	// has one description for each node.
	MaxDescription = 128 << 10
	// maxRawDescription limits a description before it is cleaned, in bytes. No honest worker has a
	// larger one, even on a large host.
	maxRawDescription = 256 << 10

	// MaxLabels, MaxLabelKey and MaxLabelValue bound the engine labels of a node: how many, and the
	// bytes of a key and of a value.
	MaxLabels     = 64
	MaxLabelKey   = maxWord
	MaxLabelValue = maxValue

	maxWord      = 128 // the length of a version, an architecture or the kind of a resource
	maxReason    = 256
	maxTrouble   = 1 << 10
	maxValue     = 256
	maxPlugins   = 64
	maxBuilds    = 32
	maxGeneric   = 64
	maxRoutes    = 256
	maxConflicts = 64
	maxIdentity  = 4 << 10 // the length of the subject or key of a certificate

	// Larger resources are cut to these values. The sum over many nodes and tasks then stays far
	// below the range of int64.
	maxCPUs   = 1 << 16
	maxMemory = 1 << 50
	maxAmount = 1 << 40

	// Larger address ranges are ignored, because no network could avoid them: they cover most
	// addresses of a family, or more than the default address pool.
	minRoute4, minRoute6 = 8, 16
)

// Description returns the part of the description of a worker that may be stored. hostname is the
// name with which the node joined; it replaces the hostname in the description. The result has at
// most MaxDescription bytes.
func Description(d *swarmv1.NodeDescription, hostname string) *swarmv1.NodeDescription {
	out := &swarmv1.NodeDescription{
		Hostname: Text(hostname, maxValue), Platform: platform(d.GetPlatform()), Resources: resources(d.GetResources()),
		Engine: engine(d.GetEngine()), Unavailable: Text(d.GetUnavailable(), maxTrouble), Routed: routes(d.GetRouted()),
		PortConflicts: pick(d.GetPortConflicts(), maxConflicts, conflict),
	}
	if t := d.GetTlsInfo(); t != nil && len(t.GetTrustRoot()) <= maxIdentity && len(t.GetCertIssuerSubject()) <= maxIdentity && len(t.GetCertIssuerPublicKey()) <= maxIdentity {
		out.TlsInfo = &swarmv1.TLSInfo{
			TrustRoot: t.GetTrustRoot(), CertIssuerSubject: t.GetCertIssuerSubject(), CertIssuerPublicKey: t.GetCertIssuerPublicKey(),
		}
	}
	return out
}

func platform(p *swarmv1.Platform) *swarmv1.Platform {
	if p == nil {
		return nil
	}
	return &swarmv1.Platform{
		Architecture: Text(p.GetArchitecture(), maxWord), Os: Text(p.GetOs(), maxWord), Variant: Text(p.GetVariant(), maxWord),
	}
}

func resources(r *swarmv1.Resources) *swarmv1.Resources {
	if r == nil {
		return nil
	}
	return &swarmv1.Resources{
		NanoCpus: within(r.GetNanoCpus(), maxCPUs*1e9), MemoryBytes: within(r.GetMemoryBytes(), maxMemory),
		Generic: pick(r.GetGeneric(), maxGeneric, func(g *swarmv1.GenericResource) (*swarmv1.GenericResource, bool) {
			g = &swarmv1.GenericResource{Kind: Text(g.GetKind(), maxWord), Value: within(g.GetValue(), maxAmount), Named: Text(g.GetNamed(), maxWord)}
			return g, g.Kind != ""
		}),
	}
}

func within(n, limit int64) int64 { return max(0, min(n, limit)) }

func engine(e *swarmv1.EngineDescription) *swarmv1.EngineDescription {
	if e == nil {
		return nil
	}
	return &swarmv1.EngineDescription{
		EngineVersion: Text(e.GetEngineVersion(), maxWord), KernelVersion: Text(e.GetKernelVersion(), maxWord),
		RuntimeVersion: Text(e.GetRuntimeVersion(), maxWord), Build: Text(e.GetBuild(), maxWord), Labels: labels(e.GetLabels()),
		Plugins: pick(e.GetPlugins(), maxPlugins, func(p *swarmv1.PluginDescription) (*swarmv1.PluginDescription, bool) {
			p = &swarmv1.PluginDescription{Type: Text(p.GetType(), maxWord), Name: Text(p.GetName(), maxWord)}
			return p, p.Name != ""
		}),
		Builds: pick(e.GetBuilds(), maxBuilds, func(b *swarmv1.RunningBuild) (*swarmv1.RunningBuild, bool) {
			return &swarmv1.RunningBuild{Part: Text(b.GetPart(), maxWord), Build: Text(b.GetBuild(), maxWord)}, true
		}),
	}
}

// labels returns the first MaxLabels labels in the order of their keys.
func labels(in map[string]string) map[string]string {
	if len(in) == 0 {
		return nil
	}
	out := make(map[string]string, min(len(in), MaxLabels))
	for _, key := range slices.Sorted(maps.Keys(in)) {
		if len(out) == MaxLabels {
			break
		}
		if clean := Text(key, MaxLabelKey); clean == key && key != "" {
			out[key] = Text(in[key], MaxLabelValue)
		}
	}
	return out
}

// routes returns the address ranges that new networks must avoid, without duplicates.
func routes(in []string) []string {
	seen := make(map[string]bool)
	return pick(in, maxRoutes, func(s string) (string, bool) {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return "", false
		}
		least := minRoute6
		if p.Addr().Is4() {
			least = minRoute4
		}
		s = p.Masked().String()
		ok := p.Bits() >= least && !seen[s]
		seen[s] = seen[s] || ok
		return s, ok
	})
}

func conflict(c *swarmv1.PortConflict) (*swarmv1.PortConflict, bool) {
	_, known := swarmv1.PortConflict_Kind_name[int32(c.GetKind())]
	protocols := []string{"tcp", "udp", "sctp"}
	ok := known && isPort(c.GetPort()) && slices.Contains(protocols, c.GetProtocol()) && (c.GetAddress() == "" || isAddr(c.GetAddress()))
	if !ok {
		return nil, false
	}
	return &swarmv1.PortConflict{
		Port: c.GetPort(), Protocol: c.GetProtocol(), Reason: Text(c.GetReason(), maxReason), Address: c.GetAddress(), Kind: c.GetKind(),
	}, true
}

func isPort(n uint32) bool { return n > 0 && n < 1<<16 }

func isAddr(s string) bool {
	a, err := netip.ParseAddr(s)
	return err == nil && a.Zone() == ""
}
