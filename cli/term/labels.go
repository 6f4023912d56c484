package term

import (
	"maps"
	"slices"
	"strings"
)

// JoinPairs returns a map as docker prints labels in a cell: "a=1,b=2", sorted by key.
func JoinPairs(m map[string]string) string {
	var out []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		out = append(out, k+"="+m[k])
	}
	return strings.Join(out, ",")
}
