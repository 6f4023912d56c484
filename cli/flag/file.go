package flag

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/google/shlex"
	"google.golang.org/protobuf/types/known/durationpb"

	swarmv1 "swarm/proto/swarm/v1"
)

// parseReference parses a value of --secret or --config: NAME, NAME@VERSION, or
// source=NAME[@VERSION],target=PATH,uid=ID,gid=ID,mode=0444,on-update=ACTION,keep-previous=TIME.
// The default target is defaultTarget followed by the name.
func parseReference(s, defaultTarget string) (*swarmv1.DataReference, error) {
	ref := &swarmv1.DataReference{File: &swarmv1.FileTarget{Uid: "0", Gid: "0", Mode: 0o444}}
	source := s
	if strings.ContainsAny(s, "=,") {
		parts, err := fields(s)
		if err != nil {
			return nil, err
		}
		source = ""
		for _, part := range parts {
			key, value := KeyValue(part)
			if strings.EqualFold(key, "source") || strings.EqualFold(key, "src") {
				source = value
			} else if err := setReference(ref, key, value); err != nil {
				return nil, err
			}
		}
	}
	if err := setSource(ref, source); err != nil {
		return nil, err
	}
	if ref.File.Name == "" {
		ref.File.Name = defaultTarget + ref.Name
	}
	return ref, nil
}

// setSource sets what a reference refers to: NAME, or NAME@VERSION.
func setSource(ref *swarmv1.DataReference, source string) error {
	name, version, pinned := strings.Cut(source, "@")
	if name == "" {
		return fmt.Errorf("the name is missing: add source=NAME")
	}
	ref.Name, ref.Pinned = name, pinned
	if pinned {
		number, err := strconv.ParseUint(version, 10, 64)
		if err != nil || number == 0 {
			return fmt.Errorf("version %q is not a number from 1: write it like %s@3", version, name)
		}
		ref.Number = number
	}
	return nil
}

func setReference(ref *swarmv1.DataReference, key, value string) (err error) {
	switch strings.ToLower(key) {
	case "target":
		ref.File.Name = value
	case "uid":
		ref.File.Uid = value
	case "gid":
		ref.File.Gid = value
	case "mode":
		mode, err := strconv.ParseUint(value, 0, 32)
		if err != nil || mode > 0o7777 {
			return fmt.Errorf("mode=%s: use an octal number such as 0444", value)
		}
		ref.File.Mode = uint32(mode)
	case "on-update":
		ref.OnUpdate, err = parseOnUpdate(value)
		return err
	case "keep-previous":
		d, err := time.ParseDuration(value)
		if err != nil || d <= 0 {
			return fmt.Errorf("keep-previous=%s: use a time such as 24h or 90m", value)
		}
		ref.KeepPrevious = durationpb.New(d)
	default:
		return fmt.Errorf("unknown key %q: use source, target, uid, gid, mode, on-update or keep-previous", key)
	}
	return nil
}

// parseOnUpdate parses what a container does with a new version: restart, none, signal=NAME or
// exec=CMD. CMD has words and quotes as in a shell, but no shell runs it.
func parseOnUpdate(s string) (*swarmv1.OnUpdate, error) {
	action, value, hasValue := strings.Cut(s, "=")
	switch action = strings.ToLower(action); {
	case action == "restart" && !hasValue:
		return &swarmv1.OnUpdate{}, nil
	case action == "none" && !hasValue:
		return &swarmv1.OnUpdate{Action: swarmv1.OnUpdate_NONE}, nil
	case action == "signal" && value != "":
		return &swarmv1.OnUpdate{Action: swarmv1.OnUpdate_SIGNAL, Signal: value}, nil
	case action == "exec" && value != "":
		words, err := shlex.Split(value)
		if err != nil || len(words) == 0 {
			return nil, fmt.Errorf("on-update=%s: the command cannot be split into words: check its quotes", s)
		}
		return &swarmv1.OnUpdate{Action: swarmv1.OnUpdate_EXEC, Command: words}, nil
	}
	return nil, fmt.Errorf("on-update=%s: use restart, none, signal=NAME or exec=CMD", s)
}

// ParseSecret parses --secret. The default folder of the file is /run/secrets.
func ParseSecret(s string) (*swarmv1.DataReference, error) { return parseReference(s, "") }

// ParseConfig parses --config. The default folder of the file is /.
func ParseConfig(s string) (*swarmv1.DataReference, error) { return parseReference(s, "/") }
