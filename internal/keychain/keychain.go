// Package keychain keeps a user's credentials for registries where Docker keeps them: in
// config.json, or in the credential helper that config.json names. `swarm login` and `docker login`
// therefore share their credentials.
//
// The package knows the members auths, credsStore and credHelpers of the file, and the protocol of
// the helpers. It does not change any other member, and never writes a file that it cannot read.
// Package cli calls it. It has no goroutines.
//
// The package does not use github.com/docker/cli/cli/config/configfile, because that package writes
// only the members it knows, and cannot read a file in which the credentials of one registry are
// damaged.
package keychain

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"

	"swarm/internal/durable"
)

// DockerHub is the key of Docker's own registry in the file.
const DockerHub = "https://index.docker.io/v1/"

// Credentials are a username and a password, or an identity token instead of both.
type Credentials struct {
	Username      string `json:"username,omitempty"`
	Password      string `json:"password,omitempty"`
	ServerAddress string `json:"serveraddress,omitempty"`
	IdentityToken string `json:"identitytoken,omitempty"`
}

// Header encodes the credentials as Docker's X-Registry-Auth.
func (c Credentials) Header() (string, error) {
	b, err := json.Marshal(c)
	return base64.URLEncoding.EncodeToString(b), err
}

// entry is the part of the file for one registry.
type entry struct {
	Auth          string `json:"auth,omitempty"`
	Username      string `json:"username,omitempty"`
	Password      string `json:"password,omitempty"`
	IdentityToken string `json:"identitytoken,omitempty"`
}

// File is Docker's config.json.
type File struct {
	path string
	// unreadable is true if this user may not read the file. The file must then not be replaced.
	unreadable bool
	members    map[string]json.RawMessage
	auths      map[string]entry
	store      string
	helpers    map[string]string
}

// Key returns the key of a registry in the file. host is the host in the names of its images; it
// may be empty, which means Docker Hub.
func Key(host string) string {
	switch host = Host(host); host {
	case "", "docker.io", "index.docker.io", "registry-1.docker.io":
		return DockerHub
	}
	return host
}

// Host returns the address of a registry without scheme and path.
func Host(address string) string {
	address = strings.TrimPrefix(strings.TrimPrefix(address, "https://"), "http://")
	host, _, _ := strings.Cut(address, "/")
	return host
}

// Open reads config.json in the folder dir. If the file does not exist, or if this user may not
// read it, Open returns a File without credentials. It does the same if dir is "", and Store then
// fails. Open returns errdefs.ErrInvalidArgument if the file is damaged.
func Open(dir string) (*File, error) {
	f := &File{path: filepath.Join(dir, "config.json"), members: map[string]json.RawMessage{}, auths: map[string]entry{}}
	if dir == "" {
		f.path = ""
		return f, nil
	}
	data, err := os.ReadFile(f.path)
	if f.unreadable = errors.Is(err, fs.ErrPermission); f.unreadable || errors.Is(err, fs.ErrNotExist) || err == nil && len(bytes.TrimSpace(data)) == 0 {
		return f, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &f.members)
	}
	for name, to := range map[string]any{"auths": &f.auths, "credsStore": &f.store, "credHelpers": &f.helpers} {
		if member, ok := f.members[name]; ok && err == nil {
			err = json.Unmarshal(member, to)
		}
	}
	if err != nil {
		return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("registry credentials in %s cannot be read (%v): correct the file, or remove it and log in again", f.path, err))
	}
	// A member that is null in the file has left a nil map.
	if f.auths == nil {
		f.auths = map[string]entry{}
	}
	if f.members == nil {
		f.members = map[string]json.RawMessage{}
	}
	return f, nil
}

// Path returns the path of the file. It is empty if there is no folder for the file.
func (f *File) Path() string { return f.path }

// Registries returns the keys in the file, sorted.
func (f *File) Registries() []string {
	return slices.Sorted(maps.Keys(f.auths))
}

// Helper returns the name of the credential helper of a registry. It is empty if the credentials
// are in the file itself.
func (f *File) Helper(key string) string {
	if h := f.helpers[key]; h != "" {
		return h
	}
	return f.store
}

