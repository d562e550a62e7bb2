"""Run log, trackers, loss spikes and gradient conflict."""
