package flag

import (
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"

	"github.com/docker/go-units"

	swarmv1 "swarm/proto/swarm/v1"
)

// ParseUlimit parses --ulimit: NAME=SOFT[:HARD]. Without a hard limit it is the soft one.
func ParseUlimit(s string) (*swarmv1.Ulimit, error) {
	const hint = "use NAME=SOFT[:HARD], such as nofile=1024:2048"
	u, err := units.ParseUlimit(s)
	var number *strconv.NumError
	switch {
	case errors.As(err, &number):
		return nil, fmt.Errorf("%q is not a whole number: %s", number.Num, hint)
	case err != nil && strings.HasPrefix(err.Error(), "invalid ulimit type"):
		name, _ := KeyValue(s)
		return nil, fmt.Errorf("there is no limit %q: %s", name, hint)
	case err != nil && strings.Contains(err.Error(), "less than or equal"):
		return nil, fmt.Errorf("the soft limit is above the hard one: %s", hint)
	case err != nil:
		return nil, errors.New(hint)
	}
	return &swarmv1.Ulimit{Name: u.Name, Soft: u.Soft, Hard: u.Hard}, nil
}

// ParseGeneric parses --generic-resource: KIND=AMOUNT with an amount of at least 1, or KIND=NAME
// for a resource that has names.
func ParseGeneric(s string) (*swarmv1.GenericResource, error) {
	kind, value, ok := strings.Cut(s, "=")
	if !ok || kind == "" || value == "" {
		return nil, fmt.Errorf("use KIND=AMOUNT, such as gpu=1")
	}
	if n, err := strconv.ParseInt(value, 10, 64); err == nil {
		if n < 1 {
			return nil, fmt.Errorf("an amount is at least 1")
		}
		return &swarmv1.GenericResource{Kind: kind, Value: n}, nil
	}
	return &swarmv1.GenericResource{Kind: kind, Named: value}, nil
}

// ParseDevice parses --device: /dev/HOST[:/dev/CONTAINER[:rwm]]. By default the path in the
// container is the path on the host, and all accesses are allowed.
func ParseDevice(s string) (*swarmv1.DeviceMapping, error) {
	d := &swarmv1.DeviceMapping{CgroupPermissions: "rwm"}
	parts := strings.Split(s, ":")
	d.PathOnHost, d.PathInContainer = parts[0], parts[0]
	rest := parts[1:]
	if n := len(rest); n > 0 && rest[n-1] != "" && strings.Trim(rest[n-1], "rwm") == "" {
		d.CgroupPermissions, rest = rest[n-1], rest[:n-1]
	}
	if len(rest) > 0 {
		d.PathInContainer = rest[0]
	}
	if len(rest) > 1 || !path.IsAbs(d.PathOnHost) || !path.IsAbs(d.PathInContainer) {
		return nil, fmt.Errorf("use /dev/HOST[:/dev/CONTAINER[:rwm]]")
	}
	return d, nil
}
