// Package object describes the kinds of objects that users see: how a reference finds them, what
// they are called, what filters see of them, and what must not be shown. It also answers what one
// kind asks about another, like which services use an image, because the packages of the nouns do
// not import each other.
//
// Everything here only reads a view: the package neither writes nor calls nodes. Its callers are
// the packages below manager/control. It starts no goroutine.
package object
