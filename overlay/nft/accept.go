//go:build linux

package nft

import (
	"fmt"
	"log/slog"
	"os"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
)

// dockerUser is the chain that dockerd reserves for other programs. dockerd jumps to this chain
// first, and does not delete its rules.
const dockerUser = "DOCKER-USER"

// Accepts describes the accept rules for the packets of one interface in foreign chains which drop
// forwarded packets, for example `FORWARD` of dockerd or ufw, or a chain of firewalld. An accept
// rule in a table of ours would not help: the kernel runs every base chain, and a drop in one of
// them is final.
type Accepts struct {
	Interface string
	// Tag is the comment of our rules. It identifies them, so no other program may use it.
	Tag string
}

// Ensure adds the rules that are missing. It logs errors and does not return them: the firewall
// belongs to the owner of the host, and containers without published ports work without the rules.
func (a Accepts) Ensure(conn *Conn, log *slog.Logger) {
	if err := conn.Do(a.add); err != nil {
		log.Warn("cannot add accept rules to the host's firewall: it may drop packets to and from containers", "interface", a.Interface, "err", err)
	}
	if b, err := os.ReadFile("/proc/thread-self/net/ip_tables_names"); err == nil && len(b) > 0 {
		log.Info("this host has legacy iptables rules beside nftables; if their FORWARD policy is DROP, run: iptables-legacy -I FORWARD -i " +
			a.Interface + " -j ACCEPT, and the same with -o")
	}
}

// Mend adds the rules that are missing, like Ensure, but returns the error. Call it after a change
// of the host's rules.
func (a Accepts) Mend(conn *Conn) error { return conn.Do(a.add) }

func (a Accepts) add(c *nftables.Conn) error {
	chains, err := droppingChains(c)
	if err != nil {
		return err
	}
	for _, ch := range chains {
		rules, err := c.GetRules(ch.Table, ch)
		if err != nil {
			return fmt.Errorf("list rules of %s %s: %w", ch.Table.Name, ch.Name, err)
		}
		if len(a.ours(rules)) == 2 {
			continue
		}
		for _, old := range a.ours(rules) {
			if err := c.DelRule(old); err != nil {
				return err
			}
		}
		for _, key := range []expr.MetaKey{expr.MetaKeyIIFNAME, expr.MetaKeyOIFNAME} {
			c.InsertRule(&nftables.Rule{
				Table: ch.Table, Chain: ch, UserData: userdata.AppendString(nil, userdata.TypeComment, a.Tag),
				// iptables builds `-i swarm0 -j ACCEPT` from the same expressions, so it can list
				// our rule.
				Exprs: Join(Interface(key, expr.CmpOpEq, a.Interface), &expr.Counter{}, &expr.Verdict{Kind: expr.VerdictAccept}),
			})
		}
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("accept forwarding for %s: %w", a.Interface, err)
	}
	return nil
}

// Missing returns the foreign chains which drop forwarded packets and lack our rules for the
// interface, as "family table chain".
func (a Accepts) Missing(conn *Conn) ([]string, error) {
	var out []string
	err := conn.Do(func(c *nftables.Conn) error {
		chains, err := droppingChains(c)
		if err != nil {
			return err
		}
		for _, ch := range chains {
			rules, err := c.GetRules(ch.Table, ch)
			if err != nil {
				return fmt.Errorf("list rules of %s %s: %w", ch.Table.Name, ch.Name, err)
			}
			if len(a.ours(rules)) < 2 {
				out = append(out, ChainName(ch))
			}
		}
		return nil
	})
	return out, err
}

// ChainName returns the name of a chain as the nft command prints it: "family table chain".
func ChainName(ch *nftables.Chain) string {
	family := map[nftables.TableFamily]string{
		nftables.TableFamilyIPv4: "ip", nftables.TableFamilyIPv6: "ip6", nftables.TableFamilyINet: "inet",
	}[ch.Table.Family]
	return strings.Join([]string{family, ch.Table.Name, ch.Name}, " ")
}

