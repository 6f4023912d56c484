package spec

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	swarmv1 "swarm/proto/swarm/v1"
)

func TestParseLog(t *testing.T) {
	for _, test := range []struct {
		driver, options string
		want            Log
		refusal         string
	}{
		{"", "", Log{Driver: "local", Size: 10_000_000, Files: 5}, ""},
		{"local", "max-size=1m max-file=2", Log{Driver: "local", Size: 1 << 20, Files: 2}, ""},
		{"", "max-size=1.5GiB labels=a,b env=C", Log{Driver: "local", Size: 3 << 29, Files: 5, Labels: []string{"a", "b"}, Env: []string{"C"}}, ""},
		{"none", "", Log{Driver: "none", Size: 10_000_000, Files: 5}, ""},
		{"none", "max-size=1m", Log{}, "has no options"},
		{"json-file", "", Log{}, `"json-file" is not known: use local (options env, env-regex, labels, labels-regex, max-file, max-size) or none`},
		{"local", "max-sise=1m", Log{}, `"max-sise" is not known to the driver local: use env, env-regex`},
		{"local", "max-size=10", Log{}, "use 64k to 1024g"},
		{"local", "max-size=x", Log{}, "is not a size"},
		{"local", "max-size=", Log{}, "is not a size"},
		{"local", "max-size=NaN", Log{}, "is not a size"},
		{"local", "max-size=1kk", Log{}, "is not a size"},
		{"local", "max-file=0", Log{}, "use 1 to 1000"},
		{"local", "env-regex=(", Log{}, "not a regular expression"},
	} {
		d := &swarmv1.Driver{Name: test.driver, Options: map[string]string{}}
		for _, o := range strings.Fields(test.options) {
			key, value, _ := strings.Cut(o, "=")
			d.Options[key] = value
		}
		got, err := ParseLog(d)
		if test.refusal != "" {
			if err == nil || !strings.Contains(err.Error(), test.refusal) {
				t.Errorf("%s %s: %v, want %q", test.driver, test.options, err, test.refusal)
			}
			continue
		}
		if diff := cmp.Diff(test.want, got); diff != "" || err != nil {
			t.Errorf("%s %s: %v %s", test.driver, test.options, err, diff)
		}
	}
}

func TestLog_Details(t *testing.T) {
	l, err := ParseLog(&swarmv1.Driver{Options: map[string]string{"labels": "tier", "env": "COLOUR", "env-regex": "^OS_"}})
	if err != nil {
		t.Fatal(err)
	}
	got := l.Details(map[string]string{"tier": "front", "other": "x"}, []string{"COLOUR=red", "OS_NAME=deb=ian", "HOME=/", "BARE"})
	if diff := cmp.Diff(map[string]string{"tier": "front", "COLOUR": "red", "OS_NAME": "deb=ian"}, got); diff != "" {
		t.Error(diff)
	}
}

// An empty driver becomes nil, so that two specs with the same meaning make the same tasks.
func TestService_LogDriverIsNormalised(t *testing.T) {
	for _, test := range []struct{ give, want *swarmv1.Driver }{
		{nil, nil},
		{&swarmv1.Driver{}, nil},
		{&swarmv1.Driver{Options: map[string]string{"max-file": "2"}}, &swarmv1.Driver{Name: "local", Options: map[string]string{"max-file": "2"}}},
	} {
		s := &swarmv1.ServiceSpec{Name: "web", TaskTemplate: &swarmv1.TaskSpec{
			ContainerSpec: &swarmv1.ContainerSpec{Image: "a"}, LogDriver: test.give,
		}}
		got, err := Service(s)
		if err != nil || !got.GetTaskTemplate().GetLogDriver().EqualVT(test.want) {
			t.Errorf("%v became %v, %v", test.give, got.GetTaskTemplate().GetLogDriver(), err)
		}
	}
}
