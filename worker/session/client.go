package session

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"

	"swarm/internal/bounds"
	"swarm/internal/logsample"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/worker/lease"
	"swarm/worker/state"
)

// Config is what the node tells its managers, and how patient it is with them.
type Config struct {
	// MachineID, Addr, DataPathAddr and Port are told to the managers.
	MachineID    string
	Addr         string
	DataPathAddr string
	Port         uint32
	// Epoch and Index are the newest cluster epoch and store index that this node has applied.
	Epoch, Index uint64
	// ConnectTimeout is how long a manager may take to welcome this node.
	ConnectTimeout time.Duration
	// MaxBackoff caps the pause between two rounds over all managers.
	MaxBackoff time.Duration
	// SinceBoot is the clock of leases.
	SinceBoot func() time.Duration
}

// Images tells a session which images the node holds.
type Images interface {
	// List returns the images whose blobs are all on this node.
	List(ctx context.Context) ([]*swarmv1.Image, error)
	// Changed returns a channel that is closed when List would return something else. Call it
	// before List.
	Changed() <-chan struct{}
}

// Deps are the live objects that a Client works with. Renewed, OnNode, OnContact and Programmed are
// optional.
type Deps struct {
	Log    *slog.Logger
	State  *state.DB
	Lease  *lease.Lease
	Images Images
	// Managers returns the managers to try. It is called for every round.
	Managers func() []*swarmv1.Peer
	// Dial returns a connection to a node. The connection stays open and belongs to the callee.
	Dial func(nodeID string) (grpc.ClientConnInterface, error)
	// Renewed returns a channel that the next renewal of this node's certificate closes.
	Renewed func() <-chan struct{}
	// Describe returns what the node is. It is called at the start of each session and after
	// Client.Redescribe.
	Describe func() *swarmv1.NodeDescription
	// Apply acts on a message of assignments. The session has checked its order, age and form.
	Apply func(*swarmv1.Assignments)
	// Programmed returns nil once the kernel and the name server reflect everything that Apply was
	// given so far. Any error is retried. If it is nil, they always do.
	Programmed func(ctx context.Context) error
	// OnNode is given what a manager says about this node. It must not block.
	OnNode func(*swarmv1.NodeUpdate)
	// OnContact is told when a session begins and ends. It must not block.
	OnContact func(managerID string, up bool)
}

// Client is the worker's side of its sessions: it has at most one at a time. Its methods may be
// called concurrently.
type Client struct {
	cfg     Config
	deps    Deps
	contact *contact
	reports *reports
	barrier *barrier
	sampled *logsample.Sampler // for log lines that managers cause

	leaseLength atomic.Int64 // of single-writer tasks in the newest session, in ns

	redescribe chan struct{} // one token: the description changed
	synced     chan struct{} // closed by the first complete set of assignments
	syncOnce   sync.Once
	departing  chan struct{} // closed when the host goes down
	departOnce sync.Once
	parted     chan struct{} // closed when a manager has taken the departure
	partOnce   sync.Once
}

// New returns a Client. It does nothing before Run.
func New(cfg Config, deps Deps) *Client {
	return &Client{
		cfg: cfg, deps: deps,
		contact:    newContact(cfg.Epoch, cfg.Index),
		reports:    newReports(),
		barrier:    newBarrier(),
		sampled:    logsample.New(deps.Log),
		redescribe: make(chan struct{}, 1),
		synced:     make(chan struct{}),
		departing:  make(chan struct{}),
		parted:     make(chan struct{}),
	}
}

// Redescribe makes the client call Deps.Describe again and tell the manager.
func (c *Client) Redescribe() {
	select {
	case c.redescribe <- struct{}{}:
	default:
	}
}

// Seen returns the store index of the newest state that this node has applied, and whether it has
// a session.
func (c *Client) Seen() (index uint64, connected bool) {
	c.contact.mu.Lock()
	defer c.contact.mu.Unlock()
	return c.contact.index, c.contact.manager != ""
}

// Refusal returns why the managers do not serve this node, in a manager's words, as when its disk
// was cloned. It is nil when a manager serves it, and when none has answered.
func (c *Client) Refusal() error {
	c.contact.mu.Lock()
	defer c.contact.mu.Unlock()
	return c.contact.refusal
}

// Conn returns a connection to the manager of the session; ErrUnavailable if there is no session.
func (c *Client) Conn() (grpc.ClientConnInterface, error) {
	c.contact.mu.Lock()
	manager := c.contact.manager
	c.contact.mu.Unlock()
	if manager == "" {
		return nil, errdefs.ErrUnavailable.WithMessage("no manager is in contact")
	}
	return c.deps.Dial(manager)
}

// OutOfContact waits for delay, and on until no manager has been in contact for 10 s. It returns
// true then: the worker acts alone. It returns false as soon as there is a session, and when ctx
// ends.
func (c *Client) OutOfContact(ctx context.Context, delay time.Duration) bool {
	return c.contact.outOfContact(ctx, delay)
}

// Synced returns a channel that the first complete set of assignments closes, once it is applied.
func (c *Client) Synced() <-chan struct{} { return c.synced }

// IsSynced reports whether the managers have said which tasks this node has.
func (c *Client) IsSynced() bool {
	select {
	case <-c.synced:
		return true
	default:
		return false
	}
}

// AwaitSynced waits until the managers have said which tasks this node has, or until the node has
// been out of contact with them for so long that it acts alone, or until ctx ends.
func (c *Client) AwaitSynced(ctx context.Context) {
	for !c.IsSynced() && ctx.Err() == nil {
		changed := c.contact.changes()
		if c.contact.outOfContact(ctx, 0) {
			return
		}
		select { // There is a session.
		case <-c.synced:
		case <-changed:
		case <-ctx.Done():
		}
	}
}

// Report queues a task's status for the managers, and state.db keeps it. An urgent status is sent
// at once, any other with the next heartbeat or the next urgent one. Err and Message are cut to the
// length that managers accept, because containers choose some of their text: a report that managers
// refuse would be sent again in every session, and would hold up the statuses of all other tasks.
func (c *Client) Report(s *swarmv1.TaskStatus, urgent bool) {
	if len(s.Err) > bounds.MaxText || len(s.Message) > bounds.MaxText {
		s = s.CloneVT()
		s.Err, s.Message = bounds.Text(s.Err, bounds.MaxText), bounds.Text(s.Message, bounds.MaxText)
	}
	c.deps.State.SetStatus(s)
	c.reports.add(s, urgent)
}

// Resend queues a status that an earlier process of this node left unacknowledged in state.db.
func (c *Client) Resend(s *swarmv1.TaskStatus) { c.reports.add(s, true) }

// Drop takes the status of a task that is not assigned any more out of the queue.
func (c *Client) Drop(taskID string) { c.reports.drop(taskID) }

// acked notes that the managers have the statuses of a report.
func (c *Client) acked(sequence uint64) {
	for _, s := range c.reports.ack(sequence) {
		c.deps.State.SetAcknowledged(s.TaskId)
	}
}

// apply hands a message of assignments to the worker.
func (c *Client) apply(msg *swarmv1.Assignments) {
	c.deps.Apply(msg)
	if msg.Complete {
		c.syncOnce.Do(func() { close(c.synced) })
	}
}

// describe returns what the node is, cut to what managers accept: a host with thousands of routes
// has a large description.
func (c *Client) describe() *swarmv1.NodeDescription {
	d := c.deps.Describe()
	return bounds.Description(d, d.GetHostname())
}
