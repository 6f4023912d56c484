package facts

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	swarmv1 "swarm/proto/swarm/v1"
)

// Of returns the facts in a description.
func Of(d *swarmv1.NodeDescription) *swarmv1.NodeFacts {
	return &swarmv1.NodeFacts{
		Platform: d.GetPlatform(), EngineLabels: d.GetEngine().GetLabels(), GenericResources: d.GetResources().GetGeneric(),
	}
}

// With returns a copy of a description that has other facts.
func With(d *swarmv1.NodeDescription, f *swarmv1.NodeFacts) *swarmv1.NodeDescription {
	out := d.CloneVT()
	if out == nil {
		out = &swarmv1.NodeDescription{}
	}
	f = f.CloneVT()
	out.Platform = f.GetPlatform()
	if out.Engine == nil && len(f.GetEngineLabels()) > 0 {
		out.Engine = &swarmv1.EngineDescription{}
	}
	if out.Engine != nil {
		out.Engine.Labels = f.GetEngineLabels()
	}
	if out.Resources == nil && len(f.GetGenericResources()) > 0 {
		out.Resources = &swarmv1.Resources{}
	}
	if out.Resources != nil {
		out.Resources.Generic = f.GetGenericResources()
	}
	return out
}

// Hold returns the description that may be stored after a node has reported one: it has the facts
// of the stored description. pending has the reported facts, and is nil if they are the same.
func Hold(stored, reported *swarmv1.NodeDescription) (description *swarmv1.NodeDescription, pending *swarmv1.NodeFacts) {
	accepted, now := Of(stored), Of(reported)
	if len(Changes(accepted, now)) > 0 {
		pending = now.CloneVT()
	}
	return With(reported, accepted), pending
}

// Changes returns what differs between accepted and pending facts, one line each in a fixed order:
// "engine label disk=ssd (was disk=hdd)". It returns nothing if the facts are the same. The order
// of resources does not count.
func Changes(accepted, pending *swarmv1.NodeFacts) []string {
	var out []string
	if a, p := platform(accepted.GetPlatform()), platform(pending.GetPlatform()); a != p {
		out = append(out, fmt.Sprintf("platform %s (was %s)", p, a))
	}
	old, now := accepted.GetEngineLabels(), pending.GetEngineLabels()
	keys := maps.Clone(old)
	if keys == nil {
		keys = map[string]string{}
	}
	maps.Copy(keys, now)
	for _, k := range slices.Sorted(maps.Keys(keys)) {
		was, had := old[k]
		is, has := now[k]
		switch {
		case !had:
			out = append(out, fmt.Sprintf("engine label %s=%s (new)", k, is))
		case !has:
			out = append(out, fmt.Sprintf("engine label %s=%s (removed)", k, was))
		case is != was:
			out = append(out, fmt.Sprintf("engine label %s=%s (was %s=%s)", k, is, k, was))
		}
	}
	if a, p := Resources(accepted.GetGenericResources()), Resources(pending.GetGenericResources()); a != p {
		out = append(out, fmt.Sprintf("generic resources %s (was %s)", orNone(p), orNone(a)))
	}
	return out
}

// Resources returns generic resources as users write them, in the order of their text:
// "gpu=a,gpu=b,ssd=3".
func Resources(all []*swarmv1.GenericResource) string {
	var out []string
	for _, r := range all {
		if r.GetNamed() != "" {
			out = append(out, r.GetKind()+"="+r.GetNamed())
			continue
		}
		out = append(out, fmt.Sprintf("%s=%d", r.GetKind(), r.GetValue()))
	}
	slices.Sort(out)
	return strings.Join(out, ",")
}

// platform returns a platform as OS/ARCHITECTURE[/VARIANT].
func platform(p *swarmv1.Platform) string {
	if p.GetOs() == "" && p.GetArchitecture() == "" && p.GetVariant() == "" {
		return "none"
	}
	text := p.GetOs() + "/" + p.GetArchitecture()
	if p.GetVariant() != "" {
		text += "/" + p.GetVariant()
	}
	return text
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}
