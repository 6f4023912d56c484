package spec

import (
	"iter"
	"path"
	"time"

	"swarm/internal/ident"
	"swarm/internal/template"
	swarmv1 "swarm/proto/swarm/v1"
)

// DataKind is one of the two kinds of objects whose data containers see as files.
type DataKind struct {
	// Word is what users call one object.
	Word string
	// Folder is the folder in the container of targets that are not absolute.
	Folder string
	// MaxData is the largest data in bytes. The limits are those of Docker. The data goes through
	// Raft.
	MaxData   int
	checkName func(string) error
}

// SecretKind describes secrets.
func SecretKind() DataKind {
	return DataKind{Word: "secret", Folder: "/run/secrets", MaxData: 500 * 1024, checkName: ident.CheckSecretName}
}

// ConfigKind describes configs.
func ConfigKind() DataKind {
	return DataKind{Word: "config", Folder: "/", MaxData: 1000 * 1024, checkName: ident.CheckConfigName}
}

// TemplateDriver is the only templating driver: data that has it is a template of package
// text/template.
const TemplateDriver = "golang"

// Spec returns a valid copy of the spec of a secret or config.
func (k DataKind) Spec(in *swarmv1.DataSpec) (*swarmv1.DataSpec, error) {
	if err := firstError(k.checkName(in.GetName()), checkLabels(k.Word, in.GetLabels())); err != nil {
		return nil, err
	}
	if t := in.GetTemplating(); t != nil && t.GetName() != TemplateDriver {
		return nil, invalid("template driver %s is not known: use %s", quote(t.GetName()), TemplateDriver)
	}
	return in.CloneVT(), nil
}

// CheckData returns an error if a secret or config of the spec cannot have the data. The error does
// not contain any of the data.
func (k DataKind) CheckData(s *swarmv1.DataSpec, data []byte) error {
	if len(data) == 0 {
		return invalid("%s %s is empty: give it data", k.Word, quote(s.GetName()))
	}
	if len(data) > k.MaxData {
		return invalid("%s %s takes %d bytes: at most %d are allowed; put large data in an image or a volume", k.Word, quote(s.GetName()), len(data), k.MaxData)
	}
	if s.GetTemplating() != nil {
		if err := template.CheckFile(data); err != nil {
			return invalid("%s %s is not a valid template: %v", k.Word, quote(s.GetName()), err)
		}
	}
	return nil
}

// PreviousSuffix is what the name of a file has in addition if the file has the previous version of
// a secret or config.
const PreviousSuffix = ".previous"

// DataPath returns the path in the container at which a reference appears.
func (k DataKind) DataPath(ref *swarmv1.DataReference) string {
	file := ref.GetFile().GetName()
	if file == "" {
		file = ref.GetName()
	}
	if !path.IsAbs(file) {
		file = path.Join(k.Folder, file)
	}
	return path.Clean(file)
}

// DataReferences yields the references to secrets, and then those to configs, of a service.
func DataReferences(s *swarmv1.ServiceSpec) iter.Seq[*swarmv1.DataReference] {
	return func(yield func(*swarmv1.DataReference) bool) {
		c := s.GetTaskTemplate().GetContainerSpec()
		for _, list := range [][]*swarmv1.DataReference{c.GetSecrets(), c.GetConfigs()} {
			for _, ref := range list {
				if !yield(ref) {
					return
				}
			}
		}
	}
}

// Exchanged reports whether a running container gets a new version of the reference by an exchange
// of its file. If not, the task is replaced.
func Exchanged(ref *swarmv1.DataReference) bool {
	return !ref.GetPinned() && ref.GetOnUpdate().GetAction() != swarmv1.OnUpdate_RESTART
}

const (
	minKeepPrevious = time.Second
	maxKeepPrevious = 10 * 365 * 24 * time.Hour
	maxReferences   = 1000
)

// checkFiles checks the references to secrets and configs. It refuses two with the same path.
func checkFiles(c *swarmv1.ContainerSpec) error {
	if n := len(c.GetSecrets()) + len(c.GetConfigs()); n > maxReferences {
		return invalid("service has %d secrets and configs: at most %d are allowed", n, maxReferences)
	}
	taken := map[string]bool{}
	for _, list := range []struct {
		kind DataKind
		refs []*swarmv1.DataReference
	}{{SecretKind(), c.GetSecrets()}, {ConfigKind(), c.GetConfigs()}} {
		for _, ref := range list.refs {
			if err := list.kind.checkReference(ref); err != nil {
				return err
			}
			file := list.kind.DataPath(ref)
			paths := []string{file}
			if ref.GetKeepPrevious() != nil {
				paths = append(paths, file+PreviousSuffix)
			}
			for _, p := range paths {
				if taken[p] {
					return invalid("%s %s would be written to %s, which is already taken: give it another target", list.kind.Word, quote(ref.GetName()), quote(p))
				}
				taken[p] = true
			}
		}
	}
	return nil
}

func (k DataKind) checkReference(ref *swarmv1.DataReference) error {
	name := ref.GetName()
	if name == "" && ref.GetId() == "" {
		return invalid("%s reference names nothing: name the %s", k.Word, k.Word)
	}
	if m := ref.GetFile().GetMode(); m > maxMode {
		return invalid("mode %o of %s %s is out of range: use 0 to %o", m, k.Word, quote(name), maxMode)
	}
	if k.DataPath(ref) == "/" {
		return invalid("target of %s %s is the root folder: name a file", k.Word, quote(name))
	}
	keep := ref.GetKeepPrevious()
	if keep != nil && (keep.AsDuration() < minKeepPrevious || keep.AsDuration() > maxKeepPrevious) {
		return invalid("keep-previous of %s %s is %s: use %s to %s", k.Word, quote(name), keep.AsDuration(), minKeepPrevious, maxKeepPrevious)
	}
	on := ref.GetOnUpdate()
	if ref.GetPinned() && (on != nil || keep != nil) {
		return invalid("%s %s is pinned to a version and never changes: leave the version, or on-update and keep-previous, out", k.Word, quote(name))
	}
	switch on.GetAction() {
	case swarmv1.OnUpdate_RESTART, swarmv1.OnUpdate_NONE:
	case swarmv1.OnUpdate_SIGNAL:
		if on.GetSignal() == "" {
			return invalid("on-update of %s %s is a signal without a name: write it like signal=HUP", k.Word, quote(name))
		}
		return checkSignal("on-update signal", on.GetSignal())
	case swarmv1.OnUpdate_EXEC:
		if len(on.GetCommand()) == 0 {
			return invalid("on-update of %s %s runs no command: write it like exec=CMD", k.Word, quote(name))
		}
	default:
		return invalid("on-update %d of %s %s is not known: use restart, none, signal=NAME or exec=CMD", on.GetAction(), k.Word, quote(name))
	}
	return nil
}
