package image

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"swarm/cli/command"
	"swarm/cli/complete"
	"swarm/cli/flag"
	"swarm/cli/prune"
	"swarm/cli/term"
	"swarm/cli/usage"
	swarmv1 "swarm/proto/swarm/v1"
)

// filters are the keys that `image ls --filter` takes.
var filters = []string{"id", "name"}

// New returns the group of commands `swarm image`.
func New(deps *command.Deps) *cobra.Command {
	return command.Group(&cobra.Command{Use: "image", Short: "Manage the swarm's images"},
		newLs(deps), newLoad(deps), newPull(deps), newPush(deps), newTag(deps), newInspect(deps), newRm(deps), prune.NewImage(deps))
}

var listing = term.Table{
	Columns: []term.Column{
		{"Repository", "REPOSITORY"},
		{"Tag", "TAG"},
		{"ID", "IMAGE ID"},
		{"CreatedSince", "CREATED"},
		{"Size", "SIZE"},
		{"Nodes", "NODES"},
	},
	More: []term.Column{{"Digest", "DIGEST"}, {"CreatedAt", "CREATED AT"}, {"Loaded", "LOADED"}, {"Name", "NAME"}},
}

type listOptions struct {
	command.ListOptions
	noTrunc, digests bool
	match            string
}

func newLs(deps *command.Deps) *cobra.Command {
	var o listOptions
	c := command.Verb(&cobra.Command{
		Use: "ls [OPTIONS] [REPOSITORY[:TAG]]", Aliases: []string{"list"}, Short: "List images", Args: usage.MaxArgs(1),
		ValidArgsFunction: complete.Images(deps),
		RunE: func(c *cobra.Command, args []string) error {
			o.match = strings.Join(args, "")
			return runLs(c.Context(), deps, o)
		},
	})
	command.ListFlags(c, &o.ListOptions, "Only show image IDs", filters)
	c.Flags().BoolP("all", "a", false, "Show all images (without an effect: there are no intermediate images)")
	c.Flags().BoolVar(&o.noTrunc, "no-trunc", false, "Don't truncate output")
	c.Flags().BoolVar(&o.digests, "digests", false, "Show digests")
	return c
}

func runLs(ctx context.Context, deps *command.Deps, o listOptions) error {
	filter, _, err := flag.ParseFilters(o.Filters, filters...)
	if err != nil {
		return err
	}
	return deps.Connect(ctx, func(c command.Client) error {
		r, err := c.ListImages(ctx, &swarmv1.ListRequest{Filter: filter})
		if err != nil {
			return err
		}
		term.SortBy(r.Images, func(i *swarmv1.ImageInfo) string { return term.ShortImage(i.GetImage().GetName()) })
		var rows []term.Row
		for _, i := range r.Images {
			if row := row(i, o, deps.Now()); o.match == "" || o.match == row["Repository"] || o.match == fmt.Sprint(row["Repository"], ":", row["Tag"]) {
				rows = append(rows, row)
			}
		}
		l := listing
		if o.digests {
			l.Columns = append(append([]term.Column{}, l.Columns[:2]...), append([]term.Column{{"Digest", "DIGEST"}}, l.Columns[2:]...)...)
		}
		return deps.PrintTable(l, o.Format, rows)
	})
}

func row(i *swarmv1.ImageInfo, o listOptions, now time.Time) term.Row {
	image := i.GetImage()
	repository, tag := term.SplitImage(image.GetName())
	// As in Docker, the id of an image is its digest, which --no-trunc shows in full.
	id := image.GetDigest()
	if !o.noTrunc {
		id = term.ShortID(strings.TrimPrefix(id, "sha256:"))
	}
	// The size is 0 until a manager has fetched the image: see docs/registries.md.
	size := "N/A"
	if image.GetSize() > 0 {
		size = units.HumanSizeWithPrecision(float64(image.GetSize()), 3)
	}
	return term.Row{
		"Repository": repository, "Tag": tag, "ID": id, "Digest": image.GetDigest(),
		"CreatedSince": term.Ago(now, image.GetMeta().GetCreatedAt()), "CreatedAt": term.Stamp(image.GetMeta().GetCreatedAt()),
		"Size": size, "Nodes": fmt.Sprint(len(i.GetNodeIds())),
		"Loaded": fmt.Sprint(image.GetLoaded()), "Name": image.GetName(),
	}
}

type loadOptions struct {
	input, name string
	quiet       bool
}

func newLoad(deps *command.Deps) *cobra.Command {
	var o loadOptions
	c := command.Verb(&cobra.Command{
		Use: "load [OPTIONS]", Short: "Load an image from a tar archive or STDIN", Args: usage.NoArgs, ValidArgsFunction: cobra.NoFileCompletions,
		Example: "  docker save app:1 | swarm image load\n  swarm image load -i app.tar.gz",
		RunE:    func(c *cobra.Command, _ []string) error { return runLoad(c.Context(), deps, o) },
	})
	c.Flags().StringVarP(&o.input, "input", "i", "", "Read from tar archive file, instead of STDIN")
	c.Flags().StringVar(&o.name, "name", "", "Name for an archive that names none")
	c.Flags().BoolVarP(&o.quiet, "quiet", "q", false, "Suppress the load output")
	return c
}

