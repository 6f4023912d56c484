// Package eventplace is what managers and clients both know of watching events: the places in the
// sequence of changes, as the headers of a watch have them, and the filters.
package eventplace

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc/metadata"
)

// Scope is the scope of all events.
const Scope = "swarm"

// Keys are the keys of filters, Types the types of events, and Actions their actions. The types
// revision, endpoint and image_copy are details, which are sent only if they are asked for.
var (
	Keys = []string{
		"type", "event", "action", "scope", "service", "node", "task", "container", "network", "image", "secret", "config", "volume",
		"id", "name", "label",
	}
	Types = []string{
		"node", "service", "task", "container", "network", "secret", "config", "volume", "image", "run", "cluster", "credential",
		"revision", "endpoint", "image_copy",
	}
	Actions = []string{"create", "update", "remove", "start", "die"}
)

// CheckFilter returns ErrInvalidArgument if there is no such key, or if no event has the value.
func CheckFilter(key, value string) error {
	known := func(what string, list []string) error {
		if slices.Contains(list, value) {
			return nil
		}
		return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("unknown %s %q: use one of %s", what, value, strings.Join(list, ", ")))
	}
	switch {
	case !slices.Contains(Keys, key):
		return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("unknown filter %q: use one of %s", key, strings.Join(Keys, ", ")))
	case key == "type":
		return known("type", Types)
	case key == "event" || key == "action":
		return known("event", Actions)
	case key == "scope":
		return known("scope", []string{Scope, "local"})
	}
	return nil
}

// The keys of a header.
const (
	indexKey      = "swarm-event-index"
	partKey       = "swarm-event-part"
	incompleteKey = "swarm-events-incomplete"
)

// Header returns the header of a watch that begins after a place.
func Header(index uint64, part uint32) metadata.MD {
	return metadata.Pairs(indexKey, strconv.FormatUint(index, 10), partKey, strconv.FormatUint(uint64(part), 10))
}

// SetIncomplete notes in a header that the manager knows only events after the place.
func SetIncomplete(h metadata.MD) { h.Set(incompleteKey, "1") }

// Parse returns the place in a header, and whether the manager knows only events after it. It
// returns zeros for a header without a place.
func Parse(h metadata.MD) (index uint64, part uint32, incomplete bool) {
	first := func(key string) uint64 {
		values := h.Get(key)
		if len(values) == 0 {
			return 0
		}
		n, _ := strconv.ParseUint(values[0], 10, 64) // A header of another form counts as none.
		return n
	}
	return first(indexKey), uint32(first(partKey)), first(incompleteKey) > 0
}
