package tasks

import (
	"fmt"
	"io/fs"

	"github.com/containerd/errdefs"

	"swarm/internal/spec"
	"swarm/internal/template"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/worker/assignment"
	"swarm/worker/engine"
)

const (
	// defaultMode is the mode of a secret or config whose reference sets none.
	defaultMode = 0o444
	// maxExpanded is the largest text of an expanded template, in bytes.
	maxExpanded = 4 << 20
)

// datum is a reference to a secret or config with the versions that it names.
type datum struct {
	ref               *swarmv1.DataReference
	path              string
	current, previous *swarmv1.DataVersion
	secret            bool
}

// filesOf returns the secrets and configs that the container of a task sees, with the templates
// expanded. rev is a result of template.Expand. filesOf returns ErrNotFound while a version is not
// assigned.
func (r *Runner) filesOf(t *swarmv1.Task, rev *swarmv1.Revision) ([]engine.File, error) {
	c := assignment.ContainerSpec(rev)
	secrets, err := r.data(spec.SecretKind(), c.GetSecrets())
	if err != nil {
		return nil, err
	}
	configs, err := r.data(spec.ConfigKind(), c.GetConfigs())
	if err != nil {
		return nil, err
	}
	byTarget := template.Files{Secrets: targets(secrets), Configs: targets(configs)}
	expand := func(v *swarmv1.DataVersion) ([]byte, error) {
		if v.GetTemplating() == nil {
			return v.GetData(), nil
		}
		return template.ExpandFile(v.GetData(), rev, t, r.templateNode(), byTarget, maxExpanded)
	}
	var files []engine.File
	for _, d := range append(secrets, configs...) {
		data, err := expand(d.current)
		if err != nil {
			return nil, d.fail(err)
		}
		files = append(files, d.file(d.path, data))
		if d.ref.GetKeepPrevious() == nil {
			continue
		}
		if data, err = expand(d.previous); err != nil {
			return nil, d.fail(err)
		}
		files = append(files, d.file(d.path+spec.PreviousSuffix, data))
	}
	return files, nil
}

// data finds the versions that the references name.
func (r *Runner) data(kind spec.DataKind, refs []*swarmv1.DataReference) ([]datum, error) {
	out := make([]datum, len(refs))
	for i, ref := range refs {
		out[i] = datum{ref: ref, path: kind.DataPath(ref), secret: kind.Word == "secret"}
		for number, version := range map[uint64]**swarmv1.DataVersion{ref.GetNumber(): &out[i].current, ref.GetPrevious(): &out[i].previous} {
			if number == 0 {
				continue
			}
			*version = r.deps.Objects.Get(swarmv1.AssignmentRef_DATA_VERSION, assignment.NumberedID(ref.GetId(), number)).GetDataVersion()
			if *version == nil {
				return nil, fmt.Errorf("version %d of %s %s: %w", number, kind.Word, ref.GetName(), errdefs.ErrNotFound)
			}
		}
	}
	return out, nil
}

// targets returns the data of the references by the names of their targets, for templates.
func targets(data []datum) map[string][]byte {
	out := make(map[string][]byte, len(data))
	for _, d := range data {
		name := d.ref.GetFile().GetName()
		if name == "" {
			name = d.ref.GetName()
		}
		out[name] = d.current.GetData()
	}
	return out
}

func (d datum) fail(err error) error {
	word := "config"
	if d.secret {
		word = "secret"
	}
	return fmt.Errorf("%s %s cannot be expanded: %w", word, d.ref.GetName(), err)
}

// file returns the reference as a file.
func (d datum) file(path string, data []byte) engine.File {
	target := d.ref.GetFile()
	f := engine.File{Path: path, Data: data, UID: target.GetUid(), GID: target.GetGid(), Mode: target.GetMode() & uint32(fs.ModePerm)}
	if f.Mode == 0 {
		f.Mode = defaultMode
	}
	return f
}
