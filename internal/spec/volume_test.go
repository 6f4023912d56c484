package spec

import "testing"

func TestShownVolumeOptions(t *testing.T) {
	got := ShownVolumeOptions(map[string]string{"type": "cifs", "o": "username=u,password=secret,vers=3"})
	if got["o"] != "username=u,password=***,vers=3" || got["type"] != "cifs" {
		t.Errorf("got %v", got)
	}
}
