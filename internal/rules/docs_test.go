package rules

import (
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"
)

// documents returns the text of each document, by its path.
func documents(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, f := range tracked(t, "*.md") {
		text, err := os.ReadFile(filepath.Join(root, f))
		if err != nil {
			t.Fatal(err)
		}
		out[f] = string(text)
	}
	return out
}

// Long lines hide small changes in a diff, and no terminal shows them whole. A cell of a table that
// needs more is a paragraph below the table.
func TestDocumentsWrap(t *testing.T) {
	const limit = 100
	// Programs write the tables of these two, and one row is one result.
	written := map[string]bool{"docs/protocols.md": true, "docs/verified.md": true}
	for f, text := range documents(t) {
		line := 0
		for l := range strings.SplitSeq(text, "\n") {
			line++
			inTable := strings.HasPrefix(l, "|") || strings.HasPrefix(l, "Green on ")
			if n := utf8.RuneCountInString(l); n > limit && !(written[f] && inTable) {
				t.Errorf("%s:%d: %d columns, more than %d", f, line, n, limit)
			}
		}
	}
}

// A document that the map does not list is found by nobody.
func TestDocumentsAreListed(t *testing.T) {
	const index = "docs/README.md"
	docs := documents(t)
	listed := map[string]bool{index: true, "README.md": true}
	for _, target := range links(docs[index]) {
		listed[path.Join(path.Dir(index), target)] = true
	}
	for f := range docs {
		// The decisions have a page of their own that explains them.
		if !listed[f] && path.Dir(f) != "docs/adr" {
			t.Errorf("%s does not list %s", index, f)
		}
	}
}

// A link that leads nowhere says that the text around it is old, too.
func TestDocumentsLinkToFiles(t *testing.T) {
	for f, text := range documents(t) {
		for _, target := range links(text) {
			if _, err := os.Stat(filepath.Join(root, path.Dir(f), target)); err != nil {
				t.Errorf("%s: the link to %s leads nowhere", f, target)
			}
		}
	}
}

var link = regexp.MustCompile(`\]\(([^)#\s]+)[^)]*\)`)

// links returns the files to which a document links, relative to its folder.
func links(text string) []string {
	var out []string
	for _, m := range link.FindAllStringSubmatch(text, -1) {
		if !strings.Contains(m[1], "://") {
			out = append(out, m[1])
		}
	}
	return out
}

// The picture of the house is the first thing that a newcomer sees, so a part that is missing there
// is missed. It shows the folders at the top, and the packages of the parts that are read most.
func TestArchitectureShowsEveryPart(t *testing.T) {
	text := documents(t)["docs/architecture.md"]
	shown := []string{"adapter", "manager", "raftstore", "worker"}
	for _, p := range packages(t) {
		folder, rest, _ := strings.Cut(p.ImportPath, "/")
		name, _, nested := strings.Cut(rest, "/")
		if !underAny(folder, shown) || nested || strings.HasSuffix(name, "test") {
			name = ""
		}
		for _, word := range []string{folder, name} {
			if !regexp.MustCompile(`\b` + word + `\b`).MatchString(text) {
				t.Errorf("docs/architecture.md does not show %s of %s", word, p.ImportPath)
			}
		}
	}
}
