package object

import (
	"cmp"
	"iter"
	"time"

	"swarm/manager/control/crud"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/table"
)

// Credentials describes the credentials of users. Several may have one name.
func Credentials() crud.Kind[*swarmv1.Credential] {
	return crud.Kind[*swarmv1.Credential]{
		Word: "credential", ListCommand: "swarm credential ls",
		Table:   func(v *table.View) table.Rows[*swarmv1.Credential] { return v.Credentials },
		TableID: table.Credential,
		Name:    func(_ *table.View, c *swarmv1.Credential) string { return c.GetName() },
		ByName: func(v *table.View, name string) iter.Seq[*swarmv1.Credential] {
			return crud.Where(v.Credentials.All(), func(c *swarmv1.Credential) bool { return c.GetName() == name })
		},
		Attributes: func(_ *table.View, c *swarmv1.Credential) map[string]string {
			return map[string]string{"name": c.GetName(), "issuer": c.GetIssuer(), "until": c.GetUntil().AsTime().Format(time.RFC3339)}
		},
		Subject: func(_ *table.View, c *swarmv1.Credential) crud.Subject {
			return crud.Subject{ID: c.GetId(), Names: []string{c.GetName()}}
		},
		Compare: compareCredentials,
	}
}

// compareCredentials orders credentials by name, and those of one name by age, the oldest first.
func compareCredentials(a, b *swarmv1.Credential) int {
	return cmp.Or(cmp.Compare(a.GetName(), b.GetName()), a.GetMeta().GetCreatedAt().AsTime().Compare(b.GetMeta().GetCreatedAt().AsTime()))
}
