package object

import (
	"iter"
	"strconv"

	"swarm/manager/control/crud"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/table"
)

// Data is a secret or a config.
type Data interface {
	crud.Object
	GetSpec() *swarmv1.DataSpec
	GetStatus() *swarmv1.DataStatus
}

// DataRow is the type of the rows of secrets, or of those of configs.
type DataRow[T any] interface {
	crud.Row[T]
	Data
}

// Secrets describes secrets.
func Secrets() crud.Kind[*swarmv1.Secret] {
	k := dataKind("secret", func(v *table.View) table.Rows[*swarmv1.Secret] { return v.Secrets })
	k.TableID = table.Secret
	return k
}

// Configs describes configs.
func Configs() crud.Kind[*swarmv1.Config] {
	k := dataKind("config", func(v *table.View) table.Rows[*swarmv1.Config] { return v.Configs })
	k.TableID = table.Config
	return k
}

func dataKind[T DataRow[T]](word string, rows func(*table.View) table.Rows[T]) crud.Kind[T] {
	name := func(row T) string { return row.GetSpec().GetName() }
	return crud.Kind[T]{
		Word: word, ListCommand: "swarm " + word + " ls",
		Table:  rows,
		Name:   func(_ *table.View, row T) string { return name(row) },
		ByName: func(v *table.View, name string) iter.Seq[T] { return crud.One(rows(v).ByName(name)) },
		Attributes: func(_ *table.View, row T) map[string]string {
			return map[string]string{"name": name(row), "version": strconv.FormatUint(row.GetStatus().GetNumber(), 10)}
		},
		Subject: func(_ *table.View, row T) crud.Subject {
			return crud.Subject{ID: row.GetId(), Names: []string{name(row)}, Labels: []map[string]string{row.GetSpec().GetLabels()}}
		},
		Compare: crud.ByName(name),
		Remedy:  ", or give that one new data with `swarm " + word + " update`",
	}
}

// DataGuardKey returns the key of the claim that guards a secret or config. A service that begins
// to use the object touches the claim, so the store refuses a removal at the same moment. The row
// of the object cannot be touched, because it is edited.
func DataGuardKey(id string) string { return "data/" + id }