// Find returns the credentials for a registry, or nil if there are none. Like Docker, it first asks
// the credential helper: the one for this registry if the file names one, or the general one. If
// the helper has no credentials, Find looks into the file: first under key, then under the other
// forms of the same host, such as "https://HOST/v1/". If the file has several of these forms, Find
// uses the first one in the order of Registries. (Docker's choice is random.) Find returns
// errdefs.ErrInvalidArgument if the credentials in the file are damaged, and the error of the
// helper if the helper fails.
func (f *File) Find(ctx context.Context, key string) (*Credentials, error) {
	if helper := f.Helper(key); helper != "" {
		if c, err := get(ctx, helper, key); err != nil || c != nil {
			return c, err
		}
	}
	e, ok := f.auths[key]
	if !ok {
		for _, name := range f.Registries() {
			if Host(name) == Host(key) {
				e = f.auths[name]
				break
			}
		}
	}
	c := &Credentials{Username: e.Username, Password: e.Password, IdentityToken: e.IdentityToken, ServerAddress: key}
	if e.Auth != "" {
		plain, err := base64.StdEncoding.DecodeString(e.Auth)
		user, password, ok := strings.Cut(strings.TrimRight(string(plain), "\x00"), ":")
		if err != nil || !ok {
			return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("registry credentials for %s in %s are damaged: log in again with `swarm login`", key, f.path))
		}
		c.Username, c.Password = user, password
	}
	if c.Username == "" && c.IdentityToken == "" {
		return nil, nil
	}
	return c, nil
}

// Store stores the credentials for a registry in its helper, or in the file if there is no helper.
// It returns errdefs.ErrFailedPrecondition if there is no folder for the file, ErrPermissionDenied
// if this user may not read the file, and the error of the helper if the helper fails.
func (f *File) Store(ctx context.Context, key string, c Credentials) error {
	if f.path == "" {
		return errdefs.ErrFailedPrecondition.WithMessage("there is no folder for credentials: set HOME or DOCKER_CONFIG")
	}
	if helper := f.Helper(key); helper != "" {
		if err := put(ctx, helper, key, c); err != nil {
			return err
		}
		f.auths[key] = entry{} // an empty entry, as Docker writes it, so that Registries has the key
		return f.write()
	}
	e := entry{IdentityToken: c.IdentityToken}
	if c.IdentityToken == "" || c.Username != "" {
		e.Auth = base64.StdEncoding.EncodeToString([]byte(c.Username + ":" + c.Password))
	}
	f.auths[key] = e
	return f.write()
}

// Erase removes the credentials for a registry from the file and from its helper. It reports
// whether there were any.
func (f *File) Erase(ctx context.Context, key string) (bool, error) {
	had := false
	for name := range f.auths {
		if Host(name) == Host(key) {
			delete(f.auths, name)
			had = true
		}
	}
	if helper := f.Helper(key); helper != "" {
		c, err := get(ctx, helper, key)
		if err != nil {
			return had, err
		}
		if c != nil {
			had = true
			if err := erase(ctx, helper, key); err != nil {
				return had, err
			}
		}
	}
	if !had {
		return false, nil
	}
	return true, f.write()
}

// write replaces the file. Only its owner may read it.
func (f *File) write() (err error) {
	if f.unreadable {
		return errdefs.ErrPermissionDenied.WithMessage(fmt.Sprintf("registry credentials in %s may not be read: make the file yours, or name another folder with DOCKER_CONFIG", f.path))
	}
	auths, err := json.Marshal(f.auths)
	if err != nil {
		return err
	}
	f.members["auths"] = auths
	data, err := json.MarshalIndent(f.members, "", "\t")
	if err != nil {
		return err
	}
	path := f.path
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target // replace the file and not the link, which some users have there
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("write registry credentials to %s: %w", f.path, err)
		}
	}()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	// With sudo, the file must still belong to the user afterwards. If root owned it, the user
	// could no longer read his logins.
	return durable.WriteFileAsOwner(path, append(data, '\n'), 0o600)
}
