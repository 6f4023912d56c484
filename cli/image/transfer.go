package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"swarm/cli/command"
	"swarm/cli/complete"
	"swarm/cli/flag"
	"swarm/cli/term"
	"swarm/cli/usage"
	swarmv1 "swarm/proto/swarm/v1"
)

type progressStream interface {
	Recv() (*swarmv1.ImageProgress, error)
}

// progress shows the steps of a transfer until the stream ends, and returns the resulting images.
// Each layer has a line, and each step of a whole image.
func progress(deps *command.Deps, stream progressStream, quiet bool) ([]*swarmv1.Image, error) {
	var images []*swarmv1.Image
	v := term.NewView(deps.Err, quiet)
	lines, order := map[string]string{}, []string{}
	for {
		p, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return images, nil
		}
		if err != nil {
			return images, err
		}
		if p.Image != nil {
			images = append(images, p.Image)
		}
		if p.Step == "" || quiet {
			continue
		}
		key := p.Node + " " + p.Id
		if p.Id == "" {
			key += p.Step
		}
		if _, ok := lines[key]; !ok {
			order = append(order, key)
		}
		lines[key] = stepLine(p, v.OnTerminal())
		shown := make([]string, 0, len(order))
		for _, key := range order[max(0, len(order)-term.MaxLines):] {
			shown = append(shown, lines[key])
		}
		v.Draw(shown)
	}
}

// stepLine returns a step in Docker's words. It names amounts on terminals only: elsewhere each
// line is printed once more when it changes, and amounts change often.
func stepLine(p *swarmv1.ImageProgress, amounts bool) string {
	line := p.Step
	for _, prefix := range []string{p.Id, p.Node} {
		if prefix != "" {
			line = prefix + ": " + line
		}
	}
	if !amounts || p.Current == 0 && p.Total == 0 {
		return line
	}
	if p.Total == 0 {
		return line + ": " + units.HumanSize(float64(p.Current))
	}
	const bar = 30
	done := int(min(p.Current, p.Total) * bar / p.Total)
	arrow := ""
	if done < bar {
		arrow = ">"
	}
	return fmt.Sprintf("%s [%s%s%s]  %s/%s", line, strings.Repeat("=", done), arrow, strings.Repeat(" ", bar-done-len(arrow)),
		units.HumanSize(float64(p.Current)), units.HumanSize(float64(p.Total)))
}

type pullOptions struct {
	nodes      []string
	all, quiet bool
}

func newPull(deps *command.Deps) *cobra.Command {
	var nodes flag.List
	var o pullOptions
	c := command.Verb(&cobra.Command{
		Use: "pull [OPTIONS] NAME[:TAG|@DIGEST]", Short: "Download an image from a registry", Args: usage.ExactArgs(1),
		ValidArgsFunction: complete.Images(deps),
		RunE: func(c *cobra.Command, args []string) error {
			if o.nodes = nodes.Values; o.all && len(o.nodes) > 0 {
				return usage.Errorf(c, "--all-nodes and --node are mutually exclusive")
			}
			return runPull(c.Context(), deps, args[0], o)
		},
	})
	nodes.Kind = "list"
	c.Flags().Var(&nodes, "node", "Nodes to download to, by id or name (default: the manager that is asked)")
	c.Flags().BoolVar(&o.all, "all-nodes", false, "Download to every ready node")
	c.Flags().BoolVarP(&o.quiet, "quiet", "q", false, "Suppress verbose output")
	return c
}

func runPull(ctx context.Context, deps *command.Deps, image string, o pullOptions) error {
	return transfer(ctx, deps, image, o.quiet, func(c command.Client, auth string) (progressStream, error) {
		return c.PullImage(ctx, &swarmv1.PullImageClusterRequest{Reference: image, RegistryAuth: auth, Nodes: o.nodes, All: o.all})
	})
}

// transfer downloads an image from its registry, or uploads it, and shows the progress and the
// result.
func transfer(ctx context.Context, deps *command.Deps, image string, quiet bool, begin func(c command.Client, auth string) (progressStream, error)) error {
	if err := flag.CheckImage(image); err != nil {
		return err
	}
	auth, err := command.RegistryAuth(ctx, deps, image)
	if err != nil {
		return err
	}
	return deps.Connect(ctx, func(c command.Client) error {
		stream, err := begin(c, auth)
		if err != nil {
			return err
		}
		images, err := progress(deps, stream, quiet)
		if err != nil {
			return err
		}
		printDigests(deps, images, quiet)
		return nil
	})
}

// printDigests prints each transferred image once, even if several nodes took part.
func printDigests(deps *command.Deps, images []*swarmv1.Image, quiet bool) {
	seen := map[string]bool{}
	for _, i := range images {
		if seen[i.GetName()+i.GetDigest()] {
			continue
		}
		seen[i.GetName()+i.GetDigest()] = true
		if !quiet && i.GetDigest() != "" {
			term.Printf(deps.Err, "Digest: %s\n", i.GetDigest())
		}
		term.Printf(deps.Out, "%s\n", i.GetName())
	}
}

func newPush(deps *command.Deps) *cobra.Command {
	var quiet bool
	c := command.Verb(&cobra.Command{
		Use: "push [OPTIONS] NAME[:TAG]", Short: "Upload an image to a registry", Args: usage.ExactArgs(1),
		ValidArgsFunction: complete.Images(deps),
		Example:           "  swarm image tag app:1 registry.example.com/team/app:1\n  swarm image push registry.example.com/team/app:1",
		RunE:              func(c *cobra.Command, args []string) error { return runPush(c.Context(), deps, args[0], quiet) },
	})
	c.Flags().BoolVarP(&quiet, "quiet", "q", false, "Suppress verbose output")
	return c
}

func runPush(ctx context.Context, deps *command.Deps, image string, quiet bool) error {
	return transfer(ctx, deps, image, quiet, func(c command.Client, auth string) (progressStream, error) {
		return c.PushImage(ctx, &swarmv1.PushImageClusterRequest{Reference: image, RegistryAuth: auth})
	})
}

func newTag(deps *command.Deps) *cobra.Command {
	return command.Verb(&cobra.Command{
		Use: "tag SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]", Short: "Give an image another name", Args: usage.ExactArgs(2),
		ValidArgsFunction: complete.Images(deps),
		RunE:              func(c *cobra.Command, args []string) error { return runTag(c.Context(), deps, args[0], args[1]) },
	})
}

func runTag(ctx context.Context, deps *command.Deps, source, target string) error {
	if err := flag.CheckImage(target); err != nil {
		return err
	}
	return deps.Connect(ctx, func(c command.Client) error {
		_, err := c.TagImage(ctx, &swarmv1.TagImageRequest{Source: source, Target: target})
		return err
	})
}
