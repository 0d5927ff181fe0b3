"""The machine and the disk: config, run folder, checkpoints, metrics, devices, processes."""
