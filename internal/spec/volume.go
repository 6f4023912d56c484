package spec

import (
	"slices"
	"strings"

	"swarm/internal/ident"
	swarmv1 "swarm/proto/swarm/v1"
)

// LocalDriver is the name of the volume driver that every node has. A driver without a name is
// this one.
const LocalDriver = "local"

// VolumeTypes are the file systems that the local driver can mount, by its option "type". "none"
// stands for a bind mount, with the option o=bind.
func VolumeTypes() []string { return []string{"nfs", "nfs4", "cifs", "none", "tmpfs"} }

// IsSharedVolume reports whether the volume of a driver lies on a file server, so that all nodes
// that mount it see the same files.
func IsSharedVolume(d *swarmv1.Driver) bool {
	switch d.GetOptions()["type"] {
	case "nfs", "nfs4", "cifs":
		return true
	}
	return false
}

// IsNodeVolume reports whether a mount is of a volume with a name whose files are on one node.
func IsNodeVolume(m *swarmv1.Mount) bool {
	return m.GetType() == swarmv1.Mount_VOLUME && m.GetSource() != "" && !IsSharedVolume(m.GetVolumeOptions().GetDriverConfig())
}

// Volume returns an error if the name, the driver or the labels of a volume are not valid.
func Volume(v *swarmv1.Volume) error {
	return firstError(
		ident.CheckVolumeName(v.GetName()),
		checkLabels("volume", v.GetLabels()),
		CheckVolumeDriver("volume "+quote(v.GetName()), v.GetDriver()))
}

// CheckVolumeDriver returns an error if nodes do not have the driver, or the driver does not take
// its options. what names the volume for the error.
func CheckVolumeDriver(what string, d *swarmv1.Driver) error {
	if d.GetName() != "" && d.GetName() != LocalDriver {
		return invalid("%s asks for driver %s: nodes have only the driver local; leave the driver out", what, quote(d.GetName()))
	}
	for key := range d.GetOptions() {
		if key != "type" && key != "device" && key != "o" {
			return invalid("%s has the driver option %s: the driver local takes type, device and o", what, quote(key))
		}
	}
	if len(d.GetOptions()) == 0 {
		return nil
	}
	kind, device, o := d.GetOptions()["type"], d.GetOptions()["device"], d.GetOptions()["o"]
	switch {
	case kind == "":
		return invalid("%s has driver options without type: use type=%s", what, strings.Join(VolumeTypes(), ", type="))
	case !slices.Contains(VolumeTypes(), kind):
		return invalid("%s has the driver option type=%s: use %s", what, quote(kind), strings.Join(VolumeTypes(), ", "))
	case device == "":
		return invalid("%s has the driver option type=%s without device: say what to mount", what, kind)
	case kind == "none" && !slices.Contains(strings.Split(o, ","), "bind") && !slices.Contains(strings.Split(o, ","), "rbind"):
		return invalid("%s has the driver option type=none: it is for bind mounts, so add o=bind", what)
	case kind == "none" && !strings.HasPrefix(device, "/"):
		return invalid("%s binds device %s, which is not absolute: begin it with /", what, quote(device))
	}
	return nil
}

// ShownVolumeOptions returns options of the local driver without passwords.
func ShownVolumeOptions(options map[string]string) map[string]string {
	if len(options) == 0 {
		return nil
	}
	out := make(map[string]string, len(options))
	for key, value := range options {
		parts := strings.Split(value, ",")
		for i, p := range parts {
			if word, _, ok := strings.Cut(p, "="); ok && (word == "password" || word == "pass") {
				parts[i] = word + "=***"
			}
		}
		out[key] = strings.Join(parts, ",")
	}
	return out
}
