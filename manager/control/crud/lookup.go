package crud

import (
	"fmt"
	"iter"
	"strings"

	"github.com/containerd/errdefs"

	"swarm/raftstore/table"
)

const (
	// MaxCandidates is how many candidates the error for an ambiguous reference names.
	MaxCandidates = 5
	// MinPrefix is the least number of characters with which a reference may be the beginning of an
	// id. Ids are random, so a shorter reference, such as a mistyped name, would often be the
	// beginning of some id by chance.
	MinPrefix = 4
)

// Lookup finds the objects of one kind in one view. Kind.In makes it.
type Lookup struct {
	word, listCommand string
	// byID yields the objects with exactly this id, byName those with this name, and byPrefix those
	// whose id begins with it.
	byID, byName, byPrefix func(string) iter.Seq[Object]
	// label is what a user calls the object, to tell candidates apart.
	label func(Object) string
}

// In returns the Lookup of the kind in a view.
func (k Kind[T]) In(v *table.View) Lookup {
	rows := k.Table(v)
	return Lookup{
		word: k.Word, listCommand: k.ListCommand,
		byID: func(id string) iter.Seq[Object] {
			return func(yield func(Object) bool) {
				if more := yieldAll(One(rows.Get(id)), yield); more && k.ByOtherID != nil {
					yieldAll(k.ByOtherID(v, id), yield)
				}
			}
		},
		byName: func(name string) iter.Seq[Object] {
			return func(yield func(Object) bool) { yieldAll(k.ByName(v, name), yield) }
		},
		byPrefix: func(prefix string) iter.Seq[Object] {
			return func(yield func(Object) bool) {
				more := true
				if len(prefix) >= MinPrefix {
					more = yieldAll(rows.Prefix(prefix), yield)
				}
				if more && k.ByOtherPrefix != nil {
					yieldAll(k.ByOtherPrefix(v, prefix), yield)
				}
			}
		},
		label: func(o Object) string { return k.Name(v, o.(T)) },
	}
}

// yieldAll yields the rows. It returns true if the consumer wants more.
func yieldAll[T Object](rows iter.Seq[T], yield func(Object) bool) bool {
	for row := range rows {
		if !yield(row) {
			return false
		}
	}
	return true
}

// One yields the row if ok is true.
func One[T any](row T, ok bool) iter.Seq[T] {
	return func(yield func(T) bool) {
		if ok {
			yield(row)
		}
	}
}

// Where yields the rows that fit.
func Where[T any](rows iter.Seq[T], fits func(T) bool) iter.Seq[T] {
	return func(yield func(T) bool) {
		for row := range rows {
			if fits(row) && !yield(row) {
				return
			}
		}
	}
}

// FindAny returns the object, of any of the kinds, that ref refers to. Every command uses this
// rule. FindAny compares ref first with the ids, then with the names, and then, if ref has at least
// MinPrefix characters, with the beginnings of the ids. Each step looks at all kinds before the
// next step begins, so FindAny never takes the name of a service for the beginning of a task's id.
//
// FindAny returns ErrNotFound if there is no such object. It returns ErrInvalidArgument if ref is
// empty, or if more than one object matches; that error names the candidates.
func FindAny(ref string, kinds ...Lookup) (Object, error) {
	words := wordsOf(kinds)
	if ref == "" {
		return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("%s is not named: give its id, the beginning of its id, or its name", words))
	}
	for _, step := range []func(Lookup) func(string) iter.Seq[Object]{
		func(l Lookup) func(string) iter.Seq[Object] { return l.byID },
		func(l Lookup) func(string) iter.Seq[Object] { return l.byName },
		func(l Lookup) func(string) iter.Seq[Object] { return l.byPrefix },
	} {
		var only Object
		var candidates []string
	collect:
		for _, l := range kinds {
			for row := range step(l)(ref) {
				only, candidates = row, append(candidates, fmt.Sprintf("%s %s (%s)", l.word, row.GetId(), l.label(row)))
				if len(candidates) > MaxCandidates {
					break collect
				}
			}
		}
		switch len(candidates) {
		case 0:
			continue
		case 1:
			return only, nil
		}
		if len(candidates) > MaxCandidates {
			candidates = append(candidates[:MaxCandidates], "others")
		}
		return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("%s %s is ambiguous: it may be any of %s: give the whole id", words, ref, strings.Join(candidates, ", ")))
	}
	return nil, notFound(ref, words, kinds)
}

func wordsOf(kinds []Lookup) string {
	words := make([]string, 0, len(kinds))
	for _, l := range kinds {
		words = append(words, l.word)
	}
	return strings.Join(words, " or ")
}

func notFound(ref, words string, kinds []Lookup) error {
	commands := make([]string, 0, len(kinds))
	for _, l := range kinds {
		commands = append(commands, "`"+l.listCommand+"`")
	}
	short := ""
	if len(ref) < MinPrefix {
		short = fmt.Sprintf(" (the beginning of an id needs %d characters or more)", MinPrefix)
	}
	return errdefs.ErrNotFound.WithMessage(fmt.Sprintf("%s %s not found%s: list them with %s", words, ref, short, strings.Join(commands, " and ")))
}