// droppingChains returns the chains which need our accept rules: each base chain on the forward
// hook that ends in a drop, or instead of it the chain DOCKER-USER of the same table.
func droppingChains(c *nftables.Conn) ([]*nftables.Chain, error) {
	all, err := c.ListChains()
	if err != nil {
		return nil, fmt.Errorf("list nftables chains: %w", err)
	}
	forUsers := make(map[nftables.Table]*nftables.Chain)
	for _, ch := range all {
		if ch.Name == dockerUser {
			forUsers[key(ch.Table)] = ch
		}
	}
	var out []*nftables.Chain
	for _, ch := range all {
		if !Routes(ch.Table) || ch.Hooknum == nil || *ch.Hooknum != *nftables.ChainHookForward || ch.Type != nftables.ChainTypeFilter {
			continue
		}
		drops, err := EndsInDrop(c, ch)
		if err != nil {
			return nil, err
		}
		if !drops {
			continue
		}
		if u := forUsers[key(ch.Table)]; u != nil {
			ch = u
		}
		out = append(out, ch)
	}
	return out, nil
}

// EndsInDrop reports whether a base chain drops all packets that it does not accept, by its policy
// or by an unconditional last rule, as in firewalld's chains.
func EndsInDrop(c *nftables.Conn, ch *nftables.Chain) (bool, error) {
	if ch.Policy != nil && *ch.Policy == nftables.ChainPolicyDrop {
		return true, nil
	}
	rules, err := c.GetRules(ch.Table, ch)
	if err != nil {
		return false, fmt.Errorf("list rules of %s %s: %w", ch.Table.Name, ch.Name, err)
	}
	if len(rules) == 0 {
		return false, nil
	}
	for _, e := range rules[len(rules)-1].Exprs {
		switch e := e.(type) {
		case *expr.Counter, *expr.Log:
		case *expr.Reject:
			return true, nil
		case *expr.Target: // as iptables writes it
			return e.Name == "REJECT", nil
		case *expr.Verdict:
			return e.Kind == expr.VerdictDrop, nil
		default:
			return false, nil // It has a condition.
		}
	}
	return false, nil
}

// Routes reports whether the chains of the table see IP packets that the host forwards.
func Routes(t *nftables.Table) bool {
	return t.Family == nftables.TableFamilyIPv4 || t.Family == nftables.TableFamilyIPv6 || t.Family == nftables.TableFamilyINet
}

func key(t *nftables.Table) nftables.Table {
	return nftables.Table{Name: t.Name, Family: t.Family}
}

func (a Accepts) ours(rules []*nftables.Rule) []*nftables.Rule {
	var out []*nftables.Rule
	for _, r := range rules {
		if comment, ok := userdata.GetString(r.UserData, userdata.TypeComment); ok && comment == a.Tag {
			out = append(out, r)
		}
	}
	return out
}

// Remove deletes our rules from all foreign chains.
func (a Accepts) Remove(conn *Conn) error {
	return conn.Do(func(c *nftables.Conn) error {
		chains, err := c.ListChains()
		if err != nil {
			return fmt.Errorf("list nftables chains: %w", err)
		}
		for _, ch := range chains {
			// Any of these chains may have ended in a drop when the rule was added.
			if !Routes(ch.Table) || (ch.Name != dockerUser && (ch.Hooknum == nil || *ch.Hooknum != *nftables.ChainHookForward)) {
				continue
			}
			rules, err := c.GetRules(ch.Table, ch)
			if err != nil {
				return fmt.Errorf("list rules of %s %s: %w", ch.Table.Name, ch.Name, err)
			}
			for _, rule := range a.ours(rules) {
				if err := c.DelRule(rule); err != nil {
					return err
				}
			}
		}
		if err := c.Flush(); err != nil {
			return fmt.Errorf("remove forwarding rules of %s: %w", a.Interface, err)
		}
		return nil
	})
}

// RemoveTable removes a table. It returns nil if the table does not exist.
func RemoveTable(conn *Conn, t *nftables.Table) error {
	return conn.Do(func(c *nftables.Conn) error {
		// Deleting a table that does not exist would fail, so add it first.
		c.AddTable(t)
		c.DelTable(t)
		if err := c.Flush(); err != nil {
			return fmt.Errorf("remove nftables table %s: %w", t.Name, err)
		}
		return nil
	})
}
