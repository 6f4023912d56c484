package rules

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// A claim about security without a test is a hope. docs/security.md names the test of each, and a
// test that was renamed or removed takes its claim along.
func TestSecurityClaimsHaveTests(t *testing.T) {
	page, err := os.ReadFile(filepath.Join(root, "docs/security.md"))
	if err != nil {
		t.Fatal(err)
	}
	var code strings.Builder
	for _, f := range tracked(t, "*_test.go") {
		text, err := os.ReadFile(filepath.Join(root, f))
		if err != nil {
			t.Fatal(err)
		}
		code.Write(text)
	}
	named := regexp.MustCompile("`((?:Test|Fuzz)\\w+)(?:/([\\w']+))?`").FindAllStringSubmatch(string(page), -1)
	if len(named) < 40 {
		t.Errorf("docs/security.md names %d tests: the pattern of this test is wrong", len(named))
	}
	for _, m := range named {
		test, part := m[1], m[2]
		if !strings.Contains(code.String(), "func "+test+"(") {
			t.Errorf("docs/security.md names %s, which is no test", test)
		}
		if part != "" && !strings.Contains(code.String(), `"`+strings.ReplaceAll(part, "_", " ")+`"`) {
			t.Errorf("docs/security.md names %s/%s, and no subtest has that name", test, part)
		}
	}
}
