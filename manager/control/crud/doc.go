// Package crud is the one way in which the users' API finds, lists, creates, changes and removes
// stored objects, whatever their kind. A Kind describes a kind of objects: its words for messages,
// its table, its names and its claims. The operations are methods of Kind:
//
//	Find     looks an object up by its id, its name, or the beginning of its id
//	List     lists what a filter matches, in order
//	Create   writes a new object under a name that is free
//	Update   changes an object, if the caller's version is the newest
//	Remove   deletes an object, or marks it for the planner to delete
//
// The last three go through Writer.Write. It makes a group of changes from the newest view and
// commits the group. If another writer was faster, it makes the changes again, from a newer view.
//
// The package treats all objects in the same way. Validation, authorisation and everything that
// follows from a change belong to the packages of the nouns, which are its only callers. It starts
// no goroutine.
package crud
