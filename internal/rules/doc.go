// Package rules holds the rules of the house as ordinary tests, each with its reason beside it:
// which folder may import which, which library has which door, what a package must say of itself,
// and that the documents tell the truth. It has no code of its own and is imported by nobody.
package rules
