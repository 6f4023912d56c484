//go:build linux

package containerd_test

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"

	swarmv1 "swarm/proto/swarm/v1"
	"swarm/worker/engine"
)

// elsewhere has the fields whose effect a container does not see through this package alone, and
// where each is tested.
func elsewhere() map[string]string {
	return map[string]string{
		"ContainerSpec.hostname":            "the worker fills its template in: row hostname has the outcome, TestWorker_ContainerGetsItsInputs the rest",
		"ContainerSpec.labels":              "for people and filters: shown by service inspect",
		"ContainerSpec.secrets":             "the worker makes files of them: rows of files",
		"ContainerSpec.configs":             "the worker makes files of them: rows of files",
		"ContainerSpec.healthcheck":         "worker/health probes; TestWorker_RunningMeansHealthy",
		"ContainerSpec.stop_signal":         "given to Stop: TestRuntime_StopKillsWhatDoesNotListen, TestWorker_StopsWithSignalAndGrace",
		"ContainerSpec.stop_grace_period":   "given to Stop: as stop_signal",
		"ContainerSpec.hosts":               "the worker writes the file: row hosts",
		"ContainerSpec.dns_config":          "the worker writes the file: TestWorker_ContainerGetsItsInputs",
		"ContainerSpec.isolation":           "Docker's, for Windows alone: Linux has one way",
		"ContainerSpec.pull_options":        "credentials of a pull: tests of package image, scenario registry",
		"ContainerSpec.platform":            "chosen at the pull: TestPull_ChoosesThePlatform",
		"VolumeOptions.labels":              "for people: kept in the spec",
		"VolumeOptions.driver_config":       "only local, without options, is known: others are refused, TestRuntime_RefusesWhatCannotRun",
		"AppArmorOpts.profile":              "a profile that the host has loaded: TestBuild_ConfinementByTheKernelsModules",
		"Privileges.selinux_context":        "a label for kernels with SELinux: TestBuild_ConfinementByTheKernelsModules",
		"ResourceRequirements.reservations": "nano_cpus, pids and generic are the planner's: its tests of resources",
		"Resources.generic":                 "counted by the planner: its tests of resources",
	}
}

// A new field must have a row in effects, or a reason here why it has none.
func TestEffects_AreOfEveryField(t *testing.T) {
	covered := map[string]bool{}
	for _, e := range effects("/dir", 2) {
		c := engine.Container{Revision: &swarmv1.Revision{Spec: &swarmv1.ServiceSpec{TaskTemplate: &swarmv1.TaskSpec{
			ContainerSpec: &swarmv1.ContainerSpec{Image: imageRef, Command: []string{"sh"}}, Resources: &swarmv1.ResourceRequirements{},
		}}}}
		if e.edit != nil {
			e.edit(&c)
		}
		note(covered, c.Spec().ProtoReflect())
		note(covered, resources(&c).ProtoReflect())
	}
	reasons := elsewhere()
	all := map[string]bool{}
	for _, root := range []protoreflect.ProtoMessage{&swarmv1.ContainerSpec{}, &swarmv1.ResourceRequirements{}} {
		walk(root.ProtoReflect().Descriptor(), reasons, all)
	}
	for _, field := range slices.Sorted(maps.Keys(all)) {
		if reasons[field] == "" && !covered[field] {
			t.Errorf("field %s: no container's row reads its effect, nor is there a reason why not", field)
		}
	}
	for field := range reasons {
		if !all[field] {
			t.Errorf("field %s: has a reason, but is no field", field)
		}
	}
}

// note collects the fields that are set in a message and in the messages below it.
func note(to map[string]bool, m protoreflect.Message) {
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		to[fieldName(f)] = true
		switch {
		case f.Message() == nil || f.IsMap():
		case f.IsList():
			for i := range v.List().Len() {
				note(to, v.List().Get(i).Message())
			}
		default:
			note(to, v.Message())
		}
		return true
	})
}

// walk lists the fields of a message and of the messages below it. It does not enter fields with a
// reason.
func walk(d protoreflect.MessageDescriptor, reasons map[string]string, all map[string]bool) {
	for i := range d.Fields().Len() {
		f := d.Fields().Get(i)
		name := fieldName(f)
		if all[name] {
			continue
		}
		all[name] = true
		if inner := f.Message(); inner != nil && !f.IsMap() && reasons[name] == "" && strings.HasPrefix(string(inner.FullName()), "swarm.v1.") {
			walk(inner, reasons, all)
		}
	}
}

func fieldName(f protoreflect.FieldDescriptor) string {
	return string(f.Parent().Name()) + "." + string(f.Name())
}
