package table

import swarmv1 "swarm/proto/swarm/v1"

// The methods below stay until their callers use Rows.ByName: v.Services.ByName(name).

// ServiceByName returns the service with the name, ignoring case.
func (v *View) ServiceByName(name string) (*swarmv1.Service, bool) {
	return v.Services.ByName(name)
}

// NetworkByName returns the network with the name, ignoring case.
func (v *View) NetworkByName(name string) (*swarmv1.Network, bool) {
	return v.Networks.ByName(name)
}

// SecretByName returns the secret with the name. Case matters.
func (v *View) SecretByName(name string) (*swarmv1.Secret, bool) {
	return v.Secrets.ByName(name)
}

// ConfigByName returns the config with the name. Case matters.
func (v *View) ConfigByName(name string) (*swarmv1.Config, bool) {
	return v.Configs.ByName(name)
}

// ImageByName returns the image with the normalised name.
func (v *View) ImageByName(name string) (*swarmv1.Image, bool) {
	return v.Images.ByName(name)
}
