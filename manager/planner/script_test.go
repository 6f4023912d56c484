package planner

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	swarmv1 "swarm/proto/swarm/v1"
)

var update = flag.Bool("update", false, "write what the scripts of testdata print")

// A script is a list of commands to the cluster. The indented lines below a command are its output.
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := runScript(t, string(text))
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if got != string(text) {
				t.Errorf("%s prints\n%s\nwant\n%s", file, got, text)
			}
		})
	}
}

func runScript(t *testing.T, text string) string {
	m := newModel(t)
	var out strings.Builder
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "  ") {
			continue // output of the last -update
		}
		out.WriteString(line)
		words := strings.Fields(line)
		if len(words) == 0 || strings.HasPrefix(line, "#") {
			continue
		}
		for l := range strings.Lines(m.command(words)) {
			out.WriteString("  " + l)
		}
	}
	return out.String()
}

// command executes one line of a script and returns its output.
func (m *model) command(words []string) string {
	m.t.Helper()
	name := ""
	if len(words) > 1 {
		name = words[1]
	}
	switch words[0] {
	case "node":
		m.addNode(name, func(n *swarmv1.Node, _ *swarmv1.NodeState) {
			for _, l := range words[2:] {
				k, v, _ := strings.Cut(l, "=")
				n.Spec.Labels[k] = v
			}
		})
	case "drain":
		m.setNode(name, drain)
	case "activate":
		m.setNode(name, activate)
	case "down":
		m.setState(name, swarmv1.NodeState_DOWN)
	case "up":
		m.setState(name, swarmv1.NodeState_READY)
	case "volume":
		m.put(&swarmv1.Volume{NodeId: strings.Trim(words[2], "-"), Name: name, Reported: true, Accepted: len(words) == 3})
	case "move": // NAME NODE [stopped]
		row := m.rows["12/"+words[2]+"/"+name].(*swarmv1.Volume).CloneVT()
		row.Move = nil
		if len(words) == 4 {
			row.Move = &swarmv1.VolumeMove{Phase: swarmv1.VolumeMove_STOPPED}
		}
		m.put(row)
	case "forget":
		m.drop("12/" + words[2] + "/" + name)
	case "volumes":
		return m.volumes()
	case "create":
		m.addService(name, m.options(words[2:])...)
	case "update":
		m.edit(name, m.options(words[2:])...)
	case "remove":
		s := m.service(name).CloneVT()
		s.PendingDelete = true
		m.put(s)
	case "break":
		number, err := strconv.ParseUint(name, 10, 64)
		if err != nil {
			m.t.Fatal(err)
		}
		m.fails = failsOn(number)
	case "plan":
		m.plan()
		return m.String()
	case "settle":
		m.settle()
		return m.String()
	case "pass":
		d, err := time.ParseDuration(name)
		if err != nil {
			m.t.Fatal(err)
		}
		m.pass(d)
		return m.String()
	case "status":
		st := m.service(name).GetUpdateStatus()
		id := strings.LastIndex(st.GetMessage(), "task ")
		if id < 0 {
			id = len(st.GetMessage())
		}
		return fmt.Sprintf("%s: %s\n", st.GetState(), st.GetMessage()[:id])
	default:
		m.t.Fatalf("no command %q", words[0])
	}
	return ""
}

func (m *model) options(words []string) []func(*swarmv1.ServiceSpec) {
	m.t.Helper()
	var edits []func(*swarmv1.ServiceSpec)
	for _, w := range words {
		key, value, _ := strings.Cut(w, ":")
		number, _ := strconv.ParseInt(value, 10, 64)
		switch key {
		case "replicas":
			edits = append(edits, replicas(uint64(number)))
		case "global":
			edits = append(edits, global)
		case "image":
			edits = append(edits, image(value))
		case "cpus":
			edits = append(edits, reserve(number*1e9, 0))
		case "constraint":
			edits = append(edits, constraint(value))
		case "volume":
			edits = append(edits, mounting(value))
		case "start-first":
			edits = append(edits, updating(func(u *swarmv1.UpdateConfig) { u.Order = swarmv1.UpdateConfig_START_FIRST }))
		case "rollback":
			edits = append(edits, updating(func(u *swarmv1.UpdateConfig) { u.FailureAction = swarmv1.UpdateConfig_ROLLBACK }))
		default:
			m.t.Fatalf("no option %q", w)
		}
	}
	return edits
}
