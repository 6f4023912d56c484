package top

import (
	"fmt"
	"strings"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/x/ansi"

	"swarm/cli/stats"
	"swarm/cli/term"
	"swarm/internal/printable"
	swarmv1 "swarm/proto/swarm/v1"
)

const (
	// listFrame is how many lines of the screen are no rows of a list: the summary, the tabs, the
	// notice, the titles and the keys. logFrame is the same of a log.
	listFrame = 6
	logFrame  = 4
	// gap is the number of blanks between two columns, and minName the least width of names.
	gap     = 1
	minName = 12
)

func (m model) listHeight() int { return max(m.height-listFrame, 1) }
func (m model) logHeight() int  { return max(m.height-logFrame, 1) }

// View implements tea.Model.
func (m model) View() tea.View {
	v := tea.NewView(m.screen())
	v.AltScreen = true
	return v
}

// screen returns the lines of the screen: at most m.height, each at most m.width wide.
func (m model) screen() string {
	body := m.list
	if m.log != nil {
		body = m.logLines
	}
	lines := append([]string{m.summary()}, body()...)
	if len(lines) > m.height {
		lines = lines[:m.height]
	}
	for i := range lines {
		lines[i] = ansi.Truncate(lines[i], m.width, "")
	}
	return strings.Join(lines, "\n")
}

var (
	bold    = ansi.NewStyle(ansi.AttrBold)
	reverse = ansi.NewStyle(ansi.AttrReverse)
	warning = ansi.NewStyle(ansi.AttrBold, ansi.AttrRedForegroundColor)
	faint   = ansi.NewStyle(ansi.AttrFaint)
)

// summary is the first line: the cluster as a whole.
func (m model) summary() string {
	if m.snapshot == nil {
		return bold.Styled("swarm top") + "  waiting for the first figures"
	}
	s, ready, running := m.snapshot, 0, 0
	for _, n := range s.nodes {
		if n.GetState().GetState() == swarmv1.NodeState_READY {
			ready++
		}
	}
	for _, t := range s.stats.GetTasks() {
		if t.GetState() == swarmv1.TaskState_RUNNING {
			running++
		}
	}
	var used, limit uint64
	for _, h := range s.stats.GetNodes() {
		used, limit = used+h.GetUsage().GetMemory(), limit+h.GetUsage().GetMemoryLimit()
	}
	return fmt.Sprintf("%s  nodes %d/%d  services %d  tasks running %d  mem %s / %s", bold.Styled("swarm top"),
		ready, len(s.nodes), len(s.services), running, stats.Memory(used), stats.Memory(limit))
}

// notice is the line about what is wrong, or about what is shown.
func (m model) notice() string {
	var silent []string
	if m.snapshot != nil {
		for _, h := range m.snapshot.stats.GetNodes() {
			if h.GetError() != "" {
				silent = append(silent, fmt.Sprintf("%s: %s", printable.Line(h.GetName()), printable.Line(h.GetError())))
			}
		}
	}
	switch {
	case m.lost != "" && m.snapshot == nil:
		return warning.Styled("The manager does not answer: " + printable.Line(m.lost))
	case m.lost != "":
		return warning.Styled("Old figures, the manager does not answer: " + printable.Line(m.lost))
	case len(silent) > 0:
		return warning.Styled("No figures of " + strings.Join(silent, "; "))
	}
	return ""
}

// list returns the lines of the list that is shown, with its frame.
func (m model) list() []string {
	rows := m.rows()
	columns := m.columns()
	lines := []string{m.tabLine(len(rows)), m.notice(), bold.Styled(m.line(columns, titles(columns)))}
	first := min(m.top[m.tab], max(len(rows)-1, 0))
	for i := range m.listHeight() {
		at := first + i
		switch {
		case at < len(rows):
			text := m.line(columns, rows[at].cells)
			if at == m.position(rows) {
				text = reverse.Styled(text)
			}
			lines = append(lines, text)
		case at == 0 && m.snapshot != nil:
			lines = append(lines, faint.Styled("(none)"))
		default:
			lines = append(lines, "")
		}
	}
	return append(lines, "", m.keys())
}

// columns returns the columns of the list that fit into the screen.
func (m model) columns() []column {
	all := m.tab.columns()
	for len(all) > 2 && m.nameWidth(all) < minName {
		all = all[:len(all)-1]
	}
	return all
}

// nameWidth returns the width that columns leave to the first one.
func (m model) nameWidth(columns []column) int {
	rest := m.width
	for _, c := range columns[1:] {
		rest -= c.width + gap
	}
	return rest
}

// tabLine shows which list is shown, of what, and in which order.
func (m model) tabLine(n int) string {
	var words []string
	for t := range tabs {
		word := fmt.Sprintf(" %d %s ", t+1, t.title())
		if t == m.tab {
			word = reverse.Styled(word)
		}
		words = append(words, word)
	}
	text := strings.Join(words, " ")
	if m.scope != nil {
		text += fmt.Sprintf("  of %s %s", m.scope.kind, printable.Line(m.scope.name))
	}
	text += fmt.Sprintf("  %d by %s", n, [...]string{"name", "CPU", "memory"}[m.order])
	if m.all && m.tab == tasksTab {
		text += ", with ended ones"
	}
	return text
}

func titles(columns []column) (out []string) {
	for _, c := range columns {
		out = append(out, c.title)
	}
	return out
}

// line returns cells as a line that is as wide as the screen.
func (m model) line(columns []column, cells []string) string {
	words := make([]string, len(columns))
	for i, c := range columns {
		width := c.width
		if i == 0 {
			width = max(m.nameWidth(columns), minName)
		}
		words[i] = fit(cells[i], width, c.right)
	}
	return strings.Join(words, strings.Repeat(" ", gap))
}

// fit cuts or fills a text so that it is width cells wide.
func fit(text string, width int, right bool) string {
	text = ansi.Truncate(printable.Line(text), width, "…")
	fill := strings.Repeat(" ", max(width-ansi.StringWidth(text), 0))
	if right {
		return fill + text
	}
	return text + fill
}

// keys is the last line.
func (m model) keys() string {
	words := []string{"↑↓ choose", "1 2 3 list", "enter tasks", "l log", "n c m order", "q quit"}
	switch {
	case m.log != nil:
		words = []string{"↑↓ pgup pgdn scroll", "end follow", "esc back", "ctrl+c quit"}
	case m.scope != nil:
		words = []string{"↑↓ choose", "esc back", "enter log", "a all", "n c m order", "q quit"}
	case m.tab == nodesTab:
		words = []string{"↑↓ choose", "1 2 3 list", "enter tasks", "n c m order", "q quit"}
	case m.tab == tasksTab:
		words = []string{"↑↓ choose", "1 2 3 list", "enter log", "a all", "n c m order", "q quit"}
	}
	return faint.Styled(strings.Join(words, "  "))
}

// logLines returns the lines of the log that is shown, with its frame.
func (m model) logLines() []string {
	state := "following"
	if m.log.above > 0 {
		state = fmt.Sprintf("%d line%s below", m.log.above, term.Plural(m.log.above))
	}
	lines := []string{bold.Styled(fmt.Sprintf("Log of %s", printable.Line(m.log.name))) + "  " + state, m.notice()}
	height := m.logHeight()
	end := len(m.log.lines) - m.log.above
	shown := m.log.lines[max(end-height, 0):max(end, 0)]
	for i := range height {
		if i < len(shown) {
			lines = append(lines, ansi.Truncate(printable.Line(shown[i]), m.width, "…"))
		} else {
			lines = append(lines, "")
		}
	}
	return append(lines, m.keys())
}
