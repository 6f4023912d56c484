package logs

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"swarm/cli/term"
	"swarm/internal/printable"
	swarmv1 "swarm/proto/swarm/v1"
)

// longestPart is the largest number of bytes that are kept of a line which comes in several
// records. The parts of a longer line are printed when they come.
const longestPart = 1 << 20

// printer writes records as lines, with their origin in front.
type printer struct {
	options
	out, err io.Writer
	raw      bool
	find     func(taskID string) *swarmv1.TaskInfo
	width    int // the widest prefix so far
	// details are the details of tasks as they are printed, by task id.
	details map[string]string
	// parts are the beginnings of lines that came in several records.
	parts map[logSource]*logPart
	// open is the line whose beginning was printed last, without its end. It is nil if the last
	// line that was printed is complete.
	open *logPart
}

// logSource is the origin of an ordered sequence of records.
type logSource struct {
	task   string
	stream swarmv1.LogRecord_Stream
}

// logPart is the beginning of a line.
type logPart struct {
	first *swarmv1.LogRecord // has its time
	data  []byte
	// began is set when a part of the line has been printed.
	began bool
}

// write prints a message of a manager.
func (p *printer) write(m *swarmv1.TaskLogsResponse) {
	for _, n := range m.Notices {
		p.note(n)
	}
	for _, d := range m.Details {
		pairs := make([]string, 0, len(d.Details))
		for _, key := range slices.Sorted(maps.Keys(d.Details)) {
			pairs = append(pairs, key+"="+d.Details[key])
		}
		if p.details == nil {
			p.details = map[string]string{}
		}
		p.details[d.TaskId] = strings.Join(pairs, ",")
	}
	for _, rec := range m.Records {
		p.print(rec)
	}
}

// note prints a line for the user that is not part of the logs.
func (p *printer) note(text string) {
	p.close()
	term.Printf(p.err, "swarm: %s\n", text)
}

func (p *printer) print(r *swarmv1.LogRecord) {
	if r.Lost > 0 {
		p.note(fmt.Sprintf("%d bytes of task %s were not kept: they came faster than they could be copied", r.Lost, r.TaskId))
		return
	}
	source := logSource{r.TaskId, r.Stream}
	part := p.parts[source]
	if part == nil {
		part = &logPart{first: r}
	}
	part.data = append(part.data, r.Data...)
	if !r.Partial {
		delete(p.parts, source)
		part.data = append(bytes.TrimSuffix(part.data, []byte{'\n'}), '\n')
		p.emit(part)
		p.open = nil
		return
	}
	if len(part.data) >= longestPart {
		p.emit(part)
		p.open, part.data = part, nil
	}
	if p.parts == nil {
		p.parts = map[logSource]*logPart{}
	}
	p.parts[source] = part
}

// emit prints a line, or the part of a line that has come so far.
func (p *printer) emit(part *logPart) {
	r := part.first
	if !part.began || p.open != part { // the line begins, or continues after another line
		p.close()
		_, _ = io.WriteString(p.writer(r), p.front(r))
	}
	part.began = true
	_, _ = p.writer(r).Write(part.data)
}

// close ends the line that was printed without its end, so that another can begin. Raw output is
// not changed.
func (p *printer) close() {
	if p.open != nil && !p.raw {
		_, _ = io.WriteString(p.writer(p.open.first), "\n")
	}
	p.open = nil
}

func (p *printer) writer(r *swarmv1.LogRecord) io.Writer {
	if r.Stream == swarmv1.LogRecord_STDERR {
		return p.err
	}
	return p.out
}

// front returns the text before a line, in Docker's order: time, origin, details.
func (p *printer) front(r *swarmv1.LogRecord) string {
	var b strings.Builder
	if p.timestamps {
		b.WriteString(r.Timestamp.AsTime().UTC().Format(timestampLayout) + " ")
	}
	if !p.raw {
		b.WriteString(p.prefix(r) + " | ")
	}
	if p.options.details {
		b.WriteString(printable.Line(p.details[r.TaskId]) + " ")
	}
	return b.String()
}

// timestampLayout has a fixed width, so that the columns after it are aligned.
const timestampLayout = "2006-01-02T15:04:05.000000000Z07:00"

// flush prints the lines whose end has not come. It adds no line end to raw output.
func (p *printer) flush() {
	for _, source := range slices.SortedFunc(maps.Keys(p.parts), func(a, b logSource) int {
		return cmp.Or(strings.Compare(a.task, b.task), cmp.Compare(a.stream, b.stream))
	}) {
		part := p.parts[source]
		if !p.raw {
			part.data = append(part.data, '\n')
		}
		p.emit(part)
		p.open = nil
	}
	p.parts = nil
	term.Flush(p.out, p.err)
}

// prefix returns "web.1.k3x9q2m4z7aa@node2", padded so that the bars of all lines are in one
// column.
func (p *printer) prefix(r *swarmv1.LogRecord) string {
	name, node := fmt.Sprintf("%s.%d", r.ServiceId, r.Slot), r.NodeId
	if t := p.find(r.TaskId); t != nil && !p.noResolve {
		name, node = term.TaskName(t), term.TaskNode(t)
	}
	if !p.noTaskIDs {
		id := r.TaskId
		if !p.noTrunc {
			id = term.ShortID(id)
		}
		name += "." + id
	}
	s := printable.Line(name + "@" + node)
	p.width = max(p.width, len(s)+4)
	return fmt.Sprintf("%-*s", p.width, s)
}
