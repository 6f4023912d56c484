package tasks

import swarmv1 "swarm/proto/swarm/v1"

// withVolumes returns a revision whose mounts have the driver options of the volumes on a file
// server that they name. A mount with options of its own keeps these. The names of the mounts have
// been expanded. It returns rev itself if no mount names such a volume.
func (r *Runner) withVolumes(rev *swarmv1.Revision) *swarmv1.Revision {
	out := rev
	for i, m := range rev.GetSpec().GetTaskTemplate().GetContainerSpec().GetMounts() {
		if m.GetType() != swarmv1.Mount_VOLUME || len(m.GetVolumeOptions().GetDriverConfig().GetOptions()) > 0 {
			continue
		}
		v := r.deps.Objects.Get(swarmv1.AssignmentRef_VOLUME, m.GetSource()).GetVolume()
		if v == nil {
			continue
		}
		if out == rev {
			out = rev.CloneVT() // The assigned revision is read-only.
		}
		made := out.Spec.TaskTemplate.ContainerSpec.Mounts[i]
		if made.VolumeOptions == nil {
			made.VolumeOptions = &swarmv1.VolumeOptions{}
		}
		made.VolumeOptions.DriverConfig, made.VolumeOptions.Labels = v.GetDriver(), v.GetLabels()
	}
	return out
}
