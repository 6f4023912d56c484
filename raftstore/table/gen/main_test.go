package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The committed file must be what the generator writes: run go generate ./raftstore/table.
func TestGenerate_CommittedFileIsCurrent(t *testing.T) {
	got, err := generate("../view.go")
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile("../tables_gen.go")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Error("tables_gen.go is old: run go generate ./raftstore/table")
	}
}

func TestGenerate_RefusesASchemaThatDoesNotMatch(t *testing.T) {
	view, err := os.ReadFile("../view.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ name, old, new, want string }{
		{"a kind without a table", `table:"key=id,name=name"`, "", "no field for swarm.v1.Object.image"},
		{"a table without a kind", "swarmv1.Volume]", "swarmv1.Driver]", "no field for swarm.v1.Object.volume"},
		{"a key field that does not exist", `key=key`, `key=kye`, "Claim has no field kye"},
		{"a key that is no string", `key=service_id+number`, `key=number`, "needs key=FIELD"},
		{"no key", `key=digest+node_id`, `fold`, "needs key=FIELD"},
		{"an option that does not exist", `,fold`, `,flod`, `unknown option "flod"`},
	} {
		text := strings.Replace(string(view), tt.old, tt.new, 1)
		if text == string(view) {
			t.Errorf("%s: view.go has no %s", tt.name, tt.old)
		}
		if tt.new == "" {
			text = strings.Replace(text, "``", "", 1)
		}
		file := filepath.Join(t.TempDir(), "view.go")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := generate(file); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %q", tt.name, err, tt.want)
		}
	}
}
