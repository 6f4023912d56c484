package cli_test

import (
	"strings"
	"testing"
	"time"

	"swarm/cli/clitest"
	swarmv1 "swarm/proto/swarm/v1"
)

// A field that an object can never have is an error. One that is not set is shown as Docker shows
// it.
func TestFormatFields(t *testing.T) {
	s := clitest.WebServer(t, time.Now())
	s.Info = &swarmv1.InfoResponse{NodeId: "node1", LocalNodeState: "active"}
	s.Events = []*swarmv1.Event{{Type: "task", Action: swarmv1.Event_UPDATE, Id: "t1"}, {Type: "service", Id: "s1", Attributes: map[string]string{"name": "web"}}}
	for _, c := range []struct {
		args   []string
		format string
		// want is what is printed; with an error, what the error has.
		want string
		fail bool
	}{
		{[]string{"info"}, "{{.NodeID}}", "node1\n", false},
		{[]string{"info"}, "{{.Swarm.Nope}}", "there is no field .Swarm.Nope", true},
		{[]string{"info"}, "{{.Error}}", "\n", false},
		{[]string{"info"}, "{{.Description.Hostname}}", "<no value>\n", false},
		{[]string{"info"}, "{{.Description.Nope}}", "there is no field .Description.Nope", true},
		{[]string{"version"}, "{{.Client.Version}} {{.Server.Version}}", "v1.2.3 <no value>\n", false},
		{[]string{"version"}, "{{.Client.Nope}}", "no field .Client.Nope", true},
		{[]string{"service", "inspect", "web"}, "{{.Nope}}", "no field .Nope", true},
		{[]string{"service", "inspect", "web"}, "{{.Spec.TaskTemplate.Nope}}", "no field .Spec.TaskTemplate.Nope", true},
		{[]string{"service", "inspect", "web"}, "{{.PreviousSpec.Nope}}", "no field .PreviousSpec.Nope", true},
		{[]string{"service", "inspect", "web"}, "{{.PreviousSpec.Name}} {{.Stale}}", "<no value> <no value>\n", false},
		{[]string{"service", "inspect", "web"}, "{{.Spec.Labels.anything}}", "<no value>\n", false},
		{[]string{"service", "inspect", "web"}, `{{index .Spec.Labels "com.docker.stack.namespace"}}`, "\n", false},
		{[]string{"service", "inspect", "web"}, "{{json .Spec.TaskTemplate.ContainerSpec.Labels}} {{len .Spec.TaskTemplate.Placement.Preferences}}", "{} 0\n", false},
		{[]string{"service", "inspect", "web"}, "{{.Spec.TaskTemplate.ContainerSpec.TTY}} {{.Spec.TaskTemplate.ContainerSpec.User}}", "false \n", false},
		{[]string{"service", "inspect", "web"}, "{{if .PreviousSpec}}some{{else}}none{{end}}", "none\n", false},
		{[]string{"service", "inspect", "web"}, "{{with .Spec}}{{.Nope}}{{end}}", "no field .Nope", true},
		{[]string{"service", "inspect", "web"}, "{{range .Spec.TaskTemplate.Networks}}{{.Nope}}{{end}}", "no field .Nope", true},
		{[]string{"service", "inspect", "web"}, "{{range .Spec.TaskTemplate.Networks}}{{$.Nope}}{{end}}", "no field .Nope", true},
		{[]string{"service", "inspect", "web"}, "{{json .Nope}}", "no field .Nope", true},
		{[]string{"service", "ls"}, "{{.Nope}}", "Nope", true},
		{[]string{"node", "ls"}, "table {{.Nope}}", "Nope", true},
		{[]string{"events"}, "{{.ID}} {{.Actor.Attributes.name}}", "t1 <no value>\ns1 web\n", false},
		{[]string{"events"}, "{{.Nope}}", "no field .Nope", true},
	} {
		got := clitest.Run{Server: s}.Run(t, append(c.args, "--format", c.format)...)
		if c.fail && (got.Code != 1 || !strings.Contains(got.ErrOut, c.want) || got.Out != "") || !c.fail && (got.Code != 0 || got.Out != c.want) {
			t.Errorf("%s --format %s: got %+v, want %q", strings.Join(c.args, " "), c.format, got, c.want)
		}
	}
}
