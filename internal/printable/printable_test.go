package printable

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestLine(t *testing.T) {
	for in, want := range map[string]string{
		"":                      "",
		"plain, grün, 日本, 🙂":    "plain, grün, 日本, 🙂",
		"\x1b[31mred\x1b[0m":    `\x1b[31mred\x1b[0m`,
		"\x1b]0;title\x07":      `\x1b]0;title\x07`,
		"two\nlines\r\tand":     `two\nlines\r\tand`,
		"\x00\x7f":              `\x00\u007f`,
		"\u009b2J\u0080":        `\u009b2J\u0080`,
		"a\u202eb\u2066c\u2069": `a\u202eb\u2066c\u2069`,
		"\xff\xc3(":             `\xff\xc3(`,
		"\ufffd":                "\ufffd",
	} {
		if got := Line(in); got != want {
			t.Errorf("Line(%q): got %q, want %q", in, got, want)
		}
	}
}

func TestWriter(t *testing.T) {
	for in, want := range map[string]string{
		"a\tb\nc\r\n":       "a\tb\nc\r\n",
		"50%\r100%\n":       `50%\r100%` + "\n",
		"\r\r\n":            `\r` + "\r\n",
		"\x1b[2J\u009b\xe2": `\x1b[2J\u009b\xe2`,
		"日本\xe6\x97":        `日本\xe6\x97`,
		"end\r":             `end\r`,
	} {
		for size := 1; size <= len(in); size++ { // in pieces of every size
			var got bytes.Buffer
			w := NewWriter(&got)
			for rest := in; rest != ""; {
				n := min(size, len(rest))
				if m, err := w.Write([]byte(rest[:n])); err != nil || m != n {
					t.Fatalf("write: %d, %v", m, err)
				}
				rest = rest[n:]
			}
			if err := w.Flush(); err != nil || got.String() != want {
				t.Errorf("%q by %d bytes: got %q, %v, want %q", in, size, got.String(), err, want)
			}
		}
	}
}

// JSON has the same meaning after it passes a Writer.
func TestWriter_KeepsJSON(t *testing.T) {
	for _, s := range []string{"\x1b[31m\x00", "\u007f\u009b\u202e\u2066", "\xff", "日本"} {
		in, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		var want, got string
		if err := json.Unmarshal(in, &want); err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		if _, err := NewWriter(&out).Write(in); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(out.Bytes(), &got); err != nil || got != want {
			t.Errorf("%s: got %q, %v, want %q", out.Bytes(), got, err, want)
		}
	}
}

// FuzzWriter writes arbitrary bytes in arbitrary pieces. The output must be safe text, and Line
// must return one line.
func FuzzWriter(f *testing.F) {
	for _, s := range []string{"plain\n", "\x1b[31mred\u009b2J\u202e\xff\r\n\r", "日本\xe6"} {
		f.Add([]byte(s), 1)
	}
	f.Fuzz(func(t *testing.T, in []byte, cut int) {
		var out bytes.Buffer
		w := NewWriter(&out)
		at := 0
		if len(in) > 0 {
			at = int(uint(cut) % uint(len(in)))
		}
		for _, part := range [][]byte{in[:at], in[at:]} {
			if _, err := w.Write(part); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Flush(); err != nil {
			t.Fatal(err)
		}
		text := strings.NewReplacer("\r\n", "", "\n", "", "\t", "").Replace(out.String())
		line := Line(string(in))
		for _, s := range []string{text, line} {
			if !utf8.ValidString(s) || strings.ContainsFunc(s, isUnsafe) {
				t.Errorf("%q: got %q", in, s)
			}
		}
	})
}
