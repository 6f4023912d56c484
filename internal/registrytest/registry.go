// Package registrytest runs a real image registry for tests: the distribution registry, in this
// process, with its data in memory. It requires a login if it has users. Only tests and the
// registry program of the scenarios import it; the product does not link it. Its goroutines belong
// to the registry and end with the context.
package registrytest

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"

	"github.com/distribution/distribution/v3/configuration"
	_ "github.com/distribution/distribution/v3/registry/auth/htpasswd" // the login method
	"github.com/distribution/distribution/v3/registry/handlers"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/inmemory" // the storage of blobs
	"github.com/sirupsen/logrus"
	"golang.org/x/crypto/bcrypt"
)

// New makes a registry. users maps user names to passwords; dir is a folder for the file with them.
// Without users, the registry needs no login.
func New(ctx context.Context, dir string, users map[string]string) (http.Handler, error) {
	cfg := &configuration.Configuration{
		Storage: configuration.Storage{"inmemory": nil, "delete": {"enabled": true}},
	}
	cfg.HTTP.Secret = "of tests"
	cfg.Log.AccessLog.Disabled = true
	cfg.Log.Level = "error"
	if len(users) > 0 {
		path := filepath.Join(dir, "htpasswd")
		if err := writeUsers(path, users); err != nil {
			return nil, err
		}
		cfg.Auth = configuration.Auth{"htpasswd": {"realm": "test", "path": path}}
	}
	logrus.SetOutput(io.Discard) // the registry logs to the global logger
	return handlers.NewApp(ctx, cfg), nil
}

// writeUsers writes the users as htpasswd -B does.
func writeUsers(path string, users map[string]string) error {
	var text []byte
	for name, password := range users {
		hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
		if err != nil {
			return fmt.Errorf("password of %s: %w", name, err)
		}
		text = fmt.Appendf(text, "%s:%s\n", name, hash)
	}
	return os.WriteFile(path, text, 0o600)
}
