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

// maxTokenFile is the largest size of a file with a join token, in bytes. A token has about 90.
const maxTokenFile = 4 << 10

// readToken returns the join token that --token and --token-file name. The value "-" of either
// means standard input.
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

// readTokenFile returns the text of a file. It warns if other users may read the file, because the
// token lets a host into the cluster.
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
	// Other users cannot open a pipe, such as that of a shell's <(command).
	if mode := info.Mode(); mode.IsRegular() && mode.Perm()&0o077 != 0 {
		deps.Warn([]string{fmt.Sprintf("other users of this host may read the join token in %s (mode %04o): run `chmod 600 %s`, and rotate the token if one of them may have", path, mode.Perm(), path)})
	}
	text, err := readShort(f)
	if err != nil {
		return "", fmt.Errorf("read the join token in %s: %w", path, err)
	}
	return text, nil
}

// readShort reads all of r, and refuses more than maxTokenFile bytes.
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
