package daemon

import (
	"strings"

	"swarm/cli/flag"
	"swarm/cli/usage"
	"swarm/internal/bounds"
)

// reservedLabels are namespaces that Docker keeps for itself, and refuses for labels of a daemon.
var reservedLabels = []string{"com.docker.", "io.docker.", "org.dockerproject."}

// engineLabels returns the labels of the flag --label, which are KEY=VALUE, or nil if there are
// none. It refuses what dockerd refuses, and labels that the managers would leave out or cut.
func engineLabels(values []string) (map[string]string, error) {
	var out map[string]string
	for _, label := range values {
		key, value := flag.KeyValue(label)
		switch old, double := out[key]; {
		case double && old != value:
			return nil, usage.Invalidf("--label %s: %s=%s is given too: use each key once", label, key, old)
		case strings.ContainsAny(key, " \t\r\n"):
			return nil, usage.Invalidf("--label %q: the key has blanks: use KEY=VALUE", label)
		case len(key) > bounds.MaxLabelKey:
			return nil, usage.Invalidf("--label %.20s...: the key has %d bytes, at most %d are allowed", label, len(key), bounds.MaxLabelKey)
		case len(value) > bounds.MaxLabelValue:
			return nil, usage.Invalidf("--label %.20s...: the value has %d bytes, at most %d are allowed", label, len(value), bounds.MaxLabelValue)
		case bounds.Text(label, len(label)) != label:
			return nil, usage.Invalidf("--label %q: it has characters that cannot be shown in one line: leave them away", label)
		}
		for _, namespace := range reservedLabels {
			if strings.HasPrefix(strings.ToLower(key), namespace) {
				return nil, usage.Invalidf("--label %s: keys that begin with %s are reserved, as in Docker: use another key", label, namespace)
			}
		}
		if out == nil {
			out = map[string]string{}
		}
		out[key] = value
	}
	if len(out) > bounds.MaxLabels {
		return nil, usage.Invalidf("--label: there are %d labels, at most %d are allowed", len(out), bounds.MaxLabels)
	}
	return out, nil
}
