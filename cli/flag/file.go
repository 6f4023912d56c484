package flag

import (
	"fmt"
	"strconv"
	"strings"

	swarmv1 "swarm/proto/swarm/v1"
)

// parseFile parses a value of --secret or --config: NAME, or
// source=NAME,target=PATH,uid=ID,gid=ID,mode=0444. The default target is defaultTarget followed by
// the name.
func parseFile(s, defaultTarget string) (source string, file *swarmv1.FileTarget, err error) {
	file = &swarmv1.FileTarget{Uid: "0", Gid: "0", Mode: 0o444}
	if !strings.Contains(s, "=") && !strings.Contains(s, ",") {
		source = s
	} else {
		parts, err := fields(s)
		if err != nil {
			return "", nil, err
		}
		for _, part := range parts {
			key, value := KeyValue(part)
			switch strings.ToLower(key) {
			case "source", "src":
				source = value
			case "target":
				file.Name = value
			case "uid":
				file.Uid = value
			case "gid":
				file.Gid = value
			case "mode":
				mode, err := strconv.ParseUint(value, 0, 32)
				if err != nil || mode > 0o7777 {
					return "", nil, fmt.Errorf("mode=%s: use an octal number such as 0444", value)
				}
				file.Mode = uint32(mode)
			default:
				return "", nil, fmt.Errorf("unknown key %q: use source, target, uid, gid or mode", key)
			}
		}
	}
	if source == "" {
		return "", nil, fmt.Errorf("the name is missing: add source=NAME")
	}
	if file.Name == "" {
		file.Name = defaultTarget + source
	}
	return source, file, nil
}

// ParseSecret parses --secret: NAME, or source=NAME,target=PATH,uid=ID,gid=ID,mode=0444.
func ParseSecret(s string) (*swarmv1.SecretReference, error) {
	source, file, err := parseFile(s, "")
	if err != nil {
		return nil, err
	}
	return &swarmv1.SecretReference{SecretName: source, File: file}, nil
}

// ParseConfig parses --config, whose values are like those of --secret. The default folder of the
// file is /.
func ParseConfig(s string) (*swarmv1.ConfigReference, error) {
	source, file, err := parseFile(s, "/")
	if err != nil {
		return nil, err
	}
	return &swarmv1.ConfigReference{ConfigName: source, File: file}, nil
}
