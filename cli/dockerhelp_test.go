package cli_test

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

// dockerGroups are the commands of docker that docs/differences-from-docker.md accounts for, each
// with its subcommands. The empty name is docker itself, with the flags of the whole program.
var dockerGroups = []string{
	"", "swarm", "node", "service", "secret", "config", "volume", "network", "image", "system",
	"events", "info", "login", "logout", "stats", "cp", "exec", "attach", "logs", "top",
}

// dockerCommand is what docker's help says of one command.
type dockerCommand struct {
	path    string // without "docker"
	usage   string // the arguments
	aliases []string
	flags   []*pflag.Flag // DefValue is empty if the help names no default
}

// recordDocker runs the help of program, a docker command line, and returns the file that
// readDocker reads. The help needs no daemon.
func recordDocker(t *testing.T, program string) string {
	t.Helper()
	version := strings.TrimSpace(dockerOutput(t, program, "--version"))
	var b strings.Builder
	fmt.Fprintf(&b, "# What the help of %q says.\n", version)
	b.WriteString("# go test ./cli -run TestDifferences -docker docker -update records it anew.\n")
	for _, group := range dockerGroups {
		recordCommand(t, &b, program, group)
	}
	return b.String()
}

func dockerOutput(t *testing.T, program string, args ...string) string {
	t.Helper()
	c := exec.Command(program, args...)
	c.Env = append(os.Environ(), "COLUMNS=80", "DOCKER_HOST=unix:///nonexistent/docker.sock")
	out, err := c.Output()
	if err != nil {
		t.Fatalf("%s %s: %v", program, strings.Join(args, " "), err)
	}
	return string(out)
}

var (
	helpFlag    = regexp.MustCompile(`^ +(?:-(\w), |    )--([\w-]+)(?: (\S+))?(?:   *(.*))?$`)
	helpCommand = regexp.MustCompile(`^  ([a-z-]+)\*? +\S`)
	helpDefault = regexp.MustCompile(`\(default (?:"([^"]*)"|([^ )]*))\)$`)
)

func recordCommand(t *testing.T, b *strings.Builder, program, path string) {
	t.Helper()
	out := dockerOutput(t, program, append(strings.Fields(path), "--help")...)
	name := strings.TrimSpace("docker " + path)
	var subs, texts []string
	section := ""
	for line := range strings.Lines(out) {
		line = strings.TrimRight(line, "\n ")
		if strings.HasPrefix(line, "Usage:") {
			usage := strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(strings.TrimPrefix(line, "Usage:")), name))
			fmt.Fprintf(b, "\n%s\n", strings.TrimSpace(name+" "+usage))
			continue
		}
		if strings.HasSuffix(line, ":") && !strings.HasPrefix(line, " ") {
			section = strings.TrimSuffix(line, ":")
			continue
		}
		if section == "Aliases" && line != "" {
			fmt.Fprintf(b, "  aliases: %s\n", strings.TrimSpace(line))
		}
		if m := helpCommand.FindStringSubmatch(line); m != nil && strings.HasSuffix(section, "Commands") {
			subs = append(subs, m[1])
		}
		if !strings.HasSuffix(section, "Options") {
			continue
		}
		if m := helpFlag.FindStringSubmatch(line); m != nil {
			short := ""
			if m[1] != "" {
				short = "-" + m[1] + ", "
			}
			texts = append(texts, strings.TrimSpace("  "+short+"--"+m[2]+" "+m[3])+"\x00"+m[4])
		} else if n := len(texts); n > 0 && line != "" {
			texts[n-1] += " " + strings.TrimSpace(line)
		}
	}
	for _, text := range texts {
		head, about, _ := strings.Cut(text, "\x00")
		if m := helpDefault.FindStringSubmatch(about); m != nil && !strings.Contains(m[0], "/root/") && m[1]+m[2] != "map[]" && m[1]+m[2] != "[]" {
			head += " = " + m[1] + m[2]
		}
		fmt.Fprintf(b, "  %s\n", head)
	}
	if path != "" {
		for _, sub := range subs {
			recordCommand(t, b, program, path+" "+sub)
		}
	}
}

var recordedFlag = regexp.MustCompile(`^  (?:-(\w), )?--([\w-]+)(?: ([^= ]\S*))?(?: = (.*))?$`)

// readDocker parses the file that recordDocker wrote.
func readDocker(t *testing.T, file string) []*dockerCommand {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var all []*dockerCommand
	for line := range strings.Lines(string(text)) {
		line = strings.TrimRight(line, "\n")
		aliases, isAliases := strings.CutPrefix(line, "  aliases: ")
		m := recordedFlag.FindStringSubmatch(line)
		switch {
		case line == "" || strings.HasPrefix(line, "#"):
		case isAliases:
			all[len(all)-1].aliases = strings.Split(aliases, ", ")
		case m != nil:
			c := all[len(all)-1]
			c.flags = append(c.flags, &pflag.Flag{Shorthand: m[1], Name: m[2], Usage: m[3], DefValue: m[4]})
		case strings.HasPrefix(line, "docker"):
			path, usage := splitUsage(line)
			all = append(all, &dockerCommand{path: path, usage: usage})
		default:
			t.Fatalf("%s: cannot read the line %q", file, line)
		}
	}
	return all
}

// splitUsage separates the words of a command from its arguments: the former are in small letters.
func splitUsage(line string) (path, usage string) {
	words := strings.Fields(line)[1:]
	n := 0
	for n < len(words) && words[n] == strings.ToLower(words[n]) && !strings.ContainsAny(words[n], "[|") {
		n++
	}
	return strings.Join(words[:n], " "), strings.Join(words[n:], " ")
}
