"""What a site has to offer, measured on its login node: its Slurm, its disks, and what a launch there would lack."""
