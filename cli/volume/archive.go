package volume

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"swarm/cli/command"
	"swarm/cli/flag"
	"swarm/cli/term"
	"swarm/cli/usage"
	"swarm/internal/spec"
	swarmv1 "swarm/proto/swarm/v1"
)

// stdio is the name of a file that stands for standard input or output.
const stdio = "-"

type backupOptions struct {
	name, file, node string
	quiet            bool
}

func newBackup(deps *command.Deps) *cobra.Command {
	var o backupOptions
	c := command.Verb(&cobra.Command{
		Use: "backup [OPTIONS] VOLUME FILE|-", Short: "Write the files of a volume to an archive", Args: usage.ExactArgs(2),
		Long: "Write the files of a volume to an archive: tar, compressed with zstd, with checksums. " +
			"Tasks may write to the volume meanwhile: stop them first if the files must be of one moment.",
		ValidArgsFunction: names(deps),
		RunE: func(c *cobra.Command, args []string) error {
			o.name, o.file = args[0], args[1]
			return runBackup(c.Context(), deps, o)
		},
	})
	c.Flags().StringVar(&o.node, "node", "", "Node that has the volume, by id or name (needed if several have one of that name)")
	c.Flags().BoolVarP(&o.quiet, "quiet", "q", false, "Suppress progress")
	return c
}

// runBackup writes an archive. A file appears when it is complete.
func runBackup(ctx context.Context, deps *command.Deps, o backupOptions) error {
	if o.file == stdio {
		if term.TerminalOf(deps.Out) != nil {
			return usage.Invalidf("the archive is not for a terminal: name a file, or pipe the output into a program")
		}
		return receiveArchive(ctx, deps, o, term.Unescaped(deps.Out))
	}
	f, err := os.CreateTemp(filepath.Dir(o.file), "."+filepath.Base(o.file)+".*")
	if err != nil {
		return usage.Invalidf("archive %s cannot be written: %s", o.file, usage.Reason(err.Error()))
	}
	defer os.Remove(f.Name()) // It fails once the file has its name.
	err = receiveArchive(ctx, deps, o, f)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), o.file)
}

func receiveArchive(ctx context.Context, deps *command.Deps, o backupOptions, out io.Writer) error {
	return deps.Connect(ctx, func(c command.Client) error {
		stream, err := c.Volumes.BackupVolume(ctx, &swarmv1.BackupVolumeRequest{Name: o.name, Node: o.node})
		if err != nil {
			return err
		}
		p := newProgress(deps, o.quiet, "written")
		for {
			m, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				p.end()
				return nil
			}
			if err != nil {
				return err
			}
			if _, err := out.Write(m.GetData()); err != nil {
				return err
			}
			p.add(len(m.GetData()))
		}
	})
}

// progressPeriod is how often the progress is drawn on a terminal.
const progressPeriod = 200 * time.Millisecond

// progress shows how many bytes of an archive were transferred: on a terminal all the time, and
// elsewhere at the end.
type progress struct {
	deps  *command.Deps
	view  *term.View
	what  string
	bytes int64
	drawn time.Time
}

func newProgress(deps *command.Deps, quiet bool, what string) *progress {
	return &progress{deps: deps, view: term.NewView(deps.Err, quiet), what: what}
}

func (p *progress) add(n int) { p.set(p.bytes + int64(n)) }

func (p *progress) set(bytes int64) {
	p.bytes = bytes
	if now := p.deps.Now(); p.view.OnTerminal() && now.Sub(p.drawn) >= progressPeriod {
		p.drawn = now
		p.end()
	}
}

func (p *progress) end() { p.view.Draw([]string{"Archive: " + term.Size(p.bytes) + " " + p.what}) }

type restoreOptions struct {
	name, file, node string
	force, quiet     bool
	labels           flag.List
}

// start returns the first message of the archive.
func (o restoreOptions) start() (*swarmv1.RestoreVolumeStart, error) {
	v := &swarmv1.Volume{Name: o.name, Labels: flag.AddPairs(nil, o.labels.Values)}
	return &swarmv1.RestoreVolumeStart{Volume: v, Node: o.node, Replace: o.force}, spec.Volume(v)
}

func newRestore(deps *command.Deps) *cobra.Command {
	o := restoreOptions{labels: flag.List{Kind: "list"}}
	c := command.Verb(&cobra.Command{
		Use: "restore [OPTIONS] VOLUME FILE|-", Short: "Make a volume from an archive", Args: usage.ExactArgs(2),
		Long:              "Make a volume from an archive of `swarm volume backup`. The volume appears when the archive was read to its end, and its checksums are right.",
		ValidArgsFunction: names(deps),
		RunE: func(c *cobra.Command, args []string) error {
			o.name, o.file = args[0], args[1]
			return runRestore(c.Context(), deps, o)
		},
	})
	c.Flags().StringVar(&o.node, "node", "", "Node that gets the volume, by id or name")
	c.Flags().Var(&o.labels, "label", "Set metadata for a volume")
	c.Flags().BoolVarP(&o.force, "force", "f", false, "Replace the files of a volume that exists and that no task uses")
	c.Flags().BoolVarP(&o.quiet, "quiet", "q", false, "Suppress progress")
	return c
}

