package top

import (
	"context"

	tea "charm.land/bubbletea/v2"
)

// tab is one of the lists of the UI.
type tab int

const (
	nodesTab tab = iota
	servicesTab
	tasksTab
	tabs // the number of tabs
)

// order is what a list is sorted by.
type order int

const (
	byName order = iota
	byCPU
	byMemory
)

// maxLog is how many lines of a log are kept.
const maxLog = 2000

// scope limits the tasks that are shown to those of a node or service.
type scope struct {
	kind, id, name string
	from           tab
}

// model is the state of the UI. It implements tea.Model.
type model struct {
	ctx context.Context
	// openLog returns the command that reads the log of a service or task, and ends the one
	// before. An empty ref only ends it.
	openLog func(ctx context.Context, call int, ref string) tea.Cmd

	width, height int
	snapshot      *snapshot // nil: none has come yet
	lost          string    // why the manager does not answer; "": it does

	tab    tab
	order  order
	all    bool // also tasks that have ended
	scope  *scope
	chosen [tabs]string // the key of the chosen row of each list
	top    [tabs]int    // the first row that is shown

	log *logView // nil: a list is shown
	// calls is the number of logs that were opened.
	calls int
}

// logView is the log that the user looks at.
type logView struct {
	name  string
	call  int
	lines []string
	// above is how many lines below the last shown one there are: 0 follows the log.
	above int
}

func newModel(ctx context.Context, openLog func(context.Context, int, string) tea.Cmd) model {
	return model{ctx: ctx, openLog: openLog, width: 80, height: 24}
}

// Init implements tea.Model.
func (m model) Init() tea.Cmd { return nil }

// Update implements tea.Model.
func (m model) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		m.width, m.height = msg.Width, msg.Height
	case snapshot:
		m.snapshot, m.lost = &msg, ""
	case lost:
		m.lost = msg.reason
	case moreLines:
		m.addLines(msg.logLines)
		return m.settled(), msg.next
	case logLines:
		m.addLines(msg)
	case tea.KeyPressMsg:
		return m.key(msg.String())
	}
	return m.settled(), nil
}

func (m *model) addLines(l logLines) {
	if m.log == nil || m.log.call != l.call {
		return
	}
	log := *m.log
	log.lines = append(log.lines[:len(log.lines):len(log.lines)], l.lines...)
	if log.above > 0 { // The user reads older lines: they stay where they are.
		log.above += len(l.lines)
	}
	if n := len(log.lines) - maxLog; n > 0 {
		log.lines = log.lines[n:]
	}
	m.log = &log
}

// key returns the state after a key was pressed.
func (m model) key(key string) (tea.Model, tea.Cmd) {
	if key == "ctrl+c" || key == "q" && m.log == nil {
		return m, tea.Quit
	}
	if m.log != nil {
		return m.logKey(key)
	}
	switch key {
	case "1", "2", "3":
		m.tab, m.scope = tab(key[0]-'1'), nil
	case "tab", "right":
		m.tab, m.scope = (m.tab+1)%tabs, nil
	case "shift+tab", "left":
		m.tab, m.scope = (m.tab+tabs-1)%tabs, nil
	case "n":
		m.order = byName
	case "c":
		m.order = byCPU
	case "m":
		m.order = byMemory
	case "a":
		m.all = !m.all
	case "enter":
		return m.enter()
	case "l":
		return m.showLog()
	case "esc", "backspace":
		if m.scope != nil {
			m.tab, m.scope = m.scope.from, nil
		}
	default:
		m.move(key)
	}
	return m.settled(), nil
}

// move chooses another row.
func (m *model) move(key string) {
	rows := m.rows()
	at, page := m.position(rows), m.listHeight()
	switch key {
	case "up", "k":
		at--
	case "down", "j":
		at++
	case "pgup", "ctrl+b":
		at -= page
	case "pgdown", "ctrl+f", "space":
		at += page
	case "home", "g":
		at = 0
	case "end", "G":
		at = len(rows) - 1
	}
	if len(rows) > 0 {
		m.chosen[m.tab] = rows[min(max(at, 0), len(rows)-1)].key
	}
}

// enter shows the tasks of the chosen node or service, or the log of the chosen task.
func (m model) enter() (tea.Model, tea.Cmd) {
	row, ok := m.chosenRow()
	switch {
	case !ok:
		return m, nil
	case m.tab == tasksTab:
		return m.showLog()
	}
	kind := "node"
	if m.tab == servicesTab {
		kind = "service"
	}
	m.scope = &scope{kind: kind, id: row.key, name: row.name, from: m.tab}
	m.tab = tasksTab
	return m.settled(), nil
}

// showLog shows the log of the chosen service or task.
func (m model) showLog() (tea.Model, tea.Cmd) {
	row, ok := m.chosenRow()
	if !ok || m.tab == nodesTab {
		return m, nil
	}
	m.calls++
	m.log = &logView{name: row.name, call: m.calls}
	return m, m.openLog(m.ctx, m.calls, row.key)
}

// logKey returns the state after a key was pressed while a log is shown.
func (m model) logKey(key string) (tea.Model, tea.Cmd) {
	log := *m.log
	page := m.logHeight()
	switch key {
	case "esc", "q", "l", "enter", "backspace":
		m.log = nil
		return m.settled(), m.openLog(m.ctx, 0, "")
	case "up", "k":
		log.above++
	case "down", "j":
		log.above--
	case "pgup", "ctrl+b":
		log.above += page
	case "pgdown", "ctrl+f", "space":
		log.above -= page
	case "home", "g":
		log.above = len(log.lines)
	case "end", "G":
		log.above = 0
	}
	log.above = max(min(log.above, len(log.lines)-page), 0)
	m.log = &log
	return m, nil
}

// settled returns the state with a row chosen, and the list scrolled so that it is seen.
func (m model) settled() model {
	rows := m.rows()
	if len(rows) == 0 {
		m.top[m.tab] = 0
		return m
	}
	at, height := m.position(rows), m.listHeight()
	m.chosen[m.tab] = rows[at].key
	first := min(m.top[m.tab], at, max(len(rows)-height, 0))
	m.top[m.tab] = max(first, at-height+1)
	return m
}

// position returns the index of the chosen row. If the chosen object is gone, it is the first one.
func (m model) position(rows []row) int {
	for i, r := range rows {
		if r.key == m.chosen[m.tab] {
			return i
		}
	}
	return 0
}

func (m model) chosenRow() (row, bool) {
	rows := m.rows()
	if len(rows) == 0 {
		return row{}, false
	}
	return rows[m.position(rows)], true
}
