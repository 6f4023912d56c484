package cluster

import (
	"fmt"
	"io"
	"os"
	"strings"

	"swarm/cli/command"
	"swarm/cli/usage"
	"swarm/internal/pki"
)

// maxTokenFile bounds what is read in search of a join token, which has about 90 characters.
const maxTokenFile = 4 << 10

// readToken is the join token that the flags --token and --token-file name. "-" is standard input
// in both.
func readToken(deps *command.Deps, token, file string) (string, error) {
	switch {
	case token != "" && file != "":
		return "", usage.Invalidf("--token and --token-file are both given: use one of them")
	case token == "" && file == "":
		return "", usage.Invalidf("a join token is missing: print one with `swarm join-token worker` or `swarm join-token manager` on a manager, and give it with --token, or with --token-file")
	case token == "-" || file == "-":
		text, err := readShort(deps.In)
		if err != nil {
			return "", fmt.Errorf("read the join token from standard input: %w", err)
		}
		token = text
	case file != "":
		text, err := readTokenFile(deps, file)
		if err != nil {
			return "", err
		}
		token = text
	}
	token = strings.TrimSpace(token)
	if _, err := pki.ParseToken(token); err != nil {
		return "", err
	}
	return token, nil
}

// readTokenFile warns of a file that others may read: the token in it lets a host into the swarm.
func readTokenFile(deps *command.Deps, path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("read the join token: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", fmt.Errorf("read the join token: %w", err)
	}
	// A pipe, as of a shell's <(command), is nobody else's.
	if mode := info.Mode(); mode.IsRegular() && mode.Perm()&0o077 != 0 {
		deps.Warn([]string{fmt.Sprintf("other users of this host may read the join token in %s (mode %04o): run `chmod 600 %s`, and rotate the token if one of them may have", path, mode.Perm(), path)})
	}
	text, err := readShort(f)
	if err != nil {
		return "", fmt.Errorf("read the join token in %s: %w", path, err)
	}
	return text, nil
}

// readShort reads all there is, and refuses more than a token can be.
func readShort(r io.Reader) (string, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxTokenFile+1))
	if err != nil {
		return "", err
	}
	if len(data) > maxTokenFile {
		return "", usage.Invalidf("it has more than %d bytes, which is no join token", maxTokenFile)
	}
	return string(data), nil
}
