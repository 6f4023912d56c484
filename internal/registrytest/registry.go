// Package registrytest is a real registry for tests: the field's own (distribution), in this process, without storage
// that outlasts it. With users it wants a login. It is imported by tests and by the scenarios' registry program alone:
// the product does not link it. Its goroutines are the application's own and end with the context.
package registrytest

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"

	"github.com/distribution/distribution/v3/configuration"
	_ "github.com/distribution/distribution/v3/registry/auth/htpasswd" // the kind of login
	"github.com/distribution/distribution/v3/registry/handlers"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/inmemory" // where blobs are kept
	"github.com/sirupsen/logrus"
	"golang.org/x/crypto/bcrypt"
)

// New makes a registry. dir is a folder for the list of users, which are names and their passwords; none: whoever asks is
// served.
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
	logrus.SetOutput(io.Discard) // the application logs to the global logger
	return handlers.NewApp(ctx, cfg), nil
}

// writeUsers writes what htpasswd -B does.
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