// loadChunk is the number of bytes of an archive in one message.
const loadChunk = 512 << 10

func runLoad(ctx context.Context, deps *command.Deps, o loadOptions) error {
	if o.name != "" {
		if err := flag.CheckImage(o.name); err != nil {
			return err
		}
	}
	in, size, err := openArchive(deps, o.input)
	if err != nil {
		return err
	}
	defer in.Close()
	return deps.Connect(ctx, func(c command.Client) error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		stream, err := c.LoadImage(ctx)
		if err != nil {
			return err
		}
		read := make(chan error, 1)
		go func() {
			err := sendArchive(stream, in, size, o.name)
			if err != nil {
				cancel() // Without it, the manager would wait for the rest of the archive.
			}
			read <- err
		}()
		images, err := progress(deps, stream, o.quiet)
		cancel()
		if sendErr := <-read; sendErr != nil && !errors.Is(sendErr, io.EOF) && !command.IsCanceled(sendErr) {
			return sendErr
		}
		if err != nil {
			return err
		}
		for _, image := range images {
			term.Printf(deps.Out, "Loaded image: %s\n", term.ShortImage(image.GetName()))
		}
		return nil
	})
}

// openArchive opens the archive. It refuses a file that cannot be an archive before anything is
// sent.
func openArchive(deps *command.Deps, path string) (io.ReadCloser, int64, error) {
	if path == "" {
		if term.TerminalOf(deps.In) != nil {
			return nil, 0, usage.Invalidf("nothing to load: standard input is a terminal; name a file with -i, or pipe an archive in (docker save IMAGE | swarm image load)")
		}
		return io.NopCloser(deps.In), 0, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, 0, usage.Invalidf("archive %s cannot be read: %s", path, usage.Reason(err.Error()))
	}
	info, err := f.Stat()
	if err == nil && info.IsDir() {
		f.Close()
		return nil, 0, usage.Invalidf("archive %s is a folder: pack it with tar, or name a file", path)
	}
	if err != nil || !info.Mode().IsRegular() {
		return f, 0, nil
	}
	if info.Size() == 0 {
		f.Close()
		return nil, 0, usage.Invalidf("archive %s is empty: write it with docker save", path)
	}
	return f, info.Size(), nil
}

// sendArchive sends the archive in pieces. It returns io.EOF if the manager has ended the call; the
// error of receiving is then the reason.
func sendArchive(stream swarmv1.Control_LoadImageClient, in io.Reader, size int64, name string) error {
	first := true
	for {
		buf := make([]byte, loadChunk)
		n, err := io.ReadFull(in, buf)
		if n > 0 {
			m := &swarmv1.LoadImageRequest{Data: buf[:n]}
			if first {
				m.Size, m.Name, first = size, name, false
			}
			if err := stream.Send(m); err != nil {
				return err
			}
		}
		switch {
		case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
			if first {
				return usage.Invalidf("the archive is empty: write one with docker save")
			}
			return stream.CloseSend()
		case err != nil:
			return fmt.Errorf("read archive: %w", err)
		}
	}
}

func newInspect(deps *command.Deps) *cobra.Command {
	return command.NewInspect(deps, command.Inspection{
		Use: "inspect [OPTIONS] IMAGE [IMAGE...]", Short: "Display detailed information on one or more images", Complete: complete.Images(deps),
		Object: func(ctx context.Context, c command.Client, ref string) (term.Object, error) {
			i, err := c.GetImage(ctx, &swarmv1.GetRequest{Id: ref})
			return object(i), err
		},
	})
}

func object(i *swarmv1.ImageInfo) term.Object {
	o := term.Stored(cmp.Or(i.GetImage().GetDigest(), i.GetImage().GetId()), i.GetImage().GetMeta()) // As in Docker and in `image ls`.
	for _, m := range term.Describe(i.GetImage()) {
		if m.Name != "ID" && m.Name != "Meta" {
			o = append(o, m)
		}
	}
	nodes := i.GetNodeIds()
	if nodes == nil {
		nodes = []string{}
	}
	return append(o, term.Member{"Nodes", nodes})
}

func newRm(deps *command.Deps) *cobra.Command {
	var force bool
	c := command.Verb(&cobra.Command{
		Use: "rm [OPTIONS] IMAGE [IMAGE...]", Aliases: []string{"remove"}, Short: "Remove one or more images", Args: usage.MinArgs(1),
		ValidArgsFunction: complete.Images(deps),
		RunE:              func(c *cobra.Command, args []string) error { return runRm(c.Context(), deps, force, args) },
	})
	c.Flags().BoolVarP(&force, "force", "f", false, "Force removal of the image")
	return c
}

func runRm(ctx context.Context, deps *command.Deps, force bool, refs []string) error {
	return deps.Connect(ctx, func(c command.Client) error {
		return deps.OnEach(refs, func(ref string) error {
			if _, err := c.RemoveImage(ctx, &swarmv1.RemoveClusterImageRequest{Id: ref, Force: force}); err != nil {
				return err
			}
			term.Printf(deps.Out, "Untagged: %s\n", ref)
			return nil
		})
	})
}
