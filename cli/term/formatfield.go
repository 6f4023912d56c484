package term

import (
	"strings"
	"text/template"
	"text/template/parse"

	"google.golang.org/protobuf/reflect/protoreflect"

	"swarm/cli/usage"
)

// A template may name a field that an object has but that is not set. As in Docker, it prints the
// zero value of the field's type, or <no value> if the object that would have the field is not set
// either. A field that the object can never have is a typing error. text/template cannot tell the
// two apart, so templates are checked against the object first.

// absent is the value of a member that is not set. JSON leaves the member out; templates may name
// it.
type absent struct {
	// message makes the zero message of a field that holds a message. It is nil for other fields,
	// and for maps, because users choose their keys.
	message func() protoreflect.Message
	// zero is what templates get. Nil: nothing.
	zero any
}

// Optional returns a member that JSON leaves out unless set is true. Templates may name it in any
// case.
func Optional(name string, value any, set bool) Member {
	if !set {
		return Member{name, absent{}}
	}
	return Member{name, value}
}

func absentField(m protoreflect.Message, fd protoreflect.FieldDescriptor) absent {
	isMessage := fd.Kind() == protoreflect.MessageKind && !fd.IsMap() && fd.Message().ParentFile().Package() != "google.protobuf"
	switch {
	case fd.IsMap() && fd.MapValue().Kind() == protoreflect.StringKind:
		return absent{zero: map[string]string{}}
	case fd.IsMap():
		return absent{zero: map[string]any{}}
	case fd.IsList() && isMessage:
		return absent{message: func() protoreflect.Message { return m.NewField(fd).List().NewElement().Message() }, zero: []any{}}
	case fd.IsList():
		return absent{zero: []any{}}
	case isMessage:
		return absent{message: func() protoreflect.Message { return m.NewField(fd).Message() }}
	case fd.HasPresence():
		return absent{}
	}
	return absent{zero: describeValue(fd, fd.Default())}
}

// checkFields refuses a template that names a field which root can never have. It does not check
// fields of variables and of the results of functions.
func checkFields(t *template.Template, root Object) error {
	c := fieldCheck{root: root}
	c.list(t.Root, root)
	return c.err
}

type fieldCheck struct {
	root Object
	err  error
}

func (c *fieldCheck) list(l *parse.ListNode, dot any) {
	if l == nil {
		return
	}
	for _, n := range l.Nodes {
		switch n := n.(type) {
		case *parse.ActionNode:
			c.pipe(n.Pipe, dot)
		case *parse.IfNode:
			c.branch(&n.BranchNode, dot, dot)
		case *parse.WithNode:
			c.branch(&n.BranchNode, dot, c.pipe(n.Pipe, dot))
		case *parse.RangeNode:
			c.branch(&n.BranchNode, dot, element(c.pipe(n.Pipe, dot)))
		}
	}
}

func (c *fieldCheck) branch(b *parse.BranchNode, dot, inner any) {
	c.pipe(b.Pipe, dot)
	c.list(b.List, inner)
	c.list(b.ElseList, dot)
}

// pipe checks a pipeline. It returns the value of the pipeline if that is a field of dot, and nil
// if it is not.
func (c *fieldCheck) pipe(p *parse.PipeNode, dot any) (value any) {
	if p == nil {
		return nil
	}
	for _, cmd := range p.Cmds {
		value = nil
		for _, arg := range cmd.Args {
			v := c.arg(arg, dot)
			if len(p.Cmds) == 1 && len(cmd.Args) == 1 {
				value = v
			}
		}
	}
	return value
}

func (c *fieldCheck) arg(n parse.Node, dot any) any {
	switch n := n.(type) {
	case *parse.DotNode:
		return dot
	case *parse.FieldNode:
		return c.walk(dot, n.Ident)
	case *parse.VariableNode:
		if n.Ident[0] == "$" {
			return c.walk(c.root, n.Ident[1:])
		}
	case *parse.ChainNode:
		c.arg(n.Node, dot)
	case *parse.PipeNode:
		return c.pipe(n, dot)
	}
	return nil
}

// walk returns the value below v that a path of fields names, or nil if it is not known.
func (c *fieldCheck) walk(v any, path []string) any {
	for i, name := range path {
		if a, ok := v.(absent); ok && a.message != nil {
			v = describeMessage(a.message())
		}
		o, ok := v.(Object)
		if !ok {
			return nil
		}
		at := o.index(name)
		if at < 0 && c.err == nil {
			c.err = usage.Invalidf("format: there is no field .%s: see the fields with --format json", strings.Join(path[:i+1], "."))
		}
		if at < 0 {
			return nil
		}
		v = o[at].Value
	}
	return v
}

func (o Object) index(name string) int {
	for i, m := range o {
		if m.Name == name {
			return i
		}
	}
	return -1
}

// element returns a value for "." in a range over v. The value has the members of all elements.
func element(v any) any {
	var all Object
	switch v := v.(type) {
	case absent:
		return v
	case []any:
		for _, e := range v {
			if o, ok := e.(Object); ok {
				all = append(all, o...)
			}
		}
	}
	if all == nil {
		return nil
	}
	return all
}