// archiveChunk is the length of the pieces that are sent.
const archiveChunk = 128 << 10

func runRestore(ctx context.Context, deps *command.Deps, o restoreOptions) error {
	start, err := o.start()
	if err != nil {
		return err
	}
	in, err := openArchive(deps, o.file)
	if err != nil {
		return err
	}
	defer in.Close()
	// A file that cannot be read to its end must break the stream: the end of the stream means that
	// the archive is complete.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	return deps.Connect(ctx, func(c command.Client) error {
		stream, err := c.Volumes.RestoreVolume(ctx)
		if err != nil {
			return err
		}
		p := newProgress(deps, o.quiet, "read")
		m := &swarmv1.RestoreVolumeRequest{Message: &swarmv1.RestoreVolumeRequest_Start{Start: start}}
		for err == nil {
			if err = stream.Send(m); err != nil {
				break // The manager has ended the call, and its answer says why.
			}
			data := make([]byte, archiveChunk)
			n, rerr := io.ReadFull(in, data)
			if n == 0 && errors.Is(rerr, io.EOF) {
				break
			}
			if rerr != nil && !errors.Is(rerr, io.ErrUnexpectedEOF) {
				return usage.Invalidf("archive %s cannot be read: %s", o.file, usage.Reason(rerr.Error()))
			}
			p.add(n)
			m = &swarmv1.RestoreVolumeRequest{Message: &swarmv1.RestoreVolumeRequest_Data{Data: data[:n]}}
		}
		made, err := stream.CloseAndRecv()
		if err != nil {
			return err
		}
		p.end()
		term.Printf(deps.Out, "%s\n", made.GetVolume().GetName())
		return nil
	})
}

func openArchive(deps *command.Deps, path string) (io.ReadCloser, error) {
	if path == stdio {
		if term.TerminalOf(deps.In) != nil {
			return nil, usage.Invalidf("nothing to restore: standard input is a terminal; name a file, or pipe an archive in")
		}
		return io.NopCloser(deps.In), nil
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, usage.Invalidf("archive %s cannot be read: %s", path, usage.Reason(err.Error()))
	}
	return f, nil
}

type cloneOptions struct {
	restoreOptions
	source, sourceNode string
}

func newClone(deps *command.Deps) *cobra.Command {
	o := cloneOptions{restoreOptions: restoreOptions{labels: flag.List{Kind: "list"}}}
	c := command.Verb(&cobra.Command{
		Use: "clone [OPTIONS] VOLUME NEW", Short: "Copy a volume to another name or node", Args: usage.ExactArgs(2),
		Long:              "Copy the files of a volume to a new volume. Tasks may write to the first volume meanwhile: stop them first if the files must be of one moment.",
		ValidArgsFunction: names(deps),
		RunE: func(c *cobra.Command, args []string) error {
			o.source, o.name = args[0], args[1]
			return runClone(c.Context(), deps, o)
		},
	})
	c.Flags().StringVar(&o.sourceNode, "node", "", "Node that has the volume, by id or name (needed if several have one of that name)")
	c.Flags().StringVar(&o.node, "to-node", "", "Node that gets the copy, by id or name")
	c.Flags().Var(&o.labels, "label", "Set metadata for the new volume")
	c.Flags().BoolVarP(&o.force, "force", "f", false, "Replace the files of a volume that exists and that no task uses")
	c.Flags().BoolVarP(&o.quiet, "quiet", "q", false, "Suppress progress")
	return c
}

func runClone(ctx context.Context, deps *command.Deps, o cloneOptions) error {
	target, err := o.start()
	if err != nil {
		return err
	}
	return deps.Connect(ctx, func(c command.Client) error {
		stream, err := c.Volumes.CloneVolume(ctx, &swarmv1.CloneVolumeRequest{
			Source: &swarmv1.BackupVolumeRequest{Name: o.source, Node: o.sourceNode}, Target: target,
		})
		if err != nil {
			return err
		}
		p := newProgress(deps, o.quiet, "copied")
		for {
			m, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
			p.set(m.GetBytes())
			if m.GetVolume() != nil {
				p.end()
				term.Printf(deps.Out, "%s\n", m.GetVolume().GetVolume().GetName())
			}
		}
	})
}
