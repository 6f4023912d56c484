package flag

import (
	"fmt"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/docker/go-units"

	"swarm/cli/term"
	swarmv1 "swarm/proto/swarm/v1"
)

// ParseMount parses --mount: type=,source=,target=,readonly and the options of the type. A source
// that begins with "." is made absolute. It returns an error for a mount that no node could make.
func ParseMount(s string) (*swarmv1.Mount, error) {
	parts, err := fields(s)
	if err != nil {
		return nil, err
	}
	m := &swarmv1.Mount{Type: swarmv1.Mount_VOLUME}
	for _, part := range parts {
		key, value := KeyValue(part)
		if err := mountField(m, strings.ToLower(strings.TrimSpace(key)), value); err != nil {
			return nil, err
		}
	}
	return m, checkMount(m)
}

func mountField(m *swarmv1.Mount, key, value string) (err error) {
	switch key {
	case "type":
		n, ok := swarmv1.Mount_Type_value[strings.ToUpper(value)]
		if !ok {
			return fmt.Errorf("unknown type %q: use bind, volume or tmpfs", value)
		}
		m.Type = swarmv1.Mount_Type(n)
	case "source", "src":
		m.Source = value
		if strings.HasPrefix(value, "."+string(filepath.Separator)) || value == "." {
			if m.Source, err = filepath.Abs(value); err != nil {
				return err
			}
		}
	case "target", "dst", "destination":
		m.Target = value
	case "readonly", "ro":
		m.ReadOnly, err = parseBool(key, value)
	case "consistency": // Docker Desktop has it; it has no effect on Linux.
	default:
		switch {
		case strings.HasPrefix(key, "bind-"):
			return bindField(m, key, value)
		case strings.HasPrefix(key, "volume-"):
			return volumeField(m, key, value)
		case strings.HasPrefix(key, "tmpfs-"):
			return tmpfsField(m, key, value)
		}
		return fmt.Errorf("unknown key %q: use type, source, target, readonly, or an option that begins with bind-, volume- or tmpfs-", key)
	}
	return err
}

var propagations = []string{"private", "rprivate", "shared", "rshared", "slave", "rslave"}

func bindField(m *swarmv1.Mount, key, value string) (err error) {
	if m.BindOptions == nil {
		m.BindOptions = &swarmv1.BindOptions{}
	}
	b := m.BindOptions
	switch key {
	case "bind-propagation":
		if !slices.Contains(propagations, value) {
			return fmt.Errorf("unknown propagation %q: use one of %s", value, strings.Join(propagations, ", "))
		}
		b.Propagation = value
	case "bind-nonrecursive":
		b.NonRecursive, err = parseBool(key, value)
	case "bind-recursive":
		switch value {
		case "enabled":
			b.NonRecursive = false
		case "disabled":
			b.NonRecursive = true
		default:
			return fmt.Errorf("bind-recursive=%s: use enabled or disabled", value)
		}
	case "bind-create-mountpoint", "bind-create-src":
		b.CreateMountpoint, err = parseBool(key, value)
	default:
		return fmt.Errorf("unknown key %q: use bind-propagation, bind-recursive, bind-nonrecursive or bind-create-mountpoint", key)
	}
	return err
}

func volumeField(m *swarmv1.Mount, key, value string) (err error) {
	if m.VolumeOptions == nil {
		m.VolumeOptions = &swarmv1.VolumeOptions{}
	}
	v := m.VolumeOptions
	driver := func() *swarmv1.Driver {
		if v.DriverConfig == nil {
			v.DriverConfig = &swarmv1.Driver{}
		}
		return v.DriverConfig
	}
	switch key {
	case "volume-nocopy":
		v.NoCopy, err = parseBool(key, value)
	case "volume-subpath":
		v.Subpath = value
	case "volume-label":
		if v.Labels == nil {
			v.Labels = map[string]string{}
		}
		k, val := KeyValue(value)
		v.Labels[k] = val
	case "volume-driver":
		driver().Name = value
	case "volume-opt":
		d := driver()
		if d.Options == nil {
			d.Options = map[string]string{}
		}
		k, val := KeyValue(value)
		d.Options[k] = val
	default:
		return fmt.Errorf("unknown key %q: use volume-nocopy, volume-subpath, volume-label, volume-driver or volume-opt", key)
	}
	return err
}

func tmpfsField(m *swarmv1.Mount, key, value string) error {
	if m.TmpfsOptions == nil {
		m.TmpfsOptions = &swarmv1.TmpfsOptions{}
	}
	t := m.TmpfsOptions
	switch key {
	case "tmpfs-size":
		n, err := units.RAMInBytes(value)
		if err != nil || n < 0 {
			return fmt.Errorf("tmpfs-size=%s: use a number of bytes with an optional unit: b, k, m or g", value)
		}
		t.SizeBytes = n
	case "tmpfs-mode":
		n, err := strconv.ParseUint(value, 8, 32)
		if err != nil || n > 0o7777 {
			return fmt.Errorf("tmpfs-mode=%s: use an octal number such as 1777", value)
		}
		t.Mode = uint32(n)
	case "tmpfs-opt", "tmpfs-options":
		t.Options = append(t.Options, value)
	default:
		return fmt.Errorf("unknown key %q: use tmpfs-size, tmpfs-mode or tmpfs-opt", key)
	}
	return nil
}

func checkMount(m *swarmv1.Mount) error {
	kind := term.EnumWord(m.Type)
	switch {
	case m.Target == "":
		return fmt.Errorf("the path in the container is missing: add target=PATH")
	case !path.IsAbs(m.Target):
		return fmt.Errorf("target %q is not an absolute path", m.Target)
	case path.Clean(m.Target) == "/":
		return fmt.Errorf("target / is the whole container: mount at a folder below it")
	case m.Type == swarmv1.Mount_BIND && m.Source == "":
		return fmt.Errorf("a bind mount needs source=PATH on the host")
	case m.Type == swarmv1.Mount_BIND && !path.IsAbs(m.Source):
		return fmt.Errorf("source %q of a bind mount is not an absolute path (a volume is type=volume)", m.Source)
	case m.Type == swarmv1.Mount_VOLUME && strings.Contains(m.Source, "/"):
		return fmt.Errorf("source %q is not a volume's name (a path is type=bind)", m.Source)
	case m.Type == swarmv1.Mount_TMPFS && m.Source != "":
		return fmt.Errorf("a tmpfs mount has no source")
	case m.Type == swarmv1.Mount_IMAGE:
		return fmt.Errorf("nodes cannot mount images yet: use bind, volume or tmpfs")
	case m.BindOptions != nil && m.Type != swarmv1.Mount_BIND:
		return fmt.Errorf("bind-* options do not belong to type=%s", kind)
	case m.VolumeOptions != nil && m.Type != swarmv1.Mount_VOLUME:
		return fmt.Errorf("volume-* options do not belong to type=%s", kind)
	case m.TmpfsOptions != nil && m.Type != swarmv1.Mount_TMPFS:
		return fmt.Errorf("tmpfs-* options do not belong to type=%s", kind)
	}
	return nil
}
