package data

import (
	"context"
	"crypto/rand"
	"fmt"

	"github.com/spf13/cobra"

	"swarm/cli/command"
	"swarm/cli/flag"
	"swarm/cli/term"
	"swarm/cli/usage"
	"swarm/internal/pause"
	swarmv1 "swarm/proto/swarm/v1"
)

// source says where the data of a version comes from.
type source struct {
	file     string // "-" is the standard input; "" is no file
	generate int    // characters; 0: the data comes from file
}

func (s *source) addFlag(c *cobra.Command) {
	c.Flags().IntVar(&s.generate, "generate", 0, "Make random data of so many letters and digits (8 to 4096)")
}

// minGenerated and maxGenerated limit the length of generated data. Eight characters have 47 bits.
const minGenerated, maxGenerated = 8, 4096

// data reads or makes the data.
func (s source) data(c *cobra.Command, n noun) ([]byte, error) {
	if !c.Flags().Changed("generate") {
		return n.read(s.file)
	}
	if s.file != "" {
		return nil, usage.Invalidf("--generate and a file exclude each other: give one of them")
	}
	if s.generate < minGenerated || s.generate > maxGenerated {
		return nil, usage.Invalidf("--generate %d is out of range: use %d to %d", s.generate, minGenerated, maxGenerated)
	}
	return randomText(s.generate)
}

// randomText returns letters and digits from the system's random source.
func randomText(length int) ([]byte, error) {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
	const fair = 256 - 256%len(alphabet) // Bytes from here on would make some characters more frequent.
	out := make([]byte, 0, length)
	for len(out) < length {
		var b [64]byte
		if _, err := rand.Read(b[:]); err != nil {
			return nil, err
		}
		for _, r := range b {
			if int(r) < fair && len(out) < length {
				out = append(out, alphabet[int(r)%len(alphabet)])
			}
		}
	}
	return out, nil
}

type createOptions struct {
	source
	name           string
	labels         flag.List
	driver         string
	templateDriver string
}

func (n noun) newCreate() *cobra.Command {
	o := createOptions{labels: flag.List{Kind: "list"}}
	c := command.Verb(&cobra.Command{
		Use: fmt.Sprintf("create [OPTIONS] %s [file|-]", n.arg), Short: fmt.Sprintf("Create a %s from a file or STDIN as content", n.Word),
		Args: cobra.MatchAll(usage.MinArgs(1), usage.MaxArgs(2)),
		RunE: func(c *cobra.Command, args []string) error {
			o.name = args[0]
			if len(args) == 2 {
				o.file = args[1]
			}
			return n.runCreate(c, o)
		},
	})
	f := c.Flags()
	f.VarP(&o.labels, "label", "l", n.arg+" labels")
	f.StringVar(&o.templateDriver, "template-driver", "", "Template driver (golang): the nodes expand the data for each task")
	if n.Word == "secret" {
		f.StringVarP(&o.driver, "driver", "d", "", "Secret driver (there are none: leave it out)")
		o.source.addFlag(c)
	}
	return c
}

func (n noun) runCreate(c *cobra.Command, o createOptions) error {
	if o.driver != "" {
		return usage.Invalidf("--driver %s: secrets have no drivers; leave --driver out", o.driver)
	}
	s := &swarmv1.DataSpec{Name: o.name, Labels: flag.AddPairs(nil, o.labels.Values)}
	if o.templateDriver != "" {
		s.Templating = &swarmv1.Driver{Name: o.templateDriver}
	}
	s, err := n.Spec(s)
	if err != nil {
		return err
	}
	data, err := o.required(c, n)
	if err != nil {
		return err
	}
	if err := n.CheckData(s, data); err != nil {
		return err
	}
	ctx := c.Context()
	return n.connect(ctx, func(m methods) error {
		info, err := m.create(ctx, &swarmv1.CreateDataRequest{Spec: s, Data: data})
		if err != nil {
			return err
		}
		term.Printf(n.deps.Out, "%s\n", info.GetId())
		return nil
	})
}

// required returns the data, which must have a source.
func (s source) required(c *cobra.Command, n noun) ([]byte, error) {
	if s.file == "" && !c.Flags().Changed("generate") {
		more := ""
		if n.Word == "secret" {
			more = ", or make it with --generate 32"
		}
		return nil, usage.Invalidf("the %s has no data: name a file, or - for the standard input%s", n.Word, more)
	}
	return s.data(c, n)
}

// showUses prints which services an update of the object touches, and how.
func (n noun) showUses(info *swarmv1.DataInfo, number uint64) {
	var lines []string
	for _, use := range info.GetUses() {
		ref := use.GetReference()
		switch {
		case ref.GetPinned():
			lines = append(lines, fmt.Sprintf("  %s keeps version %d, to which it is pinned", use.GetServiceName(), ref.GetNumber()))
		case ref.GetNumber() != number:
			lines = append(lines, fmt.Sprintf("  %s %s", use.GetServiceName(), describeAction(ref.GetOnUpdate())))
		}
	}
	if len(lines) == 0 {
		return
	}
	term.Printf(n.deps.Err, "Services that use %s %s:\n", n.Word, info.GetSpec().GetName())
	for _, line := range lines {
		term.Printf(n.deps.Err, "%s\n", line)
	}
}

func describeAction(on *swarmv1.OnUpdate) string {
	switch on.GetAction() {
	case swarmv1.OnUpdate_NONE:
		return "gets the new file, and its containers run on"
	case swarmv1.OnUpdate_SIGNAL:
		return "gets the new file, and its containers get signal " + on.GetSignal()
	case swarmv1.OnUpdate_EXEC:
		return "gets the new file, and its containers run " + on.GetCommand()[0]
	}
	return "restarts its tasks, by its update policy"
}

// await follows the rollout of the current version until it has ended. It returns an error if it
// stopped.
func (n noun) await(ctx context.Context, m methods, info *swarmv1.DataInfo) error {
	said := ""
	for {
		rollout := info.GetStatus().GetRollout()
		line := rollout.GetMessage()
		if line != said && line != "" {
			term.Printf(n.deps.Err, "%s\n", line)
			said = line
		}
		switch {
		case rollout == nil, rollout.GetState() == swarmv1.DataRollout_DONE:
			return nil
		case rollout.GetState() == swarmv1.DataRollout_STOPPED:
			return fmt.Errorf("%s %s: version %d is not on all services: give it new data with `swarm %s update`, or return to an older version with `swarm %s rollback %s`",
				n.Word, info.GetSpec().GetName(), info.GetStatus().GetNumber(), n.Word, n.Word, info.GetSpec().GetName())
		}
		if err := pause.For(ctx, lookPause); err != nil {
			return err
		}
		next, err := m.get(ctx, &swarmv1.GetRequest{Id: info.GetId()})
		if err != nil {
			return err
		}
		if next.GetStatus().GetNumber() != info.GetStatus().GetNumber() {
			return fmt.Errorf("%s %s: another update has made version %d current", n.Word, info.GetSpec().GetName(), next.GetStatus().GetNumber())
		}
		info = next
	}
}
